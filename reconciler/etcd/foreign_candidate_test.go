package etcd

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/etcdtest"
)

// A key without a lease under leader/, which no candidate writes, does not
// prevent an election.
func TestAForeignCandidateDoesNotBlockElections(t *testing.T) {
	server := etcdtest.Start(t)
	server.Ctl("put", "/hfi/leader/00", "foreign")
	campaign(t, openStore(t, externalStore("a", server.Endpoint)))
	if left := server.Ctl("get", "--prefix", "--keys-only", "/hfi/leader/"); strings.Contains(left, "/hfi/leader/00") {
		t.Errorf("the foreign key is still there: %s", left)
	}
}
