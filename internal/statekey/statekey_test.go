package statekey

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/testtool"
)

// line is a key of n bytes b as a line of a file.
func line(b byte, n int) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, n)) + "\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, text string) *Keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	write(t, path, text)
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Only the purpose, fields and key that were signed verify.
func TestOnlyWhatWasSignedVerifies(t *testing.T) {
	k := open(t, line(1, 32))
	signed := k.Sign("head", "a", "bc", "")
	if err := k.Verify(signed, "head", "a", "bc", ""); err != nil {
		t.Error(err)
	}
	others := map[string]struct {
		purpose Purpose
		fields  []string
	}{
		"another purpose":            {"epoch", []string{"a", "bc", ""}},
		"another field":              {"head", []string{"a", "bd", ""}},
		"fields divided differently": {"head", []string{"ab", "c", ""}},
		"a field less":               {"head", []string{"a", "bc"}},
		"a field more":               {"head", []string{"a", "bc", "", ""}},
		"the purpose as a field":     {"", []string{"head", "a", "bc", ""}},
	}
	for name, other := range others {
		if err := k.Verify(signed, other.purpose, other.fields...); !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		signature Signature
		want      error
	}{
		"no signature": {Signature{}, ErrUnsigned},
		"no MAC":       {Signature{KeyID: signed.KeyID}, ErrUnsigned},
		"a short MAC":  {Signature{KeyID: signed.KeyID, MAC: signed.MAC[:31]}, ErrMismatch},
		"another key":  {open(t, line(2, 32)).Sign("head", "a", "bc", ""), ErrOtherKey},
		"another ID":   {Signature{KeyID: "00", MAC: signed.MAC}, ErrOtherKey},
	} {
		if err := k.Verify(c.signature, "head", "a", "bc", ""); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The MAC is HMAC-SHA-256 over the version, the purpose and the fields, each
// with its length as eight bytes in front: replicas of every build agree.
func TestTheMACIsPinned(t *testing.T) {
	message := func(texts ...string) (all []byte) {
		for _, text := range texts {
			all = append(binary.BigEndian.AppendUint64(all, uint64(len(text))), text...)
		}
		return all
	}
	oracle := hmac.New(sha256.New, bytes.Repeat([]byte{7}, 40))
	oracle.Write(message("hfi state key 1", "head", "one", ""))
	if got := open(t, line(7, 40)).Sign("head", "one", ""); !bytes.Equal(got.MAC, oracle.Sum(nil)) || len(got.KeyID) != 16 {
		t.Errorf("signed %+v", got)
	}
}

// The first key signs and all verify, so that a key is replaced in three steps
// in which old and new replicas always verify each other.
func TestRotation(t *testing.T) {
	oldKey, newKey := line(1, 32), line(2, 32)
	steps := []string{oldKey, "# being replaced\n" + oldKey + "\n" + newKey, newKey + oldKey, newKey}
	for i := range len(steps) - 1 {
		before, after := open(t, steps[i]), open(t, steps[i+1])
		for _, pair := range [][2]*Keys{{before, after}, {after, before}} {
			if err := pair[0].Verify(pair[1].Sign("head", "x"), "head", "x"); err != nil {
				t.Errorf("step %d: %v", i+1, err)
			}
		}
	}
	if err := open(t, newKey).Verify(open(t, oldKey).Sign("head", "x"), "head", "x"); !errors.Is(err, ErrOtherKey) {
		t.Errorf("a removed key: %v", err)
	}
}

// A key that a shell makes is one; everything else is an error that says where.
func TestKeyFiles(t *testing.T) {
	good, err := exec.Command("sh", "-c", "head -c 32 /dev/urandom | base64").Output()
	if err != nil {
		t.Fatal(err)
	}
	if k := open(t, "\n# ours\n  "+strings.TrimSpace(string(good))+"\r\n"); k.IsNone() || k.SignerID() == "" {
		t.Error("no key was read")
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", " has no key; to make one: head"},
		"comments only": {"# nothing\n\n", " has no key; to make one: head"},
		"not base64":    {line(1, 32) + "s3cret!\n", ":2: the key is not base64; to make one: head"},
		"too short":     {"\n" + line(1, 31), ":2: the key has 31 bytes and needs 32 or more"},
		"too long":      {line(1, 513), ":1: the key has 513 bytes, and may have at most 512"},
		"too many":      {strings.Repeat(line(1, 32), 17), ":17: there are more than 16 keys"},
		"huge":          {strings.Repeat("#", 64<<10+1), " has more than 65536 bytes"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		write(t, path, c.text)
		_, err := Open(path)
		if err == nil || !strings.Contains(err.Error(), path+c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// A key that is made for a data folder stays the same, is readable by nobody
// else, and one that cannot be used is not replaced.
func TestCreatedOnce(t *testing.T) {
	path := datadir.Folder(t.TempDir()).StateKey()
	first, err := OpenOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenOrCreate(path)
	if err != nil || first.SignerID() != second.SignerID() || first.IsNone() {
		t.Errorf("the key is first %q, then %q (%v)", first.SignerID(), second.SignerID(), err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v (%v)", info.Mode(), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if changed, err := second.Reload(); changed || err != nil {
		t.Errorf("a removed file: changed %v, %v", changed, err)
	}
	if third, err := Open(path); err != nil || third.SignerID() != first.SignerID() {
		t.Errorf("a removed key is not written again as it was: %v", err)
	}
	write(t, path, "damaged")
	if _, err := OpenOrCreate(path); err == nil {
		t.Error("a damaged key was replaced")
	}
	if text, _ := os.ReadFile(path); string(text) != "damaged" {
		t.Errorf("the file has become %q", text)
	}
}

// A changed file is used; one that cannot be read or used is not, once it is said.
func TestChangedFilesAreUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write(t, path, line(1, 32))
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	changes := make(chan string)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Watch(ctx, time.Millisecond, slog.New(slog.NewTextHandler(&log, nil)), func() {
			select {
			case changes <- k.SignerID():
			case <-ctx.Done():
			}
		})
	}()
	for i, want := range []string{line(2, 32), line(3, 32) + line(2, 32)} {
		write(t, path, "nothing of use")
		write(t, path+".next", want)
		if err := os.Rename(path+".next", path); err != nil {
			t.Fatal(err)
		}
		select {
		case id := <-changes:
			if id != open(t, want).SignerID() {
				t.Errorf("change %d: the key is %s", i+1, id)
			}
		case <-time.After(testtool.WaitLimit):
			t.Fatal("the change is not seen")
		}
	}
	cancel()
	<-ended
	before := k.SignerID()
	write(t, path, "")
	if changed, err := k.Reload(); err == nil || changed || k.SignerID() != before {
		t.Errorf("an empty file: changed %v, %v", changed, err)
	}
	if strings.Contains(log.String(), strings.TrimSpace(line(2, 32))) {
		t.Errorf("the log has the key:\n%s", log.String())
	}
}

// Every user who can read the key can forge.
func TestReadableFilesAreWarnedOf(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no mode")
	}
	k := open(t, line(1, 32))
	for mode, want := range map[os.FileMode]bool{0o400: false, 0o600: false, 0o440: false, 0o644: true, 0o604: true, 0o602: true} {
		if err := os.Chmod(k.path, mode); err != nil {
			t.Fatal(err)
		}
		if got := k.Readable(); (got != "") != want {
			t.Errorf("mode %04o: %q", mode, got)
		}
	}
	if None().Readable() != "" {
		t.Error("no file is warned of")
	}
}

// Without keys nothing is signed and everything verifies.
func TestNone(t *testing.T) {
	k := None()
	if signed := k.Sign("head", "x"); !k.IsNone() || signed.KeyID != "" || signed.MAC != nil {
		t.Errorf("signed %+v", signed)
	}
	if err := k.Verify(Random().Sign("head", "y"), "head", "x"); err != nil {
		t.Error(err)
	}
	if changed, err := k.Reload(); changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
}
