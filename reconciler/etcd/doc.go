// Package etcd keeps published policies in etcd: reconciler.Store and
// reconciler.Term on etcd's client, and the server that is embedded by
// default.
//
// A Store follows everything under its prefix with one watch, into a cache in
// memory that changes by whole revisions of etcd. Only when the cache is at
// the revision at which the head was written, and the policies in it have the
// head's digest, do they become the verified state. So half a publication, left
// by a crash, or another writer's change is never served, and a leader that
// publishes learns from the same cache, at the head's own revision, whether
// etcd holds what it wrote.
//
// What a store concludes from etcd is decided in one place, the tracker: a pure
// state machine that takes events and returns effects. One goroutine of the
// store owns it; the others read etcd, watch it, probe it and write to it.
//
// Keys under the prefix:
//
//	policies/NAME         a policy's canonical JSON
//	origins/XX            where the policies of bucket XX (schema.BucketOf, two hexadecimal digits) were written
//	head                  commit, digest, count and time of what is published
//	epoch                 the epoch: which incarnation of etcd's data this is
//	epoch-floor           the number of a later epoch, announced by a replica that knows it
//	status                the leader's report
//	history/NNNNNNNNNNNN  attempts to apply commits, by ascending number
//	leader/LEASE          candidates for the leadership, by their lease in hexadecimal; the oldest leads
//	term                  the leader's ID and the create revision of its key: the first that a replica writes which leads
//	publishing            exists while the leader is between the transactions of one publication
//	trigger               written to ask the leader to read git
//	replicas/ID           the URL of a replica, for its peers
//
// A policy that was not published is drift. Any other key is ignored.
package etcd
