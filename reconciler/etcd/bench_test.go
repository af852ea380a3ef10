package etcd

import (
	"fmt"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

func BenchmarkPublishCold(b *testing.B) {
	set := policies(b, 10_000, 1)
	empty := schema.NewSet()
	s := openStore(b, embeddedStore(b, b.TempDir()))
	term := campaign(b, s)
	for b.Loop() {
		publish(b, term, publication("c1", set))
		b.StopTimer()
		publish(b, term, publication("c0", empty))
		b.StartTimer()
	}
}

func BenchmarkPublishOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := openStore(b, embeddedStore(b, b.TempDir()))
			term := campaign(b, s)
			set := policies(b, n, 1)
			publish(b, term, publication("c1", set))
			for i := 0; b.Loop(); i++ {
				set = set.With([]*schema.Entry{policy(b, fmt.Sprintf("p%05d", i%n), i+2)}, nil)
				publish(b, term, publication("c2", set))
			}
		})
	}
}

func BenchmarkForeignPutToDriftSeen(b *testing.B) {
	s := openStore(b, embeddedStore(b, b.TempDir()))
	term := campaign(b, s)
	set := policies(b, 10_000, 1)
	publish(b, term, publication("c1", set))
	for b.Loop() {
		if _, err := s.etcd().Put(testContext(b), "/hfi/policies/foreign", "x"); err != nil {
			b.Fatal(err)
		}
		for s.View().Drift.Status != api.DriftDetected {
			<-s.Changed()
		}
		b.StopTimer()
		publish(b, term, reconciler.Publication{Commit: "c1", Set: set})
		b.StartTimer()
	}
}
