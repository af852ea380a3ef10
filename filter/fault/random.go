package fault

import "github.com/boifi/hfi/schema"

// Random is the generator xorshift64*, with the constants of Sebastiano
// Vigna, "An experimental exploration of Marsaglia's xorshift generators,
// scrambled" (ACM TOMS 42:4, 2016). Its period is 2^64-1. It is not suitable for
// cryptography, and not safe for concurrent use.
type Random struct {
	// state is never 0, from which the generator would produce only zeros.
	state uint64
}

const (
	multiplier = 2685821657736338717
	// draws is the number of equally likely outcomes of one draw: a
	// schema.Percentage counts how many of them are hits.
	draws = uint32(schema.All)
	// accepted is the largest multiple of draws in 32 bits. Words from accepted on
	// are rejected, so that every outcome has the same number of words. A plain
	// remainder would be biased.
	accepted = (1 << 32) / uint64(draws) * uint64(draws)
)

// NewRandom returns a generator with a seed, which may be any number including 0.
// Similar seeds give unrelated sequences.
func NewRandom(seed uint64) *Random {
	// The mix is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast
	// splittable pseudorandom number generators", OOPSLA 2014). It maps every seed
	// to a different state.
	z := seed + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	if z == 0 {
		z = multiplier
	}
	return &Random{state: z}
}

// next returns the next number. Its high bits have the best quality.
func (r *Random) next() uint64 {
	r.state ^= r.state >> 12
	r.state ^= r.state << 25
	r.state ^= r.state >> 27
	return r.state * multiplier
}

// Draw returns true with a probability of exactly p parts per million, if the
// generator's words are equally likely. It does not use the generator if p is 0 or
// less, or schema.All or more.
func (r *Random) Draw(p schema.Percentage) bool {
	if p <= 0 {
		return false
	}
	if p >= schema.All {
		return true
	}
	return r.outcome() < uint32(p)
}

// outcome returns a uniformly distributed number from 0 to draws-1.
func (r *Random) outcome() uint32 {
	for {
		word := uint32(r.next() >> 32)
		if uint64(word) < accepted {
			return word % draws
		}
	}
}
