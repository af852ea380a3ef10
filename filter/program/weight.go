//go:build !wasm

package program

// Weight is what policies take of the limits of a program. Those of several policies add up
// to an upper bound for their program: what they share counts for each of them.
type Weight struct {
	size, rules, items, expressions, expressionsSize int
}

// Plus returns the weight of policies together.
func (w Weight) Plus(other Weight) Weight {
	return Weight{
		w.size + other.size, w.rules + other.rules, w.items + other.items,
		w.expressions + other.expressions, w.expressionsSize + other.expressionsSize,
	}
}

// Minus returns the weight without that of other, which must be included.
func (w Weight) Minus(other Weight) Weight {
	return Weight{
		w.size - other.size, w.rules - other.rules, w.items - other.items,
		w.expressions - other.expressions, w.expressionsSize - other.expressionsSize,
	}
}

// Size returns an upper bound of the length of the encoded program, in bytes.
func (w Weight) Size() int { return w.size }

// Exceeds reports whether Encode may refuse the policies. If not, it does not.
func (w Weight) Exceeds() bool {
	return w.size > MaxSize || w.rules > MaxRules || w.items > MaxItems ||
		w.expressions > MaxExpressions || w.expressionsSize > MaxExpressionsSize
}

// In a program of many policies, numbers take more bytes than in that of one, and there is
// an index.
const (
	moreForPolicy    = 16
	moreForRule      = 24
	moreForCondition = 4
)

// weigh returns the error of Encode for the policy alone.
func weigh(policy *Compiled) (Weight, error) {
	_, w, err := encodeAndWeigh([]*Compiled{policy})
	if err != nil {
		return Weight{}, err
	}
	w.size += moreForPolicy
	for i := range policy.rules {
		rule := &policy.rules[i]
		// The index has each rule under one key.
		key := len(rule.Path.Value)
		for _, header := range rule.headers {
			key = max(key, len(header.text.Value))
		}
		w.size += key + moreForRule + moreForCondition*(1+len(rule.headers))
	}
	return w, nil
}
