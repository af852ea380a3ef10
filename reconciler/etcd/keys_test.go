package etcd

import (
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/reconciler"
)

// An epoch whose ID no leader makes is none: the ID is part of every revision,
// which goes into headers.
func TestEpochIDsAreBounded(t *testing.T) {
	signer := signer{prefix: "/hfi/", keys: testKeys}
	for id, want := range map[string]bool{
		"0a1b2c3d": true, "x": true, "restored-Backup-2": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\nb": false, "a.b": false, "a\"b": false, "é": false,
	} {
		if key := signer.decodeEpoch(&mvccpb.KeyValue{Value: []byte(signer.encodeEpoch(reconciler.Epoch{Number: 1, ID: id}))}); key.valid != want {
			t.Errorf("the epoch ID %q: valid is %v", id, key.valid)
		}
	}
}
