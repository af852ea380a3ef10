package fault_test

import (
	"fmt"
	"log"
	"time"

	"github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// request is one that came in at noon.
type request struct {
	method, path string
	headers      map[string]string
}

func (r request) Method() string { return r.method }
func (r request) Path() string   { return r.path }
func (r request) Now() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }
func (r request) Header(name string) (string, bool) {
	value, found := r.headers[name]
	return value, found
}

func ExampleDecide() {
	policy, err := schema.Parse([]byte(`{
		"metadata": {"name": "checkout-outage"},
		"spec": {"rules": [{
			"match": {"methods": ["POST"], "path": {"prefix": "/checkout"}},
			"fault": {"delay_ms": 200, "abort": {"status": 503, "body": "try again later"}}
		}]}
	}`))
	if err != nil {
		log.Fatal(err)
	}
	// The daemon compiles and encodes the policies of a workload.
	var compiler program.Compiler
	compiled, err := compiler.Compile(policy)
	if err != nil {
		log.Fatal(err)
	}
	encoded, err := program.Encode([]*program.Compiled{compiled})
	if err != nil {
		log.Fatal(err)
	}
	// The filter reads the program, and decides on each request.
	frontend, err := program.Read(encoded, selection.Workload{Service: "frontend", Namespace: "demo"})
	if err != nil {
		log.Fatal(err)
	}
	random, limits := fault.NewRandom(42), fault.Limits{MaxDelay: time.Minute}

	decision := fault.Decide(frontend, request{method: "POST", path: "/checkout/pay?currency=EUR"}, random, limits, nil)
	fmt.Println(decision.Delay, decision.Abort.Status, string(decision.Abort.Body), "by", decision.AbortPolicy)

	decision = fault.Decide(frontend, request{method: "GET", path: "/checkout"}, random, limits, nil)
	fmt.Println(decision.Delay, decision.Abort == nil)
	// Output:
	// 200ms 503 try again later by checkout-outage
	// 0s true
}

// A share of requests is drawn for each: of many it is close to what the
// policy says, and the same seed draws the same.
func ExampleRandom_Draw() {
	random, hits := fault.NewRandom(1), 0
	const quarter = schema.All / 4
	for range 100_000 {
		if random.Draw(quarter) {
			hits++
		}
	}
	fmt.Println(hits > 24_000 && hits < 26_000)
	// Output: true
}
