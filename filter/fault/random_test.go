package fault

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/boifi/hfi/schema"
)

// TestKnownAnswers checks that the high 32 bits of the first numbers from state 1234567 are
// those of other implementations.
func TestKnownAnswers(t *testing.T) {
	r := Random{state: 1234567}
	for i, want := range []uint64{3540625527, 2750739987, 4037983143, 1993361440, 3809424708} {
		if got := r.next() >> 32; got != want {
			t.Errorf("number %d is %d, want %d", i, got, want)
		}
	}
}

// before returns a generator with the given next number. It inverts each step of next.
func before(number uint64) *Random {
	inverse := uint64(multiplier)
	for range 6 { // Newton's iteration doubles the bits that are right.
		inverse *= 2 - multiplier*inverse
	}
	x := number * inverse
	x = undo(x, func(y uint64) uint64 { return y >> 27 })
	x = undo(x, func(y uint64) uint64 { return y << 25 })
	x = undo(x, func(y uint64) uint64 { return y >> 12 })
	return &Random{state: x}
}

// undo returns y for x = y ^ shift(y).
func undo(x uint64, shift func(uint64) uint64) uint64 {
	y := x
	for range 64 {
		y = x ^ shift(y)
	}
	return y
}

func TestBefore(t *testing.T) {
	for range 1000 {
		want := rand.Uint64() | 1
		if got := before(want).next(); got != want {
			t.Fatalf("the number is %d, want %d", got, want)
		}
	}
}

// TestDrawIsExact checks that every outcome has the same number of words, that the remaining
// words are not used, and that a draw hits for the lowest p outcomes. So a percentage is
// exact to one part per million.
func TestDrawIsExact(t *testing.T) {
	const words = 1 << 32
	if accepted%uint64(draws) != 0 || words-accepted >= uint64(draws) {
		t.Fatalf("%d words, of which %d are accepted, for %d outcomes", uint64(words), accepted, draws)
	}
	for _, p := range []schema.Percentage{1, 2, 500_000, 999_998, 999_999} {
		for _, outcome := range []uint64{0, 1, 2, 499_999, 500_000, 999_997, 999_998, 999_999} {
			for _, round := range []uint64{0, 1, 2147, accepted/uint64(draws) - 1} {
				word := round*uint64(draws) + outcome
				r := before(word<<32 | 12345)
				after := *r
				after.next()
				if got, want := r.Draw(p), outcome < uint64(p); got != want {
					t.Errorf("word %d draws %v for %d parts per million, want %v", word, got, p, want)
				}
				if *r != after {
					t.Errorf("word %d is accepted, but more numbers were used", word)
				}
			}
		}
	}
}

// TestDrawRejects checks that words from accepted on are rejected. A plain remainder would
// use them and favour small outcomes.
func TestDrawRejects(t *testing.T) {
	for _, word := range []uint64{accepted, accepted + 1, accepted + uint64(draws)/2, 1<<32 - 1} {
		for low := range uint64(50) {
			r := before(word<<32 | low<<7 | 1)
			second := *r
			second.next()
			want := uint32(second.next() >> 32)
			if uint64(want) >= accepted {
				continue
			}
			if got := r.outcome(); got != want%draws {
				t.Errorf("after word %d the next is %d, but the outcome is %d", word, want, got)
			}
			if *r != second {
				t.Errorf("word %d was used", word)
			}
		}
	}
}

func TestDrawAtTheEnds(t *testing.T) {
	r := NewRandom(7)
	start := *r
	for range 1000 {
		if r.Draw(0) || r.Draw(-1) || !r.Draw(schema.All) || !r.Draw(schema.All+1) {
			t.Fatal("a share of 0 hit, or a share of all did not")
		}
	}
	if *r != start {
		t.Error("a certain draw used a number")
	}
}

