package fault

import "github.com/boifi/hfi/schema"

// Random is the generator xorshift64*, with the constants of Sebastiano
// Vigna, "An experimental exploration of Marsaglia's xorshift generators,
// scrambled" (ACM TOMS 42:4, 2016). Its period is 2^64-1. It is neither safe
// for secrets nor for use by several goroutines.
type Random struct {
	// state is never 0, which the generator could not leave.
	state uint64
}

const (
	multiplier = 2685821657736338717
	// draws is the number of equally likely outcomes of one draw: a
	// schema.Percentage counts how many of them are hits.
	draws = uint32(schema.All)
	// accepted is the largest multiple of draws that a word of 32 bits can
	// count to. Words from there on are thrown away: each outcome has as
	// many words as every other, which a plain remainder would not give.
	accepted = (1 << 32) / uint64(draws) * uint64(draws)
)

// NewRandom is a generator started from a seed, which may be any number, 0
// included. Seeds that lie close together start generators that do not.
func NewRandom(seed uint64) *Random {
	// The mix is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast
	// splittable pseudorandom number generators", OOPSLA 2014). It gives
	// every seed a state of its own.
	z := seed + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	if z == 0 {
		z = multiplier
	}
	return &Random{state: z}
}

// next is the generator's next number. Its high bits are the better ones.
func (r *Random) next() uint64 {
	r.state ^= r.state >> 12
	r.state ^= r.state << 25
	r.state ^= r.state >> 27
	return r.state * multiplier
}

// Draw hits with a probability of exactly p parts per million, as far as the
// generator's words are equally likely. With a p of 0 or less, or of
// schema.All or more, it takes no number from the generator.
func (r *Random) Draw(p schema.Percentage) bool {
	if p <= 0 {
		return false
	}
	if p >= schema.All {
		return true
	}
	return r.outcome() < uint32(p)
}

// outcome is a number from 0 to draws-1, each as likely as every other.
func (r *Random) outcome() uint32 {
	for {
		word := uint32(r.next() >> 32)
		if uint64(word) < accepted {
			return word % draws
		}
	}
}
