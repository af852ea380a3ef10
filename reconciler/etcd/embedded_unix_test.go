//go:build unix

package etcd

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// While Err waits for a disk that hangs, the server's address is known.
func TestErrOnADiskThatHangs(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	// Opening it blocks until somebody reads.
	pipe := filepath.Join(folder, "writable.tmp")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	server := &serverProcess{address: "a:1", checked: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{})}
	server.conclude(serverMessage{Failed: "it broke"}, nil, "")
	close(server.ready)
	close(server.ended)
	e := NewEmbedded(folder, quiet())
	e.server = server
	said := make(chan error, 1)
	go func() { said <- e.Err() }()
	testtool.Throughout(t, 200*time.Millisecond, "the address is known", func() error {
		address := make(chan string, 1)
		go func() { address <- e.Address() }()
		select {
		case <-address:
			return nil
		case <-time.After(waitLimit):
			return os.ErrDeadlineExceeded
		}
	})
	if len(said) > 0 {
		t.Fatal("the disk does not hang")
	}
	reader, err := os.Open(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	select {
	case err := <-said:
		if err == nil || !strings.Contains(err.Error(), "it broke") {
			t.Errorf("error %v", err)
		}
	case <-time.After(waitLimit):
		t.Error("Err does not return once the disk works again")
	}
	if again := e.Err(); again == nil {
		t.Error("Err forgot why the server ended")
	}
}