// TestSeeds checks that different seeds, including 0 and adjacent ones, start different
// sequences, none of which is constant.
func TestSeeds(t *testing.T) {
	unmixed := uint64(0)
	unmixed -= 0x9e3779b97f4a7c15 // This seed would be mixed to state 0.
	seen := map[uint64]uint64{}
	seeds := []uint64{unmixed, math.MaxUint64, 1 << 32, 1 << 63}
	for seed := range uint64(10_000) {
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		r := NewRandom(seed)
		for range 4 {
			number := r.next()
			if other, ok := seen[number]; ok || number == 0 {
				t.Fatalf("seed %d gives number %d, as seed %d does", seed, number, other)
			}
			seen[number] = seed
		}
	}
	// The first draws of adjacent seeds are random too.
	const count = 200_000
	hits := 0
	for seed := range uint64(count) {
		if NewRandom(seed).Draw(300_000) {
			hits++
		}
	}
	within(t, "first draws of neighbouring seeds", hits, count, 0.3)
}

// within fails if hits of count differ from a rate by more than six standard deviations,
// which happens by chance twice in 10^9 runs.
func within(t *testing.T, what string, hits, count int, rate float64) {
	t.Helper()
	mean := float64(count) * rate
	if z := (float64(hits) - mean) / math.Sqrt(mean*(1-rate)); math.Abs(z) > 6 {
		t.Errorf("%s: %d hits of %d, want %.0f (z = %.1f)", what, hits, count, mean, z)
	}
}

// uniform fails if counts are not equal within a bound that is exceeded by chance once in
// 10^9 runs (Wilson and Hilferty's approximation, z = 6).
func uniform(t *testing.T, what string, counts []int) {
	t.Helper()
	total := 0
	for _, count := range counts {
		total += count
	}
	mean := float64(total) / float64(len(counts))
	chi2 := 0.0
	for _, count := range counts {
		chi2 += (float64(count) - mean) * (float64(count) - mean) / mean
	}
	freedom := float64(len(counts) - 1)
	spread := 2 / (9 * freedom)
	if z := (math.Cbrt(chi2/freedom) - (1 - spread)) / math.Sqrt(spread); math.Abs(z) > 6 {
		t.Errorf("%s: chi-square is %.0f for %.0f degrees of freedom (z = %.1f)", what, chi2, freedom, z)
	}
}

// someSeeds returns fixed and random seeds.
func someSeeds() []uint64 {
	return []uint64{0, 1, 2, math.MaxUint64, rand.Uint64(), rand.Uint64(), rand.Uint64()}
}

func TestDistribution(t *testing.T) {
	const count = 1_000_000
	for _, seed := range someSeeds() {
		r := NewRandom(seed)
		coarse, fine := make([]int, 1000), make([]int, 1000)
		for range count {
			outcome := r.outcome()
			coarse[outcome/1000]++
			fine[outcome%1000]++
		}
		uniform(t, "outcomes by thousands", coarse)
		uniform(t, "outcomes by their last digits", fine)
		for between := range 4 {
			pairs := make([]int, 32*32)
			for range count / 4 {
				first := r.outcome() * 32 / draws
				for range between {
					r.outcome()
				}
				pairs[first*32+r.outcome()*32/draws]++
			}
			uniform(t, fmt.Sprintf("pairs of outcomes with %d between them", between), pairs)
		}
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

func TestRates(t *testing.T) {
	const count = 1_000_000
	for _, seed := range someSeeds() {
		r := NewRandom(seed)
		for _, p := range []schema.Percentage{1_000, 10_000, 125_000, 300_000, 500_000, 999_000} {
			rate := float64(p) / float64(schema.All)
			hits := 0
			for range count {
				if r.Draw(p) {
					hits++
				}
			}
			within(t, "draws", hits, count, rate)
		}
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
}

// TestStreamsAreIndependent checks that half of the bits of adjacent seeds' sequences differ.
func TestStreamsAreIndependent(t *testing.T) {
	const count = 100_000
	for _, seed := range someSeeds() {
		a, b := NewRandom(seed), NewRandom(seed+1)
		differ := 0
		for range count {
			differ += bits.OnesCount32(uint32(a.next()>>32) ^ uint32(b.next()>>32))
		}
		within(t, "bits that differ", differ, 32*count, 0.5)
	}
}
