package etcd

import clientv3 "go.etcd.io/etcd/client/v3"

// fence is the condition of every write of a leader: its leader key still
// exists, and is the one that it was elected with. etcd checks it in the
// transaction itself: once another replica leads, a delayed write changes
// nothing, however long it was delayed.
func fence(leaderKey string, createRevision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(leaderKey), "=", createRevision)
}
