package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/etcdtest"
)

// The embedded server starts in a fraction of a second on a free port, keeps its
// address in a file while it runs, and works with etcdctl.
func TestTheEmbeddedServerWritesItsAddress(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	address := datadir.Folder(folder).EtcdAddress()
	for i := range 4 {
		began := time.Now()
		server := NewEmbedded(folder, quiet())
		if err := server.Open(context.Background()); err != nil {
			t.Fatal(err)
		}
		t.Logf("start %d: ready after %s at %s", i, time.Since(began), server.Address())
		text, err := os.ReadFile(address)
		if err != nil || strings.TrimSpace(string(text)) != server.Address() {
			t.Errorf("the file says %q (%v), the server %q", text, err, server.Address())
		}
		out, err := etcdtest.Ctl(t, "--endpoints", server.Address(), "endpoint", "status", "--cluster", "-w", "fields")
		if err != nil || !strings.Contains(out, server.Address()) {
			t.Errorf("etcdctl: %s %v", out, err)
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(address); !os.IsNotExist(err) {
			t.Errorf("the address file is still there after the server stopped: %v", err)
		}
	}
}

// A port that is in use gives an error at once.
func TestAPortInUseIsAnError(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	server := NewEmbedded(t.TempDir(), quiet())
	server.Listen = listener.Addr().String()
	if err := server.Open(context.Background()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}

// A second daemon on a data folder gets an error at once, and the folder is free once the first one is gone.
func TestASecondDaemonOnAFolderIsAnError(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	first, err := datadir.Folder(folder).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := datadir.Folder(folder).Lock(t.Context()); err == nil || !strings.Contains(err.Error(), folder) || !strings.Contains(err.Error(), "another hfid (process ") {
		t.Errorf("error %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := datadir.Folder(folder).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// killable is set in the process that TestSIGKILL starts and kills.
const killable = "HFI_ETCD_TEST_FOLDER"

// An embedded server whose process ends is started again, by the address that
// it had, or by another if that is taken: the store goes on, and so does etcdctl.
func TestAServerThatEndsIsStartedAgain(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]bool{"same address": false, "address taken": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, embeddedStore(t, t.TempDir()))
			term := campaign(t, s)
			first := publish(t, term, publication("c1", policies(t, 20, 1)))
			before := s.Embedded.Address()
			killed := s.Embedded.current()
			if taken {
				// Nobody can listen there while the server does; whoever is first gets it.
				eventually(t, "its address is taken", func() bool {
					killed = s.Embedded.current()
					killed.kill()
					listener, err := net.Listen("tcp", before)
					if err == nil {
						t.Cleanup(func() { listener.Close() })
					}
					return err == nil
				})
			}
			killed.kill()
			eventually(t, "another process runs", func() bool {
				server := s.Embedded.current()
				return server != killed && server.wasReady()
			})
			eventually(t, "etcd is healthy", func() bool { return s.View().Health.Healthy })
			if address := s.Embedded.Address(); (address != before) != taken {
				t.Errorf("it listens on %s, and before on %s", address, before)
			}
			eventually(t, "the status has its address", func() bool { return slices.Equal(s.View().Health.Endpoints, []string{s.Embedded.Address()}) })
			if state := s.View().State; state == nil || state.Revision != first.Revision {
				t.Errorf("the state is %+v", state)
			}
			second := publish(t, lead(t, s, term), publication("c2", policies(t, 20, 2)))
			if second.Revision.Epoch != first.Revision.Epoch {
				t.Errorf("epoch %v, before %v", second.Revision.Epoch, first.Revision.Epoch)
			}
		})
	}
}

// An embedded server that ends again and again, each time shortly after it was
// ready, is started after pauses that grow.
func TestAServerThatEndsAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, embeddedStore(t, t.TempDir()))
	eventually(t, "etcd is healthy", func() bool { return s.View().Health.Healthy })
	var took time.Duration
	for range 6 {
		server := s.Embedded.current()
		server.kill()
		began := time.Now()
		eventually(t, "another process runs", func() bool { return s.Embedded.current() != server })
		took = time.Since(began)
	}
	// The first pause is of 50 ms, and five times it has doubled.
	if least := time.Duration((1 - backoff.Jitter) * float64(32*50*time.Millisecond)); took < least {
		t.Errorf("the last start took %s, want %s at least", took, least)
	}
}

