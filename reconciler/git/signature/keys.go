// Package signature checks who made a signature: with a file of allowed signers,
// as OpenSSH has it, and with OpenPGP keys. What is signed, and what follows from
// the answer, is for others to say.
package signature

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

const (
	// maxKeyFile bounds a file of keys, in bytes.
	maxKeyFile = 4 << 20
	// maxSignature bounds an armored signature, in bytes. With a certificate in it,
	// or made with a large RSA key, one has a few thousand.
	maxSignature = 64 << 10
	// maxName bounds a signer's name in an answer, in bytes.
	maxName = 200
)

// Files are the files with the keys that are trusted. They are read again for
// each Load, so that they may be replaced while the daemon runs.
type Files struct {
	// Signers is a file of allowed signers, and Keyring one of OpenPGP keys, binary
	// or armored. One of them may be empty.
	Signers, Keyring string
	// Approvers are the signers that Answer.Approved is about: a principal of
	// Signers, the e-mail address or the whole user ID of an OpenPGP key, or the
	// fingerprint of a key. If there are none, every verified signer is one.
	Approvers []string
	// Now is time.Now, or a test's.
	Now func() time.Time

	// mu guards loaded, the keys of the files' last usable content.
	mu     sync.Mutex
	loaded *Keys
}

// Keys are the trusted keys at one moment. They never change.
type Keys struct {
	version string
	// signers and keyring are empty if there is no such file.
	signers   []signer
	keyring   keyring
	approvers []string
	now       func() time.Time
}

// Version differs between keys of files with different content.
func (k *Keys) Version() string { return k.version }

// Load reads the files. A file that cannot be read, has no key, or has something
// that is not understood, is an error: no restriction in it is ignored.
func (f *Files) Load() (*Keys, error) {
	signers, err := readKeyFile(f.Signers)
	if err != nil {
		return nil, err
	}
	ring, err := readKeyFile(f.Keyring)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	for _, text := range [][]byte{signers, ring} {
		fmt.Fprintf(sum, "%d:", len(text))
		_, _ = sum.Write(text) // A hash takes everything.
	}
	version := hex.EncodeToString(sum.Sum(nil))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded != nil && f.loaded.version == version {
		return f.loaded, nil
	}
	keys := &Keys{version: version, approvers: f.Approvers, now: f.Now}
	if keys.now == nil {
		keys.now = time.Now
	}
	if f.Signers != "" {
		if keys.signers, err = parseSigners(f.Signers, signers); err != nil {
			return nil, err
		}
	}
	if f.Keyring != "" {
		if keys.keyring, err = parseKeyring(f.Keyring, ring); err != nil {
			return nil, err
		}
	}
	f.loaded = keys
	return keys, nil
}

// readKeyFile returns a file's content, and nothing for no file.
func readKeyFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the trusted keys: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the trusted keys: %w", err)
	case len(text) > maxKeyFile:
		return nil, fmt.Errorf("%s has more than %d MiB, and is not a file of keys", name, maxKeyFile>>20)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, fmt.Errorf("%s is empty: it must have the keys that are trusted", name)
	}
	return text, nil
}

// Answer is what is known about a signature.
type Answer struct {
	api.Signature
	// Approved says that an approver signed. It implies that Status is Verified.
	Approved bool
}

// Verify checks an armored signature of a text, which is empty if there is none.
// at is when the text says that it was made: keys of Signers must be valid then.
func (k *Keys) Verify(text, armored []byte, at time.Time) Answer {
	begin, _, _ := strings.Cut(string(armored[:min(len(armored), 64)]), "\n")
	switch {
	case len(armored) == 0:
		return answer(api.SignatureUnsigned, "", "", "it is not signed")
	case len(armored) > maxSignature:
		return Invalid("the signature has more than %d KiB", maxSignature>>10)
	case strings.HasPrefix(begin, "-----BEGIN SSH SIGNATURE-----"):
		return k.verifySSH(text, armored, at)
	case strings.HasPrefix(begin, "-----BEGIN PGP SIGNATURE-----"), strings.HasPrefix(begin, "-----BEGIN PGP MESSAGE-----"):
		return k.verifyOpenPGP(text, armored)
	case strings.HasPrefix(begin, "-----BEGIN SIGNED MESSAGE-----"):
		return Invalid("X.509 signatures are not supported; sign with an SSH or an OpenPGP key")
	}
	return Invalid("the signature is neither one of SSH nor of OpenPGP")
}

func answer(status api.SignatureStatus, signer, key, format string, args ...any) Answer {
	return Answer{Signature: api.Signature{
		Status: status, Key: key,
		Signer: reconciler.Cut(reconciler.Escape(signer), maxName),
		Reason: reconciler.Cut(reconciler.Escape(fmt.Sprintf(format, args...)), 3*maxName),
	}}
}

// Invalid is the answer about a signature that is wrong, whatever its key.
func Invalid(format string, args ...any) Answer {
	return answer(api.SignatureInvalid, "", "", format, args...)
}

func verified(signer, key string, approved bool) Answer {
	a := answer(api.SignatureVerified, signer, key, "")
	a.Approved = approved
	return a
}

// stamp formats a time in a reason.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }
