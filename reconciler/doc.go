// Package reconciler makes what is served agree with a branch of a git
// repository. It is the domain: it knows the order of the steps (commit,
// verdict, publication, verified state, snapshot) and no dependency; packages
// below it adapt git, etcd and HTTP to its interfaces.
package reconciler
