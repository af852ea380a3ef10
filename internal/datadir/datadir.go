// Package datadir is the daemon's data folder: its layout, its lock, and
// atomic replacement of the files in it.
package datadir

import "path/filepath"

// Folder is the path of a data folder. Each entry has one owner, named here.
type Folder string

// Git is the folder with reconciler/git's copies of a remote repository.
func (f Folder) Git() string { return f.entry("git") }

// LastGood is the folder with reconciler/lastgood's journal.
func (f Folder) LastGood() string { return f.entry("last-good") }

// Etcd is the folder with the embedded etcd server's data.
func (f Folder) Etcd() string { return f.entry("etcd") }

// EtcdAddress is the file with the embedded etcd server's client address,
// HOST:PORT and a newline. It exists while the server runs.
func (f Folder) EtcdAddress() string { return f.entry("etcd-client-address") }

// EtcdLease is the file with the ID, in hex, of the etcd lease under which
// this process leads. It exists while the process leads.
func (f Folder) EtcdLease() string { return f.entry("etcd-lease") }

// StateKey is internal/statekey's file with the key of a daemon with an embedded
// etcd.
func (f Folder) StateKey() string { return f.entry("state-key") }

func (f Folder) lock() string { return f.entry("lock") }

func (f Folder) entry(name string) string { return filepath.Join(string(f), name) }
