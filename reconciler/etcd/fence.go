package etcd

import clientv3 "go.etcd.io/etcd/client/v3"

// fence is the condition of every write that a leader makes: its key of
// candidature still exists, and is the one that it was elected with. etcd
// checks it in the transaction itself, so whatever time has passed since the
// leader last looked, once another leads it changes nothing.
func fence(leaderKey string, createRevision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(leaderKey), "=", createRevision)
}
