package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/etcd"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/http"
	"github.com/boifi/hfi/reconciler/served"
)

// The daemon listens before it opens etcd: a webhook that comes in between is
// accepted, and the status says which etcd it is and that it has not answered.
func TestRequestsBeforeEtcdIsOpen(t *testing.T) {
	for mode, configure := range map[api.EtcdMode]func(*etcd.Store){
		api.Embedded: func(s *etcd.Store) { s.Embedded = etcd.NewEmbedded(t.TempDir(), slog.New(slog.DiscardHandler)) },
		api.External: func(s *etcd.Store) { s.Access.Endpoints = []string{"http://127.0.0.1:1"} },
	} {
		t.Run(string(mode), func(t *testing.T) {
			store := etcd.New(etcd.DefaultPrefix, "a", slog.New(slog.DiscardHandler))
			store.RequestTimeout = 100 * time.Millisecond
			configure(store)
			loop := reconciler.New(nil, nil, store, nil, nil)
			policies := served.New()
			filters := fleet.New("a", policies)
			filters.Replicas = store.Replicas
			service := http.New(loop, policies, filters)
			server := httptest.NewServer(service.Handler())
			defer server.Close()

			for _, path := range []string{"/v1/reconcile", "/v1/webhook"} {
				answer, err := server.Client().Post(server.URL+path, "application/json", nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = answer.Body.Close()
				if answer.StatusCode != 202 {
					t.Errorf("%s answers %s", path, answer.Status)
				}
			}
			answer, err := server.Client().Get(server.URL + "/v1/status")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var status api.Status
			if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
				t.Fatal(err)
			}
			if e := status.Etcd; e.Mode != mode || e.Healthy || e.Error == "" || status.Sync.Status != api.Unknown {
				t.Errorf("etcd is %+v, sync %s", e, status.Sync.Status)
			}
			// Shutdown waits for the triggers, which use the store.
			if err := service.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Errorf("closing a store that was never opened: %v", err)
			}
		})
	}
}
