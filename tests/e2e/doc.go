// Package e2e holds hfid and hfi as they are run by their users: the built
// programs, stock git pushing, stock etcd and etcdctl, and HTTP answers read
// by the names that a curl user sees. It has tests only.
package e2e
