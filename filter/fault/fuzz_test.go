package fault

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// FuzzDecide compares decisions with the reference for any policies and requests.
func FuzzDecide(f *testing.F) {
	for i, row := range matchTable {
		text := fmt.Sprintf(`[{"metadata": {"name": "a"}, "spec": {"rules": [{"match": %s, "fault": {"abort": {"status": 503}}}]}}]`, row.match)
		name, value := "x-user", "ann"
		for name, value = range row.request.headers {
		}
		f.Add([]byte(text), row.request.method, row.request.path, name, value, int64(i%3))
	}
	f.Add([]byte(`[{"metadata": {"name": "b"}, "spec": {"dry_run": true, "rules": [{"fault": {"delay_ms": 5}}]}},
		{"metadata": {"name": "a"}, "spec": {"expires_at": "2027-01-31T12:00:00Z", "rules": [{"fault": {"percentage": 0, "abort": {"grpc_status": 14}}}]}},
		{"metadata": {"name": "c"}, "spec": {"rules": [{"match": {"path": {"regex": "("}}, "fault": {"delay_ms": -1}}, {"fault": null}]}}]`),
		"GET", "/", "x-user", "", int64(0))
	f.Fuzz(func(t *testing.T, text []byte, method, path, name, value string, limit int64) {
		var each []json.RawMessage
		if json.Unmarshal(text, &each) != nil {
			return
		}
		var policies []*schema.Policy
		names := map[string]bool{}
		for _, one := range each {
			p, err := schema.Parse(one)
			if err != nil {
				continue
			}
			name := p.Metadata.Name
			if names[name] || strings.HasPrefix(name, "nobody") || strings.HasPrefix(name, "x-") {
				continue
			}
			names[name] = true
			for i := range p.Spec.Rules {
				fault := &p.Spec.Rules[i].Fault
				if fault.Percentage = fault.Percentage / 500_000 * 500_000; fault.Percentage > 0 {
					fault.Percentage = schema.All
				}
				// The reference does not handle delays that overflow.
				fault.DelayMS = min(fault.DelayMS, 1<<40)
			}
			policies = append(policies, p)
		}
		request := get(path, name, value)
		request.method, request.now = method, someMoment
		limits := Limits{MaxDelay: time.Duration(limit)}
		agree(t, policies, limits, request)
		agree(t, append(filler(t), policies...), limits, request)
	})
}

func FuzzDraw(f *testing.F) {
	f.Add(uint64(0), int32(0))
	f.Add(uint64(1), int32(1_000_000))
	f.Add(uint64(1)<<63, int32(-5))
	f.Fuzz(func(t *testing.T, seed uint64, share int32) {
		r := NewRandom(seed)
		for range 100 {
			if got := r.Draw(schema.Percentage(share)); got && share <= 0 || !got && share >= int32(schema.All) {
				t.Fatalf("seed %d draws %v for %d parts per million", seed, got, share)
			}
			if r.state == 0 || r.outcome() >= draws {
				t.Fatalf("seed %d reaches state %d", seed, r.state)
			}
		}
	})
}
