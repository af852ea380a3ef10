package testtool

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ready := func() error {
			if time.Since(began) < 30*time.Second {
				return errors.New("it is early")
			}
			return nil
		}
		if took := Within(t, time.Minute, "ready", ready); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("it took %s", took)
		}
		began = time.Now()
		err := Poll(10*time.Second, ready)
		if err == nil || !strings.Contains(err.Error(), "not within 10s: it is early") || time.Since(began) < 10*time.Second || time.Since(began) > 11*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// A process that did not run within the limit still checks once after it.
func TestPollLooksAfterTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		err := Poll(time.Second, func() error {
			if looks++; looks == 1 {
				time.Sleep(time.Hour)
				return errors.New("it is early")
			}
			return nil
		})
		if err != nil || looks != 2 {
			t.Errorf("%d looks: %v", looks, err)
		}
	})
}

func TestThroughoutLooksToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, last := time.Now(), time.Duration(0)
		Throughout(t, time.Second, "nothing happens", func() error { last = time.Since(began); return nil })
		if last < time.Second || last > 2*time.Second {
			t.Errorf("the last check was after %s", last)
		}
	})
}