// An embedded etcd whose database has reached its quota refuses to publish, and
// says what to do. It works as it says, by stock etcdctl.
func TestTheQuotaOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	store := embeddedStore(t, t.TempDir())
	store.Embedded.QuotaBytes = 4 << 20
	s := openStore(t, store)
	term := campaign(t, s)
	first := publish(t, term, publication("c1", policies(t, 20, 1)))
	ctl := func(arguments ...string) string {
		t.Helper()
		out, err := etcdtest.Ctl(t, append([]string{"--endpoints", s.Embedded.Address()}, arguments...)...)
		if err != nil {
			t.Fatalf("etcdctl %v: %v: %s", arguments, err, out)
		}
		return out
	}
	eventually(t, "the quota is reached", func() bool {
		_, err := etcdtest.Ctl(t, "--endpoints", s.Embedded.Address(), "put", "/elsewhere", strings.Repeat("x", 100_000))
		return err != nil
	})
	_, err := term.Publish(testContext(t), publication("c2", policies(t, 20, 2)))
	if err == nil || !strings.Contains(err.Error(), "etcd's database is full and refuses writes: compact and defragment it, or raise its quota, then run etcdctl alarm disarm") {
		t.Fatalf("publishing fails with %v", err)
	}
	if state := s.View().State; state == nil || state.Revision != first.Revision {
		t.Errorf("the state is %+v", state)
	}
	var status []struct {
		Status struct{ Header struct{ Revision int64 } }
	}
	if err := json.Unmarshal([]byte(ctl("endpoint", "status", "-w", "json")), &status); err != nil || len(status) != 1 {
		t.Fatal(err)
	}
	ctl("compact", fmt.Sprint(status[0].Status.Header.Revision))
	ctl("defrag")
	ctl("alarm", "disarm")
	publish(t, lead(t, s, term), publication("c3", policies(t, 20, 3)))
}

// The time that a server takes to read its database does not count as time to
// get ready, and one that is late is not taken for damaged.
func TestAServerMayTakeLongToReadItsDatabase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		check, start time.Duration
		says         string
	}{
		"large database":  {check: 9 * time.Minute, start: 50 * time.Second},
		"hanging disk":    {check: time.Hour, says: "its database was not read within 10m0s; it is tried again"},
		"slow after that": {check: time.Second, start: 2 * time.Minute, says: "it was not ready within 1m0s; it is tried again"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &serverProcess{checked: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{})}
				time.AfterFunc(c.check, func() { close(server.checked) })
				time.AfterFunc(c.check+c.start, func() { close(server.ready) })
				err := NewEmbedded("", quiet()).waitReady(t.Context(), server)
				if errors.Is(err, ErrDamaged) || (err == nil) != (c.says == "") || err != nil && !strings.HasPrefix(err.Error(), c.says) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

// A process that waits for a disk that hangs cannot be killed. Nothing waits for its end without a limit.
func TestAServerThatCannotBeKilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, stdin := io.Pipe()
		defer stdin.Close()
		server := &serverProcess{process: &os.Process{}, stdin: stdin, ended: make(chan struct{})}
		began := time.Now()
		if server.stop(closeTimeout) {
			t.Error("it has stopped")
		}
		if took := time.Since(began); took > closeTimeout+killTimeout {
			t.Errorf("stopping took %s", took)
		}
		// No other process is started before it has ended.
		e := NewEmbedded(t.TempDir(), quiet())
		e.killed = server
		if err := e.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "still waits for the disk") {
			t.Errorf("the error of another start is %v", err)
		}
	})
}

// A process that crashes is not taken for damaged data, unless it crashes when it starts.
func TestWhyAServerEnded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ready   bool
		failure serverMessage
		crash   string
		damaged bool
		says    string
	}{
		"crash at the start": {crash: "panic: page 3 already freed\n\ngoroutine 1", damaged: true, says: "its process crashed: panic: page 3 already freed"},
		"crash later":        {ready: true, crash: "panic: page 3 already freed", says: "its process crashed: panic: page 3 already freed"},
		"failure":            {failure: serverMessage{Failed: "snap: crc mismatch"}, damaged: true, says: "snap: crc mismatch"},
		"full":               {failure: serverMessage{Failed: "write db: no space left on device", Errno: syscall.ENOSPC}, says: "cannot be written: write db: no space left on device"},
		"locked":             {failure: serverMessage{Failed: "timeout", InUse: true}, says: "timeout"},
		"no file left":       {failure: serverMessage{Failed: "open db: too many open files", Errno: syscall.EMFILE}, says: "too many open files"},
		"no memory left":     {failure: serverMessage{Failed: "mmap: cannot allocate memory", Errno: syscall.ENOMEM}, says: "cannot allocate memory"},
		"out of memory":      {crash: "fatal error: runtime: out of memory\n\ngoroutine 1", says: "runtime: out of memory"},
		"no thread left":     {crash: "runtime: failed to create new OS thread (have 5 already; errno=11)", says: "failed to create new OS thread"},
		"port in use":        {failure: serverMessage{Failed: "listen: address already in use", Errno: syscall.EADDRINUSE}, says: "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &serverProcess{ready: make(chan struct{})}
			if c.ready {
				close(server.ready)
			}
			server.conclude(c.failure, errors.New("exit status 2"), c.crash)
			err := NewEmbedded(t.TempDir(), quiet()).explain(server)
			if errors.Is(err, ErrDamaged) != c.damaged || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
