// Package statekey authenticates what replicas keep where others can write,
// in etcd and on disk, by keys that the replicas share and those others do not
// have.
//
// A key file has one key a line, in base64; blank lines and lines that begin
// with # are ignored. The first key signs, and all verify. So a key is replaced
// without a stop: add the new one, put it first, remove the old one, each in
// the files of all replicas before the next step.
package statekey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync/atomic"
)

// Purpose says what a signature is for. What is signed for one purpose does
// not verify for another.
type Purpose string

// Signature authenticates a record, of which it is a part.
type Signature struct {
	// KeyID says which key signed. It reveals nothing of the key.
	KeyID string `json:"key_id,omitempty"`
	// MAC is an HMAC-SHA-256.
	MAC []byte `json:"mac,omitempty"`
}

// The errors of Verify. They are what an operator has to know: only that of
// ErrOtherKey may have an innocent cause.
var (
	ErrUnsigned = errors.New("it is not signed")
	ErrOtherKey = errors.New("it is signed with another key: all replicas need the same --state-key-file")
	ErrMismatch = errors.New("its signature is not that of its content")
)

// Keys are the keys of this replica. They may be used by several goroutines.
type Keys struct {
	// path is empty for keys that are not from a file; create says that the file
	// is written again when it is gone.
	path    string
	create  bool
	current atomic.Pointer[ring]
}

// ring is what a key file contains: the keys, in order. It never changes.
type ring struct{ keys []key }

type key struct {
	secret []byte
	id     string
}

// None returns keys that sign nothing and verify everything, for those who
// trust everyone who can write to etcd.
func None() *Keys { return withKeys() }

// Random returns a new key that no other replica has.
func Random() *Keys { return withKeys(newKey(randomSecret())) }

func withKeys(keys ...key) *Keys {
	k := &Keys{}
	k.current.Store(&ring{keys: keys})
	return k
}

func randomSecret() []byte {
	secret := make([]byte, minKey)
	_, _ = rand.Read(secret) // It never fails.
	return secret
}

// newKey returns a key with the ID that is derived from it.
func newKey(secret []byte) key {
	k := key{secret: secret}
	k.id = hex.EncodeToString(k.mac("key ID", nil)[:8])
	return k
}

// IsNone reports whether these are the keys of None.
func (k *Keys) IsNone() bool { return len(k.current.Load().keys) == 0 }

// SignerID is the ID of the key that signs, or empty.
func (k *Keys) SignerID() string {
	if keys := k.current.Load().keys; len(keys) > 0 {
		return keys[0].id
	}
	return ""
}

// Sign signs the fields of a record.
func (k *Keys) Sign(purpose Purpose, fields ...string) Signature {
	keys := k.current.Load().keys
	if len(keys) == 0 {
		return Signature{}
	}
	return Signature{KeyID: keys[0].id, MAC: keys[0].mac(purpose, fields)}
}

// Verify returns nil if one of the keys made the signature for this purpose
// and these fields, else one of the errors above.
func (k *Keys) Verify(signature Signature, purpose Purpose, fields ...string) error {
	keys := k.current.Load().keys
	if len(keys) == 0 {
		return nil
	}
	if len(signature.MAC) == 0 {
		return ErrUnsigned
	}
	for _, key := range keys {
		if key.id == signature.KeyID {
			if hmac.Equal(signature.MAC, key.mac(purpose, fields)) {
				return nil
			}
			return ErrMismatch
		}
	}
	return ErrOtherKey
}

// mac authenticates a purpose and fields, each with its length in front: no
// two lists of fields have the same bytes.
func (k *key) mac(purpose Purpose, fields []string) []byte {
	hash := hmac.New(sha256.New, k.secret)
	add := func(text string) {
		_, _ = hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		_, _ = hash.Write([]byte(text)) // A hash never fails.
	}
	add("hfi state key 1")
	add(string(purpose))
	for _, field := range fields {
		add(field)
	}
	return hash.Sum(nil)
}
