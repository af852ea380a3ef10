package selection_test

import (
	"fmt"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

func ExampleMatches() {
	frontend := selection.Workload{Service: "frontend", Namespace: "demo"}
	for _, selector := range []schema.Selector{
		{Service: "frontend", Namespace: "demo"},
		{Service: "frontend"},
		{Service: schema.Any, Namespace: "prod"},
	} {
		fmt.Printf("%+v: %t\n", selector, selection.Matches(selector, frontend))
	}
	// A workload that does not know what it is gets only what all get.
	fmt.Println(selection.Matches(schema.Selector{Service: "frontend"}, selection.Workload{}))
	// Output:
	// {Service:frontend Namespace:demo Gateway:}: true
	// {Service:frontend Namespace: Gateway:}: true
	// {Service:* Namespace:prod Gateway:}: false
	// false
}

// An index finds a workload's policies without a look at those of others, and
// tells whom a change concerns.
func ExampleIndex() {
	entry := func(name, service string) *schema.Entry {
		return schema.NewEntry(&schema.Policy{
			Metadata: schema.Metadata{Name: name},
			Spec: schema.Spec{
				Selector: schema.Selector{Service: service, Namespace: schema.Any},
				Rules:    []schema.Rule{{Fault: schema.Fault{Percentage: schema.All, DelayMS: 100}}},
			},
		}, schema.Origin{})
	}
	empty := schema.NewSet()
	set := empty.With([]*schema.Entry{entry("cart-delay", "cart"), entry("everywhere", schema.Any)}, nil)
	index, _ := new(selection.Index).Apply(schema.Diff(empty, set))
	for _, found := range index.Select(selection.Workload{Service: "cart", Namespace: "demo"}) {
		fmt.Println(found.Name())
	}

	next := set.With(nil, []string{"cart-delay"})
	index, concerned := index.Apply(schema.Diff(set, next))
	fmt.Println(concerned, len(index.Select(selection.Workload{Service: "cart"})))
	// Output:
	// cart-delay
	// everywhere
	// [{ * } {cart * }] 1
}
