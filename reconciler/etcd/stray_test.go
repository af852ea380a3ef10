package etcd

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/etcdtest"
)

// A stranger's key where candidates stand, without a lease, would never go
// away. It must not keep anyone from leading.
func TestAStrayCandidateHoldsNobodyUp(t *testing.T) {
	server := etcdtest.Start(t)
	server.Ctl("put", "/hfi/leader/00", "stranger")
	campaign(t, openStore(t, externalStore("a", server.Endpoint)))
	if left := server.Ctl("get", "--prefix", "--keys-only", "/hfi/leader/"); strings.Contains(left, "/hfi/leader/00") {
		t.Errorf("the stranger's key is still there: %s", left)
	}
}
