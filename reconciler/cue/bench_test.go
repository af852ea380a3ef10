package cue

import (
	"context"
	"fmt"
	"testing"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// BenchmarkApplyCold validates 10,000 new small YAML files, as a cold start does.
// cue vet takes 6.9 s for the same files.
func BenchmarkApplyCold(b *testing.B) {
	files := manyPolicies(10_000)
	for b.Loop() {
		apply(b, New("policies"), commit("c1", "", files...))
	}
}

// BenchmarkApplyOne changes one file among many.
func BenchmarkApplyOne(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := New("policies")
			apply(b, w, commit("c0", "", manyPolicies(count)...))
			base, n := "c0", 0
			for b.Loop() {
				n++
				next := fmt.Sprint("c", n)
				apply(b, w, commit(next, base, content("policies/p7.yaml", small("p7", n%1000+1))))
				base = next
			}
		})
	}
}

// BenchmarkApplyPackage changes one CUE package among 100. Each change starts a
// child process.
func BenchmarkApplyPackage(b *testing.B) {
	files := []schema.File{content("cue.mod/module.cue", testModule)}
	for i := range 100 {
		files = append(files, content(fmt.Sprintf("policies/p%d/p.cue", i), fmt.Sprintf(smallPackage, i, 1)))
	}
	w := New("policies")
	apply(b, w, commit("c0", "", files...))
	base, n := "c0", 0
	for b.Loop() {
		n++
		next := fmt.Sprint("c", n)
		apply(b, w, commit(next, base, content("policies/p7/p.cue", fmt.Sprintf(smallPackage, 7, n%1000+1))))
		base = next
	}
}

const smallPackage = `package p

import "github.com/boifi/hfi/schema"

policies: schema.#Policies
policies: "p%d": spec: rules: [{fault: delay_ms: %d}]
`

func manyPolicies(count int) []schema.File {
	files := make([]schema.File, count)
	for i := range files {
		name := fmt.Sprintf("p%d", i)
		files[i] = content("policies/"+name+".yaml", small(name, i%1000+1))
	}
	return files
}

func small(name string, delay int) string {
	return fmt.Sprintf(`metadata:
  name: %s
spec:
  selector:
    service: frontend
    namespace: demo
  rules:
    - fault:
        delay_ms: %d
        percentage: 50
`, name, delay)
}

func apply(t testing.TB, w *Workspace, delta *reconciler.Delta) *schema.Verdict {
	t.Helper()
	verdict, err := w.Apply(context.Background(), delta)
	if err != nil {
		t.Fatalf("no verdict: %v", err)
	}
	return verdict
}

// BenchmarkApplyLimits does the same with limits: for all files, and for one of them.
func BenchmarkApplyLimits(b *testing.B) {
	files := append(manyPolicies(10_000), content(limitsPath, limited["a delay"]))
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			apply(b, New("policies"), commit("c1", "", files...))
		}
	})
	b.Run("one", func(b *testing.B) {
		w := New("policies")
		apply(b, w, commit("c0", "", files...))
		base, n := "c0", 0
		for b.Loop() {
			n++
			next := fmt.Sprint("c", n)
			apply(b, w, commit(next, base, content("policies/p7.yaml", small("p7", n%1000+1))))
			base = next
		}
	})
}
