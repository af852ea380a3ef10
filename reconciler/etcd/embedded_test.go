package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
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
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
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

// Killed at any moment, and restarted with a new port each time, the embedded
// server still holds what was published.
func TestSIGKILLLosesNothing(t *testing.T) {
	if folder := os.Getenv(killable); folder != "" {
		publishForEver(t, folder)
		return
	}
	folder := t.TempDir()
	var last reconciler.Revision
	for i := range 20 {
		child := exec.Command(os.Args[0], "-test.run=^TestSIGKILLLosesNothing$")
		child.Env = append(os.Environ(), killable+"="+folder)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		revision := make(chan string, 1)
		go func() {
			var text [4096]byte
			n, _ := out.Read(text[:])
			revision <- string(text[:n])
		}()
		select {
		case text := <-revision:
			line, _, _ := strings.Cut(text, "\n")
			before, err := reconciler.ParseRevision(line)
			if err != nil {
				t.Fatalf("start %d: %s", i, text)
			}
			if before.Before(last) || i > 0 && before.Epoch != last.Epoch {
				t.Fatalf("start %d begins at %s, after %s", i, before, last)
			}
			last = before
		case <-time.After(waitLimit):
			t.Fatalf("start %d is not ready", i)
		}
		time.Sleep(time.Duration(i*7%50) * time.Millisecond) // killed at another moment each time
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
	}
}

// publishForEver prints the first state's revision and publishes until it is killed.
func publishForEver(t *testing.T, folder string) {
	lock, err := datadir.Folder(folder).Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	s := openStore(t, embeddedStore(t, folder))
	term := campaign(t, s)
	if s.View().State == nil {
		publish(t, term, publication("first", policies(t, 150, 1)))
	}
	os.Stdout.WriteString(s.View().State.Revision.String() + "\n")
	for i := range 10_000 {
		publish(t, term, publication("next", policies(t, 150, i+2)))
	}
}

// Damaged data give an error that says so. The process survives, and the store's health has the reason.
func TestDamagedDataAreAnErrorAndSurvived(t *testing.T) {
	t.Parallel()
	original := t.TempDir()
	s := openStore(t, embeddedStore(t, original))
	publish(t, campaign(t, s), publication("c1", policies(t, 500, 1)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	database := filepath.Join("etcd", "member", "snap", "db")
	overwrite := func(from, to int) func([]byte) []byte {
		return func(text []byte) []byte {
			for i := from; i < min(to, len(text)); i++ {
				text[i] = 0x5a
			}
			return text
		}
	}
	for name, c := range map[string]struct {
		file   string
		damage func([]byte) []byte
		// silent says that etcd reports no error, but never becomes ready.
		silent bool
	}{
		"database: rubbish":   {file: database, damage: overwrite(0, 1<<30)},
		"database: head gone": {file: database, damage: overwrite(0, 8192)},
		"database: middle":    {file: database, damage: overwrite(16<<10, 400<<10)},
		"database: cut":       {file: database, damage: func(text []byte) []byte { return text[:40<<10] }},
		"database: empty":     {file: database, damage: func([]byte) []byte { return nil }},
		"log: rubbish":        {file: "wal", damage: overwrite(0, 1<<30)},
		"log: first bytes":    {file: "wal", damage: overwrite(0, 100)},
		"log: middle":         {file: "wal", damage: overwrite(10_000, 20_000)},
		"log: cut":            {file: "wal", damage: func(text []byte) []byte { return text[:1000] }, silent: true},
		"log: empty":          {file: "wal", damage: func([]byte) []byte { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			copyFolder(t, original, folder)
			damageFile(t, folder, c.file, c.damage)
			server := NewEmbedded(folder, quiet())
			server.StartTimeout = 4 * time.Second
			ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
			defer cancel()
			err := server.Open(ctx)
			t.Logf("the error is %v", err)
			if err == nil {
				defer server.Close()
			}
			if err == nil || errors.Is(err, ErrDamaged) == c.silent {
				t.Fatalf("error %v", err)
			}
			if c.silent && !strings.Contains(err.Error(), "it was not ready within 4s; it is tried again. If it never is ready and the disk is not slow, its data may be damaged: move the folder etcd") {
				t.Errorf("error %v", err)
			}
			// Parts of a server that broke down may still use its folder, so the store gets a copy.
			folder = t.TempDir()
			copyFolder(t, original, folder)
			damageFile(t, folder, c.file, c.damage)
			store := embeddedStore(t, folder)
			store.Embedded.StartTimeout = 4 * time.Second
			openStore(t, store)
			eventually(t, "the reason is in the health", func() bool { return strings.Contains(store.View().Health.Error, "damaged") })
		})
	}
}

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

func damageFile(t *testing.T, folder, file string, damage func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(folder, file)
	if file == "wal" {
		found, err := filepath.Glob(filepath.Join(folder, "etcd", "member", "wal", "*.wal"))
		if err != nil || len(found) == 0 {
			t.Fatal("no log")
		}
		path = found[0]
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// A server whose files somebody removes ends, and says so: else it would go on
// writing to files that are gone with it. The next start begins with what is left,
// if that is of use, or with nothing.
func TestAServerWhoseFilesAreRemoved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, path string }{
		{"all", ""},
		{"the folder member", "member"},
		{"the log's folder", "member/wal"},
		{"the log", "member/wal/*.wal"},
		{"the database", "member/snap/db"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log lines
			s := New(DefaultPrefix, "a", slog.New(slog.NewTextHandler(&log, nil)))
			s.DataDir = t.TempDir()
			s.Embedded = NewEmbedded(s.DataDir, quiet())
			openStore(t, s)
			term := campaign(t, s)
			publish(t, term, publication("c1", policies(t, 3, 1)))
			paths, err := filepath.Glob(filepath.Join(datadir.Folder(s.DataDir).Etcd(), c.path))
			if err != nil || len(paths) == 0 {
				t.Fatalf("removing %v: %v", paths, err)
			}
			failed := s.Embedded.Failed()
			for _, path := range paths {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-failed:
			case <-time.After(waitLimit):
				t.Fatal("the server goes on")
			}
			eventually(t, "the reason is logged", func() bool { return strings.Contains(log.String(), errFilesRemoved.Error()) })
			// It works again, and keeps what is written.
			var state *reconciler.State
			err = testtool.Poll(waitLimit, func() (err error) {
				term = lead(t, s, term)
				state, err = term.Publish(testContext(t), publication("c2", policies(t, 3, 2)))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(c.path, "member/wal") {
				// Somebody may want to put the log back.
				if _, err := os.Stat(filepath.Join(datadir.Folder(s.DataDir).Etcd(), "member.without-log", "snap", "db")); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again := embeddedStore(t, s.DataDir)
			openStore(t, again)
			eventually(t, "what was written is there after a restart", serves(again, state))
		})
	}
}
