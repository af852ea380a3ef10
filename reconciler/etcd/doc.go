// Package etcd keeps published policies in etcd: reconciler.Store and
// reconciler.Term on etcd's client, and the server that is embedded by
// default.
//
// A Store follows everything under its prefix by one watch into a mirror in
// memory. The mirror changes by whole revisions of etcd. When it stands at
// the very revision at which the head was written, and the policies that it
// holds have the head's digest, they become the State; at no other moment.
// So a publication that a crash cut in two, or a stranger's write, is never
// taken up, and whoever publishes learns from the same mirror, at the head's
// own revision, whether what was written is what etcd holds.
//
// Keys under the prefix:
//
//	policies/NAME         a policy's canonical JSON
//	origins/XX            where the policies of bucket XX (schema.BucketOf, two hexadecimal digits) were written
//	head                  commit, digest, count and time of what is published
//	epoch                 which life of the store's data this is
//	epoch-floor           the highest epoch that some replica has known, when that is more than epoch says
//	status                the leader's findings
//	history/NNNNNNNNNNNN  attempts to apply commits, by ascending number
//	leader/…              candidates for leadership, the oldest of which leads
//	publishing            there while a leader is between the transactions of one publication
//	trigger               written to ask the leader to look at git
//
// Every other key is a stranger's: under policies/ it is drift, elsewhere it
// is passed over.
package etcd
