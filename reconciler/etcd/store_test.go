package etcd

import (
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Without any etcd installed a publication is verified, and a restart serves it from the embedded one.
func TestEmbeddedStorePublishesAndServesAfterARestart(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	s := embeddedStore(t, folder)
	openStore(t, s)
	term := campaign(t, s)
	first := publish(t, term, publication("c1", policies(t, 10, 100)))
	second := publish(t, term, publication("c2", policies(t, 12, 200)))
	if !first.Revision.Before(second.Revision) {
		t.Errorf("revision %s is not before %s", first.Revision, second.Revision)
	}
	if drift := s.View().Drift; drift.Status == api.DriftDetected {
		t.Errorf("drift after a publication: %+v", drift)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	again := embeddedStore(t, folder)
	again.Known = second.Revision
	began := time.Now()
	openStore(t, again)
	eventually(t, "the state is there after a restart", func() bool { return again.View().State != nil })
	t.Logf("state after %s", time.Since(began))
	if state := again.View().State; state.Revision != second.Revision || state.Set.Digest() != second.Set.Digest() {
		t.Errorf("after a restart: %s %s, want %s", state.Revision, state.Head.Commit, second.Revision)
	}
	if history := again.View().History; len(history) != 2 || history[0].Commit != "c2" || history[1].Commit != "c1" {
		t.Errorf("history: %+v", history)
	}
}

// A daemon answers requests before it opens its store: the store's methods
// answer, and a trigger waits for etcd.
func TestAStoreAnswersBeforeItIsOpen(t *testing.T) {
	t.Parallel()
	s := embeddedStore(t, t.TempDir())
	s.RequestTimeout = waitLimit
	if health := s.View().Health; health.Mode != api.Embedded || health.Healthy || health.Error == "" || health.Endpoints == nil {
		t.Errorf("health before Open: %+v", health)
	}
	if drift := s.View().Drift; drift.Status != api.DriftUnknown {
		t.Errorf("drift before Open: %+v", drift)
	}
	ctx, triggered, asked := testContext(t), make(chan error, 1), make(chan struct{})
	go func() { triggered <- s.Trigger(ctx) }()
	go func() {
		defer close(asked)
		for !s.View().Health.Healthy && s.ctx.Err() == nil {
			_, _ = s.View(), s.Leader()
			_ = s.Replicas()
			time.Sleep(time.Millisecond) // others need the processor too
		}
	}()
	openStore(t, s)
	if err := <-triggered; err != nil {
		t.Errorf("a trigger from before Open: %v", err)
	}
	<-asked
	if health := s.View().Health; len(health.Endpoints) != 1 {
		t.Errorf("health once etcd answers: %+v", health)
	}
}
