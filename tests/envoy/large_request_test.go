package envoy

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// The filter reads a request's data into a buffer of four KiB, and allocates memory
//
// for what does not fit: the values must not overlap. The rule reads a path and two
// headers of about that size, and compares each completely.
func TestLargeRequestsAreMatchedCompletely(t *testing.T) {
	w := mesh(t)
	w.push(t, aborting("large", `{path: {regex: "/a+"}, headers: [{name: x-b, regex: "b+,B+"}, {name: x-c, regex: "c+d"}]}`))
	c, text := client(t, false), strings.Repeat
	for _, size := range []int{2, 100, 1364, 1365, 1366, 2047, 2048, 2049, 4094, 4095, 4096, 4097, 6000} {
		for last, want := range map[string]int{"d": 418, "c": 200} {
			answer, err := c.Do(context.Background(), envoytest.Request{
				URL: w.envoys["frontend-1"].URL() + "/" + text("a", size-1),
				Header: http.Header{
					"X-B": {text("b", size), text("B", size)},
					"X-C": {text("c", size-1) + last},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status != want {
				t.Errorf("values of %d bytes, the last ending with %q: status %d, want %d", size, last, answer.Status, want)
			}
		}
	}
}
