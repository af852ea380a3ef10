package schema_test

import (
	"fmt"
	"log"

	"github.com/boifi/hfi/schema"
)

func ExampleParse() {
	policy, err := schema.Parse([]byte(`{
		"metadata": {"name": "frontend-delay"},
		"spec": {
			"selector": {"service": "frontend", "namespace": "demo"},
			"rules": [{"fault": {"delay_ms": 500, "percentage": 50}}]
		}
	}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(policy.Metadata.Name, "selects", policy.Spec.Selector.Service, "in", policy.Spec.Selector.Namespace)
	fmt.Println("delays:", policy.HasDelay(), "aborts:", policy.HasAbort())
	// Output:
	// frontend-delay selects frontend in demo
	// delays: true aborts: false
}

// What was left out is written out: the selector matches every workload, and
// the fault concerns every request.
func ExamplePolicy_Canonical() {
	policy, err := schema.Parse([]byte(`{"spec": {"rules": [{"fault": {"abort": {"status": 503}}}]}, "metadata": {"name": "outage"}}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", policy.Canonical())
	// Output:
	// {"metadata":{"name":"outage"},"spec":{"selector":{"service":"*","namespace":"*"},"rules":[{"fault":{"percentage":100,"abort":{"status":503}}}]}}
}

// A digest is one of meaning: neither the order of the policies counts nor
// how each is written.
func ExampleSet_Digest() {
	entry := func(text string) *schema.Entry {
		policy, err := schema.Parse([]byte(text))
		if err != nil {
			log.Fatal(err)
		}
		return schema.NewEntry(policy, schema.Origin{})
	}
	outage := entry(`{"metadata": {"name": "outage"}, "spec": {"rules": [{"fault": {"abort": {"status": 503}}}]}}`)
	slow := entry(`{"metadata": {"name": "slow"}, "spec": {"rules": [{"fault": {"delay_ms": 500}}]}}`)
	rewritten := entry(`{"spec": {"rules": [{"fault": {"percentage": 100.0, "delay_ms": 500}}]}, "metadata": {"name": "slow"}}`)

	set := schema.NewSet(outage, slow)
	fmt.Println(set.Digest())
	fmt.Println(set.Digest() == schema.NewSet(rewritten, outage).Digest())
	// Output:
	// v1:b4f7e3acb1c33c9d14a76b7df61c24405d1dbdc7480f795b916a7f5f0103970e
	// true
}

func ExampleDiff() {
	entry := func(name string, delay int) *schema.Entry {
		policy := &schema.Policy{
			Metadata: schema.Metadata{Name: name},
			Spec:     schema.Spec{Rules: []schema.Rule{{Fault: schema.Fault{Percentage: schema.All, DelayMS: int64(delay)}}}},
		}
		return schema.NewEntry(policy, schema.Origin{})
	}
	before := schema.NewSet(entry("cart", 100), entry("checkout", 200))
	after := before.With([]*schema.Entry{entry("cart", 300), entry("payment", 50)}, []string{"checkout"})
	for _, change := range schema.Diff(before, after) {
		switch {
		case change.Old == nil:
			fmt.Println("added", change.Name)
		case change.New == nil:
			fmt.Println("removed", change.Name)
		default:
			fmt.Println("changed", change.Name)
		}
	}
	// Unordered output:
	// changed cart
	// removed checkout
	// added payment
}
