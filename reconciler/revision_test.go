package reconciler_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/boifi/hfi/reconciler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func revision(epoch int64, id string, number int64) reconciler.Revision {
	return reconciler.Revision{Epoch: reconciler.Epoch{Number: epoch, ID: id}, Number: number}
}

// Order is by epoch, then by etcd's revision; of two epochs with the same number
// neither is older.
func TestRevisionOrder(t *testing.T) {
	for _, test := range []struct {
		a, b   reconciler.Revision
		before bool
	}{
		{revision(1, "x", 5), revision(1, "x", 6), true},
		{revision(1, "x", 6), revision(1, "x", 5), false},
		{revision(1, "x", 5), revision(1, "x", 5), false},
		{revision(1, "x", 900), revision(2, "y", 1), true},
		{revision(2, "y", 1), revision(1, "x", 900), false},
		{revision(1, "x", 5), revision(1, "y", 6), false},
		{revision(1, "y", 6), revision(1, "x", 5), false},
		{reconciler.Revision{}, revision(1, "x", 1), true},
	} {
		if got := test.a.Before(test.b); got != test.before {
			t.Errorf("%v before %v is %v", test.a, test.b, got)
		}
	}
}

func TestParseRevision(t *testing.T) {
	for _, good := range []reconciler.Revision{revision(1, "abc", 5), revision(0, "x", 0), revision(12, "a.b-c", 1<<62)} {
		if got, err := reconciler.ParseRevision(good.String()); err != nil || got != good {
			t.Errorf("%q gives %v, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "1", "1-", "1-x", "1-x.", "1-x.y", "1-x.-1", "x-1.1", "1-x.1y", "1-x.1 2", "1-x.1\n", " 1-x.1", "1-.1", "+1-x.1", "1-x.+1", "1-x.99999999999999999999", "-1-x.5", "01-x.1", strings.Repeat("9", 1000)} {
		if got, err := reconciler.ParseRevision(bad); err == nil {
			t.Errorf("%q is parsed as %v", bad, got)
		}
	}
}

// Any text a client sends as its revision is one that String could have written,
// or an error.
func FuzzParseRevision(f *testing.F) {
	for _, seed := range []string{"1-abc.5", "1-a.b.7", "9-x.-1", "", "1-x.1 ", "１-x.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := reconciler.ParseRevision(text)
		if err != nil {
			return
		}
		if r.String() != text {
			t.Errorf("%q is parsed as %v", text, r)
		}
		if r.Before(r) || r.Number < 0 || r.Epoch.Number < 0 {
			t.Errorf("%q gives an impossible revision %+v", text, r)
		}
	})
}
