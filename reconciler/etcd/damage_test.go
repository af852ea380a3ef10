package etcd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

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
			s.StateKeys = testKeys
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
