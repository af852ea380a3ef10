package settings

import (
	"errors"
	"math"
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
		d, err := time.ParseDuration(v.Text)
		if err != nil {
			return 0, errNoDuration
		}
		return d, nil
	case Number:
		return nanoseconds(v.JSON)
	}
	return 0, errNoDuration
}

// nanoseconds converts a JSON number of seconds. It computes in integers: conversions of
// floating-point numbers would add more to the module than the rest of this package.
func nanoseconds(number string) (time.Duration, error) {
	number, negative := strings.CutPrefix(number, "-")
	mantissa, exponent := number, 0
	if at := strings.IndexAny(number, "eE"); at >= 0 {
		mantissa, exponent = number[:at], smallInteger(number[at+1:])
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
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
	text, negative := strings.CutPrefix(strings.TrimPrefix(text, "+"), "-")
	for i := range len(text) {
		n = min(n*10+int(text[i]-'0'), 1_000_000)
	}
	if negative {
		n = -n
	}
	return n
}
