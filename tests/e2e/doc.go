// Package e2e tests hfid and hfi as users run them: the built programs, with stock
// git, etcd and etcdctl. HTTP responses are checked by the field names in their
// JSON, as a user of curl sees them. It has tests only.
package e2e
