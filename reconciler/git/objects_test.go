package git

import (
	"errors"
	"strings"
	"testing"

	"github.com/boifi/hfi/schema"
)

// A file larger than the limit is not read, loose or packed. The error has its size.
func TestTooLargeToRead(t *testing.T) {
	repo, head := pushed(t, map[string]string{"policies/large.yaml": strings.Repeat("0123456789", 10_000)})
	for _, state := range []string{"loose", "packed"} {
		t.Run(state, func(t *testing.T) {
			if state == "packed" {
				repo.Server("gc", "-q")
			}
			delta, err := open(t, repo.Bare(), "policies").Delta(t.Context(), "", head)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = delta.Close() }()
			var large *schema.TooLarge
			if text, err := delta.Files[0].Read(t.Context(), 99_999); !errors.As(err, &large) || large.Size != 100_000 {
				t.Errorf("read %d bytes, with the error %v", len(text), err)
			}
			if text, err := delta.Files[0].Read(t.Context(), 100_000); err != nil || len(text) != 100_000 {
				t.Errorf("read %d bytes, with the error %v", len(text), err)
			}
		})
	}
}
