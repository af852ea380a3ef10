package settings

import (
	"errors"
	"math"
	"math/bits"
	"strings"
	"time"
)

var (
	errNoDuration = errors.New("is not a duration such as 10m or 600")
	errTooLong    = errors.New("is too long")
)

// Duration returns a String in Go's format of durations, or a Number of seconds. The
// error is the end of a sentence that begins with the value.
func (v Value) Duration() (time.Duration, error) {
	switch v.Kind {
	case String:
		return parseDuration(v.Text)
	case Number:
		return nanoseconds(v.JSON)
	}
	return 0, errNoDuration
}

// units are the units of Go's format.
var units = [...]struct {
	name string
	unit time.Duration
}{
	// A name that begins with another one is before it.
	{"ns", time.Nanosecond}, {"us", time.Microsecond}, {"µs", time.Microsecond}, {"μs", time.Microsecond}, {"ms", time.Millisecond},
	{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour},
}

// parseDuration is time.ParseDuration, which would make the module larger because of its
// errors.
func parseDuration(text string) (time.Duration, error) {
	text, negative := sign(text)
	if text == "0" {
		return 0, nil
	}
	if text == "" {
		return 0, errNoDuration
	}
	var sum time.Duration
	for text != "" {
		whole, rest := digits(text)
		fraction := ""
		if strings.HasPrefix(rest, ".") {
			fraction, rest = digits(rest[1:])
		}
		if whole == "" && fraction == "" {
			return 0, errNoDuration
		}
		var unit time.Duration
		for _, u := range units {
			if strings.HasPrefix(rest, u.name) {
				unit, text = u.unit, rest[len(u.name):]
				break
			}
		}
		if unit == 0 {
			return 0, errNoDuration
		}
		part, ok := multiply(whole, fraction, unit)
		if sum += part; !ok || sum < 0 {
			return 0, errTooLong
		}
	}
	if negative {
		sum = -sum
	}
	return sum, nil
}

// sign splits a sign from a number.
func sign(text string) (rest string, negative bool) {
	if strings.HasPrefix(text, "-") {
		return text[1:], true
	}
	return strings.TrimPrefix(text, "+"), false
}

// digits splits the digits from the start of a text.
func digits(text string) (found, rest string) {
	n := 0
	for n < len(text) && '0' <= text[n] && text[n] <= '9' {
		n++
	}
	return text[:n], text[n:]
}

// multiply returns a decimal number times a unit, without what is left of a nanosecond.
func multiply(whole, fraction string, unit time.Duration) (product time.Duration, ok bool) {
	for i := range len(whole) {
		if product > math.MaxInt64/10 {
			return 0, false
		}
		if product = product*10 + time.Duration(whole[i]-'0'); product < 0 {
			return 0, false
		}
	}
	if product > math.MaxInt64/unit {
		return 0, false
	}
	product *= unit
	// A multiple of a nanosecond has fewer decimals in any unit.
	const most = 18
	fraction = fraction[:min(len(fraction), most)]
	var n, scale uint64 = 0, 1
	for i := range len(fraction) {
		n, scale = n*10+uint64(fraction[i]-'0'), scale*10
	}
	high, low := bits.Mul64(n, uint64(unit))
	nanoseconds, _ := bits.Div64(high, low, scale)
	product += time.Duration(nanoseconds)
	return product, product >= 0
}

// nanoseconds converts a JSON number of seconds. It computes in integers: conversions of
// floating-point numbers would add more to the module than the rest of this package.
func nanoseconds(number string) (time.Duration, error) {
	number, negative := sign(number)
	whole, rest := digits(number)
	fraction, exponent := "", 0
	if strings.HasPrefix(rest, ".") {
		fraction, rest = digits(rest[1:])
	}
	if rest != "" { // e or E
		exponent = smallInteger(rest[1:])
	}
	digits := whole + fraction
	for strings.HasPrefix(digits, "0") {
		digits = digits[1:]
	}
	if digits == "" {
		return 0, nil
	}
	// How many digits are before the decimal point of the nanoseconds. This also counts
	// zeros that follow the digits given.
	count := len(digits) - len(fraction) + exponent + 9
	var d time.Duration
	for i := range max(count, 0) {
		if d > math.MaxInt64/10 {
			return 0, errTooLong
		}
		d *= 10
		if i < len(digits) {
			d += time.Duration(digits[i] - '0')
		}
		if d < 0 {
			return 0, errTooLong
		}
	}
	if negative {
		d = -d
	}
	return d, nil
}

// smallInteger converts an exponent. One beyond a million becomes a million: the
// configuration has fewer digits that it could move.
func smallInteger(text string) (n int) {
	text, negative := sign(text)
	for i := range len(text) {
		n = min(n*10+int(text[i]-'0'), 1_000_000)
	}
	if negative {
		n = -n
	}
	return n
}
