package statekey

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/internal/datadir"
)

// Bounds of a key file: minKey and maxKey are bytes of a key, decoded.
const (
	minKey  = 32
	maxKey  = 512
	maxKeys = 16
	maxFile = 64 << 10
)

// HowToMake says how a key file is made.
const HowToMake = "head -c 32 /dev/urandom | base64 > FILE"

// Open reads a key file.
func Open(path string) (*Keys, error) {
	k := &Keys{path: path}
	loaded, err := k.load()
	if err != nil {
		return nil, err
	}
	k.current.Store(loaded)
	return k, nil
}

// OpenOrCreate reads a key file of a locked data folder, and creates it with a
// new key if it does not exist. If it cannot be written now, as on a full disk,
// or is removed later, Reload writes it.
func OpenOrCreate(path string) (*Keys, error) {
	k, err := Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k = Random()
		k.path = path
		if err := k.write(); err != nil && !datadir.Unwritable(err) {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	k.create = true
	return k, nil
}

// write writes the present keys to the file.
func (k *Keys) write() error {
	var text []byte
	for _, key := range k.current.Load().keys {
		text = append(text, encode(key.secret)...)
	}
	if err := datadir.WriteFile(k.path, text); err != nil {
		return fmt.Errorf("creating the state key: %w", err)
	}
	return nil
}

func (k *Keys) load() (*ring, error) {
	text, err := read(k.path)
	if err != nil {
		return nil, fmt.Errorf("reading the state key: %w", err)
	}
	return parse(k.path, text)
}

// encode is a key as a line of a key file.
func encode(secret []byte) string { return base64.StdEncoding.EncodeToString(secret) + "\n" }

// read reads a key file within its bound.
func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes: it is no file of keys", path, maxFile)
	}
	return text, err
}

// parse reads the keys of a file. Its errors show nothing of the file's content.
func parse(path string, text []byte) (*ring, error) {
	r := &ring{}
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		refuse := func(format string, args ...any) (*ring, error) {
			return nil, fmt.Errorf("%s:%d: "+format, append([]any{path, i + 1}, args...)...)
		}
		secret, err := base64.StdEncoding.Strict().DecodeString(string(line))
		switch {
		case err != nil:
			return refuse("the key is not base64; to make one: %s", HowToMake)
		case len(secret) < minKey:
			return refuse("the key has %d bytes and needs %d or more; to make one: %s", len(secret), minKey, HowToMake)
		case len(secret) > maxKey:
			return refuse("the key has %d bytes, and may have at most %d", len(secret), maxKey)
		case len(r.keys) == maxKeys:
			return refuse("there are more than %d keys", maxKeys)
		}
		r.keys = append(r.keys, newKey(secret))
	}
	if len(r.keys) == 0 {
		return nil, fmt.Errorf("%s has no key; to make one: %s", path, HowToMake)
	}
	return r, nil
}

// Reload reads the file again, and reports whether its keys have changed. After
// an error the keys before stay in use.
func (k *Keys) Reload() (changed bool, err error) {
	if k.path == "" {
		return false, nil
	}
	loaded, err := k.load()
	if k.create && errors.Is(err, fs.ErrNotExist) {
		return false, k.write()
	}
	if err != nil {
		return false, err
	}
	before := k.current.Swap(loaded)
	return !slices.EqualFunc(before.keys, loaded.keys, func(a, b key) bool { return bytes.Equal(a.secret, b.secret) }), nil
}

// Watch reloads the file at an interval until the context ends, and calls
// changed after each change of the keys.
func (k *Keys) Watch(ctx context.Context, every time.Duration, logger *slog.Logger, changed func()) {
	said := ""
	for k.path != "" && backoff.Sleep(ctx, every) == nil {
		differs, err := k.Reload()
		if err != nil {
			if text := err.Error(); text != said {
				logger.Warn("the state key file cannot be used; the keys before stay in use", "error", err)
				said = text
			}
			continue
		}
		said = ""
		if differs {
			logger.Info("using changed state keys", "file", k.path, "key_id", k.SignerID(), "keys", len(k.current.Load().keys))
			changed()
		}
	}
}

// Readable returns a warning if the file can be read by users of this machine
// other than its owner and group, or empty.
func (k *Keys) Readable() string {
	if k.path == "" || runtime.GOOS == "windows" { // Permissions there are no mode.
		return ""
	}
	info, err := os.Stat(k.path)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("every user of this machine can use %s, which has the mode %04o: make it 0400", k.path, info.Mode().Perm())
}
