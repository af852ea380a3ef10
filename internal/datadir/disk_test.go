//go:build unix

package datadir_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/disktest"
	"github.com/boifi/hfi/internal/testtool"
)

// A data folder on a disk that is full or read-only is locked as well, whether
// it has a lock file or not, and a second daemon gets an error.
func TestLockOnAnUnwritableDisk(t *testing.T) {
	for _, spoilt := range []struct {
		name       string
		spoil, fix func(*disktest.Disk)
		errno      unix.Errno
	}{
		{"full", (*disktest.Disk).Fill, (*disktest.Disk).Free, unix.ENOSPC},
		{"read-only", (*disktest.Disk).ReadOnly, (*disktest.Disk).Writable, unix.EROFS},
	} {
		for _, used := range []bool{true, false} {
			name := spoilt.name + ", never used"
			if used {
				name = spoilt.name + ", used before"
			}
			t.Run(name, func(t *testing.T) {
				disk := disktest.New(t, 1)
				folder := datadir.Folder(filepath.Join(disk.Path, "data"))
				if err := os.Mkdir(string(folder), 0o700); err != nil {
					t.Fatal(err)
				}
				if used {
					kill(child(t, string(folder), "hold"))
				}
				spoilt.spoil(disk)
				if err := folder.Check(); !errors.Is(err, spoilt.errno) || !strings.Contains(err.Error(), string(folder)) {
					t.Errorf("Check says %v", err)
				}
				lock, err := folder.Lock(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer lock.Close()
				wantInUse(t, folder)
				// Once the disk is repaired, the lock still holds, with and without Keep.
				spoilt.fix(disk)
				if err := folder.Check(); err != nil {
					t.Errorf("Check says %v", err)
				}
				wantInUse(t, folder)
				defer keep(t, lock)()
				testtool.Eventually(t, "there is a lock file", func() bool {
					_, err := os.Stat(filepath.Join(string(folder), "lock"))
					return err == nil
				})
				wantInUse(t, folder)
			})
		}
	}
}

// A data folder that is removed while it is locked is created and locked again.
func TestKeepLocksAFolderThatWasRemoved(t *testing.T) {
	folder := datadir.Folder(filepath.Join(t.TempDir(), "data"))
	lock, err := folder.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	defer keep(t, lock)()
	for range 2 {
		if err := os.RemoveAll(string(folder)); err != nil {
			t.Fatal(err)
		}
		testtool.Eventually(t, "the folder is back", func() bool {
			_, err := os.Stat(filepath.Join(string(folder), "lock"))
			return err == nil
		})
		wantInUse(t, folder)
	}
}

// Keep ends with an error when another process has locked the folder that was
// removed, and leaves the folder to it.
func TestKeepEndsWhenAnotherHasTheFolder(t *testing.T) {
	folder := datadir.Folder(filepath.Join(t.TempDir(), "data"))
	lock, err := folder.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := os.RemoveAll(string(folder)); err != nil {
		t.Fatal(err)
	}
	child(t, string(folder), "hold")
	ctx, cancel := context.WithTimeout(t.Context(), testtool.WaitLimit)
	defer cancel()
	if err := lock.Keep(ctx, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use by another hfid (process ") {
		t.Errorf("Keep ends with %v", err)
	}
}

// keep runs Keep until the function that it returns is called.
func keep(t *testing.T, lock *datadir.Lock) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var keeper sync.WaitGroup
	keeper.Go(func() {
		if err := lock.Keep(ctx, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	return func() {
		cancel()
		keeper.Wait()
	}
}

func wantInUse(t *testing.T, folder datadir.Folder) {
	t.Helper()
	second, err := folder.Lock(t.Context())
	if err == nil {
		second.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "in use by another hfid") {
		t.Errorf("a second daemon gets the error %v", err)
	}
}

// Goroutines that look at the same time whether a folder can be written do not
// disturb each other.
func TestWritableFromSeveralGoroutines(t *testing.T) {
	folder := datadir.Folder(t.TempDir())
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for range 50 {
				if err := folder.Writable(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	users.Wait()
}
