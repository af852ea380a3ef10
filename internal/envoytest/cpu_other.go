//go:build !linux

package envoytest

import (
	"errors"
	"time"
)

// CPU returns an error: it is read on Linux only.
func (e *Envoy) CPU() (time.Duration, error) {
	return 0, errors.New("the processor time of Envoy is read on Linux only")
}
