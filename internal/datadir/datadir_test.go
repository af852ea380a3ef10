//go:build unix

package datadir_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"golang.org/x/sys/unix"
)

// childFolder names the folder that a run of this test binary works on as a
// test's child process; childTask is what it does there.
const (
	childFolder = "HFI_DATADIR_TEST_FOLDER"
	childTask   = "HFI_DATADIR_TEST_TASK"
)

func TestMain(m *testing.M) {
	folder, task := os.Getenv(childFolder), os.Getenv(childTask)
	if task == "" {
		os.Exit(m.Run())
	}
	// The parent's end of this pipe closes with the parent.
	orphaned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(orphaned)
	}()
	switch task {
	case "hold":
		if _, err := datadir.Folder(folder).Lock(context.Background()); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("ready\n")
		<-orphaned
	case "full":
		full(folder)
	case "write":
		for i := 0; ; i++ {
			select {
			case <-orphaned:
				return
			default:
			}
			if err := datadir.WriteFile(filepath.Join(folder, "file"), content(i)); err != nil {
				panic(err)
			}
			if i == 0 {
				os.Stdout.WriteString("ready\n")
			}
		}
	}
}

// content differs between odd and even versions in every byte and in length.
func content(version int) []byte {
	return bytes.Repeat([]byte{"ab"[version%2]}, 1<<20+version%2)
}

// child starts this test binary for a task, and returns once it is ready.
func child(t *testing.T, folder, task string) *exec.Cmd {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), childFolder+"="+folder, childTask+"="+task)
	command.Stderr = os.Stderr
	if _, err := command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(command) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child process printed %q: %v", line, err)
	}
	return command
}

func kill(command *exec.Cmd) {
	_ = command.Process.Kill()
	_ = command.Wait()
}

// A second daemon on a data folder gets an error at once that names the
// folder and the process. The lock ends with the process that holds it.
func TestSecondDaemonGetsAnErrorAtOnce(t *testing.T) {
	folder := datadir.Folder(filepath.Join(t.TempDir(), "data"))
	first := child(t, string(folder), "hold")
	begun := time.Now()
	_, err := folder.Lock(t.Context())
	if err == nil || !strings.Contains(err.Error(), string(folder)) || !strings.Contains(err.Error(), "another hfid (process ") {
		t.Fatalf("error %v", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the error came after %s", took)
	}
	kill(first)
	lock, err := folder.Lock(t.Context())
	if err != nil {
		t.Fatalf("after the first daemon was killed: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := folder.Lock(t.Context())
	if err != nil {
		t.Fatalf("after the second daemon released the folder: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// Lock stops waiting when its context ends.
func TestLockHonoursItsContext(t *testing.T) {
	folder := datadir.Folder(t.TempDir())
	held, err := folder.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := folder.Lock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A process that is killed between any two steps of WriteFile leaves the old
// or the new content, and what it leaves beside it does not stop the next write.
func TestCrashLeavesOldOrNewContent(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "file")
	halfway := 0
	for kills := 0; halfway < 5; kills++ {
		if kills == 200 {
			t.Fatalf("only %d of %d kills came before the rename", halfway, kills)
		}
		writer := child(t, folder, "write")
		time.Sleep(rand.N(20 * time.Millisecond)) // a random moment, not a wait for something
		kill(writer)
		found, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(found, content(0)) && !bytes.Equal(found, content(1)) {
			t.Fatalf("kill %d left a mixture of %d bytes", kills, len(found))
		}
		if _, err := os.Stat(path + ".tmp"); err == nil {
			halfway++
		}
	}
	if err := datadir.WriteFile(path, []byte("next")); err != nil {
		t.Fatal(err)
	}
	if found, err := os.ReadFile(path); err != nil || string(found) != "next" {
		t.Errorf("read %q, %v", found, err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

// full writes content 1, with a limit on the size of files that cuts it short.
func full(folder string) {
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}); err != nil {
		panic(err)
	}
	if err := datadir.WriteFile(filepath.Join(folder, "file"), content(1)); !errors.Is(err, unix.EFBIG) {
		panic(fmt.Sprintf("error %v", err))
	}
	os.Stdout.WriteString("ready\n")
}

// A write that fails half way leaves the old content and no temporary file. A
// limit on the size of files simulates a full disk. It applies to a whole
// process, so a child process writes.
func TestFailedWriteLeavesOldContent(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "file")
	if err := datadir.WriteFile(path, content(0)); err != nil {
		t.Fatal(err)
	}
	child(t, folder, "full")
	if found, err := os.ReadFile(path); err != nil || !bytes.Equal(found, content(0)) {
		t.Errorf("%d bytes are left, %v", len(found), err)
	}
	if _, err := os.Stat(path + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
}
