package etcd

import (
	"strings"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// verified reports whether a set, read at the head's own revision, is the one
// that the head describes. No other set is ever served.
func verified(head reconciler.Head, set *schema.Set) bool {
	return head.Digest == set.Digest() && head.Count == set.Len()
}

// comparableDigest reports whether a digest is of the version that this program computes.
func comparableDigest(digest schema.Digest) bool {
	return strings.HasPrefix(string(digest), schema.DigestVersion+":")
}
