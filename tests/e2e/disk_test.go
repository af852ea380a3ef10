package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/disktest"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// diskSize, in MiB, has room for what the embedded etcd allocates ahead.
const diskSize = 64

// seeServing checks that a daemon lives, is ready, and answers as before.
func seeServing(t *testing.T, d *hfidtest.Daemon, what, before string) {
	t.Helper()
	see(t, d, what, "/ready", fields{"ready": true})
	if health := d.Get("/health"); health.Status != 200 {
		t.Errorf("%s: /health answers %d", what, health.Status)
	}
	if after := served(d); after != before {
		t.Errorf("%s: the answer changed\nfrom %s\nto   %s", what, before, after)
	}
}

// A disk that is full, or becomes read-only, stops the embedded etcd. The
// daemon continues to serve and says why; once the disk is repaired it publishes
// what was pushed in between, in the same process.
func TestDiskUnwritableForAMoment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		spoil, fix func(*disktest.Disk)
		says       string
	}{
		{"full", (*disktest.Disk).Fill, (*disktest.Disk).Free, "no space left on device"},
		{"read-only", (*disktest.Disk).ReadOnly, (*disktest.Disk).Writable, "read-only file system"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			disk := disktest.New(t, diskSize)
			repo, d, last := runSynced(t, "--data-dir", filepath.Join(disk.Path, "data"))
			pid := d.PID()

			c.spoil(disk)
			if c.name == "read-only" {
				killEmbeddedServer(t, d)
			}
			// What etcd has allocated may still take some commits.
			testtool.Within(t, testtool.WaitLimit, "etcd stops", func() error {
				if !d.Status().Etcd.Healthy {
					return nil
				}
				last = commit(repo, "More", large(len(last)))
				return errors.New("it takes another commit")
			})
			last = commit(repo, "Last", files(700, "a", "b"))
			before := served(d)
			seeStatus(t, d, c.name, fields{
				"etcd.healthy": false, "etcd.error": matches(regexp.QuoteMeta(d.DataDir) + ".*" + c.says), "sync.status": "Unknown", "sync.message": matches(c.says),
				"conditions.Ready.status": "Unknown", "conditions.Stalled.status": "True", "conditions.Stalled.message": matches(c.says),
			})
			seeServing(t, d, c.name, before)

			c.fix(disk)
			seeStatus(t, d, "the disk is repaired", fields{
				"etcd.healthy": true, "etcd.error": absent, "sync.status": "Synced", "sync.last_applied_revision.commit": last, "sync.served_from": "etcd",
				"conditions.Ready.status": "True", "conditions.Stalled.status": "False",
			})
			wantNames(t, "etcd", keysIn(d.Etcdctl), servedNames(d)...)
			if d.PID() != pid {
				t.Error("the daemon was restarted")
			}
			// What was served last is on the disk again, too.
			killWithServer(t, d)
			if err := os.RemoveAll(filepath.Join(d.DataDir, "etcd")); err != nil {
				t.Fatal(err)
			}
			d.Start("--repo", repo.Bare()+".away")
			seeStatus(t, d, "restarted", fields{"sync.last_applied_revision.commit": last})
		})
	}
}

// large are policies that make etcd write; n makes them differ.
func large(n int) map[string]string {
	all := map[string]string{}
	for i := range 200 {
		name := fmt.Sprintf("large-%04d", i)
		all[file(name)] = delay(name, name, 1+n%1000)
	}
	return all
}

// The embedded etcd's process ends, as when the machine runs out of memory: the daemon starts it again.
func TestEmbeddedServerKilled(t *testing.T) {
	t.Parallel()
	repo, d, _ := runSynced(t)
	before, pid := served(d), d.PID()
	for i := range 3 {
		killed := killEmbeddedServer(t, d)
		testtool.Eventually(t, "it runs again", func() bool {
			all := children(d.PID())
			return len(all) == 1 && all[0] != killed
		})
		seeServing(t, d, "killed", before)
		next := commit(repo, "Next", files(600+i, "a", "b"))
		seeStatus(t, d, "after the kill", synced(next, 2))
		before = served(d)
	}
	if d.PID() != pid {
		t.Error("the daemon was restarted")
	}
}

// Started with a data folder that cannot be written, the daemon serves the last
// good set that lies there, and says what is wrong. It publishes again once the
// folder can be written.
func TestStartOnAnUnwritableDataFolder(t *testing.T) {
	t.Parallel()
	for _, spoilt := range []struct {
		name       string
		spoil, fix func(*disktest.Disk)
		says       string
	}{
		{"full", (*disktest.Disk).Fill, (*disktest.Disk).Free, "no space left on device"},
		{"read-only", (*disktest.Disk).ReadOnly, (*disktest.Disk).Writable, "read-only file system"},
	} {
		for _, external := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, external etcd %t", spoilt.name, external), func(t *testing.T) {
				t.Parallel()
				disk := disktest.New(t, diskSize)
				repo := gittest.New(t)
				first := commit(repo, "One", files(500, "a"))
				remote := gittest.ServeHTTP(t, repo, gittest.HTTP{})
				arguments := []string{"--interval", "1s", "--data-dir", filepath.Join(disk.Path, "data")}
				var server *etcdtest.Server
				if external {
					server = etcdtest.Start(t)
					arguments = append(arguments, "--etcd-endpoints", server.Endpoint)
				}
				d := hfidtest.Run(t, remote.URL, arguments...)
				d.WaitSynced(first)
				before := served(d)
				killWithServer(t, d)
				spoilt.spoil(disk)
				if external {
					server.Kill()
				}
				second := commit(repo, "Two", files(600, "a", "b"))
				d.Start()
				d.WaitReady()
				status := seeStatus(t, d, "started", fields{"conditions.Stalled.status": "True", "conditions.Stalled.message": matches(spoilt.says)})
				if healthy := at(status, "etcd.healthy"); healthy == true && spoilt.name == "read-only" {
					t.Error("an etcd that cannot write is healthy")
				}
				// On a full disk the embedded etcd may have stored the second commit before it
				// ended, because it allocates its log ahead.
				if textAt(status, "sync.last_applied_revision.commit") == second && spoilt.name == "full" && !external {
					wantNames(t, "the last policies", servedNames(d), "a", "b")
					before = served(d)
				} else {
					see(t, d, "started", "/v1/status", fields{"sync.last_applied_revision.commit": first})
				}
				seeServing(t, d, "started", before)
				if log := d.LogTail(100); !strings.Contains(log, spoilt.says) {
					t.Errorf("the log does not say %q:\n%s", spoilt.says, log)
				}
				// The folder is locked anyway.
				out := refused(t, 1, nil, "--repo", repo.Bare(), "--listen", "127.0.0.1:0", "--data-dir", d.DataDir)
				if !strings.Contains(out, "in use by another hfid") {
					t.Errorf("a second daemon in the folder says\n%s", out)
				}
				spoilt.fix(disk)
				if external {
					server.Restart()
				}
				seeStatus(t, d, "the disk is repaired", synced(second, 2).with(fields{"conditions.Stalled.status": "False"}))
			})
		}
	}
}

// Nothing can be served from a data folder that does not exist and cannot be
// created: that ends the daemon.
func TestStartWithoutADataFolder(t *testing.T) {
	t.Parallel()
	disk := disktest.New(t, 1)
	disk.ReadOnly()
	out := refused(t, 1, nil, "--repo", gittest.New(t).Bare(), "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(disk.Path, "data"))
	if !strings.Contains(out, "creating the data folder") || !strings.Contains(out, "read-only file system") {
		t.Errorf("it says\n%s", out)
	}
}

// A disk too full for a clone of the repository is named as the reason, no
// remains of the tries are left, and with room again the commit is applied.
func TestDiskTooFullForAClone(t *testing.T) {
	t.Parallel()
	disk := disktest.New(t, 4)
	server := etcdtest.Start(t)
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	remote := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	d := hfidtest.New(t, remote.URL, "--interval", "1s", "--data-dir", filepath.Join(disk.Path, "data"), "--etcd-endpoints", server.Endpoint)
	if err := os.MkdirAll(d.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	disk.Fill()
	d.Start()
	seeStatus(t, d, "full", fields{
		"source.error.reason": "DataFolderUnwritable", "source.error.message": matches("no space left on device"),
		"conditions.Stalled.status": "True", "conditions.Stalled.message": matches("no space left on device"),
	})
	looks := remote.Requests()
	testtool.Eventually(t, "it is tried again", func() bool { return remote.Requests() >= looks+6 })
	if clones, _ := filepath.Glob(filepath.Join(d.DataDir, "git", "*")); len(clones) > 1 {
		t.Errorf("these are left: %v", clones)
	}
	disk.Free()
	seeStatus(t, d, "with room again", synced(hash, 1))
}

// The data folder is removed while the daemon runs: it is created and locked
// again, and filled from git.
func TestDataFolderRemoved(t *testing.T) {
	t.Parallel()
	repo, d, _ := runSynced(t)
	before := served(d)
	if err := os.RemoveAll(d.DataDir); err != nil {
		t.Fatal(err)
	}
	seeServing(t, d, "removed", before)
	second := commit(repo, "Two", files(600, "a", "b"))
	seeStatus(t, d, "created again", synced(second, 2))
	testtool.Eventually(t, "the embedded etcd writes to the new folder", func() bool {
		logs, _ := filepath.Glob(filepath.Join(d.DataDir, "etcd", "member", "wal", "*.wal"))
		return len(logs) > 0
	})
	out := refused(t, 1, nil, "--repo", repo.Bare(), "--listen", "127.0.0.1:0", "--data-dir", d.DataDir)
	if !strings.Contains(out, "in use by another hfid") {
		t.Errorf("a second daemon in the folder says\n%s", out)
	}
	d.Restart()
	seeStatus(t, d, "restarted", synced(second, 2))
}

// The data folder is removed while the daemon runs, and another daemon is started
// in it before the first has locked it again: the first ends, and the second
// has the folder for itself.
func TestDataFolderTakenByAnother(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	first := hfidtest.Run(t, repo.Bare())
	first.Freeze()
	if err := os.RemoveAll(first.DataDir); err != nil {
		t.Fatal(err)
	}
	second := hfidtest.Run(t, repo.Bare(), "--data-dir", first.DataDir)
	second.WaitSynced(hash)
	first.Thaw()
	if exit := (*exec.ExitError)(nil); !errors.As(first.WaitExit(), &exit) || exit.ExitCode() != 1 {
		t.Errorf("the first daemon exited with %v", exit)
	}
	if last := first.LogTail(2); !strings.Contains(last, fmt.Sprintf("in use by another hfid (process %d)", second.PID())) {
		t.Errorf("the first daemon's last words are\n%s", last)
	}
	second.Restart()
	seeStatus(t, second, "restarted", synced(hash, 1))
}

// The data of the embedded etcd are damaged: the last good set is served, and
// when an operator moves them away, the running daemon publishes from git.
func TestDamagedEtcdTakenAway(t *testing.T) {
	t.Parallel()
	repo, d, _ := runSynced(t)
	before := served(d)
	killWithServer(t, d)
	folder := filepath.Join(d.DataDir, "etcd")
	if err := os.WriteFile(filepath.Join(folder, "member", "snap", "db"), []byte("this is no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Start()
	d.WaitReady()
	seeStatus(t, d, "damaged", fields{
		"etcd.healthy": false, "etcd.error": matches("data are damaged: move the folder etcd out of hfid's data folder"), "sync.served_from": "disk",
	})
	seeServing(t, d, "damaged", before)
	second := commit(repo, "Two", files(600, "a", "b"))
	if err := os.Rename(folder, folder+".damaged"); err != nil {
		t.Fatal(err)
	}
	seeStatus(t, d, "taken away", synced(second, 2))
}

// runSynced starts a daemon on a repository with one policy, whose commit it
// returns, and waits until it is synced.
func runSynced(t *testing.T, arguments ...string) (*gittest.Repo, *hfidtest.Daemon, string) {
	t.Helper()
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare(), append([]string{"--interval", "1s"}, arguments...)...)
	d.WaitSynced(first)
	return repo, d, first
}

func killEmbeddedServer(t *testing.T, d *hfidtest.Daemon) int {
	t.Helper()
	all := children(d.PID())
	if len(all) != 1 {
		// It has no other child: these repositories have no CUE packages.
		t.Fatalf("process %d has the children %v", d.PID(), all)
	}
	server, err := os.FindProcess(all[0])
	if err == nil {
		err = server.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// killWithServer kills the daemon and waits until its embedded server has ended too, which
// writes its files and then removes those that it allocated ahead.
func killWithServer(t *testing.T, d *hfidtest.Daemon) {
	t.Helper()
	all := children(d.PID())
	d.Kill()
	testtool.Eventually(t, "the processes of the killed daemon have ended", func() bool {
		return !slices.ContainsFunc(all, func(pid int) bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && !strings.Contains(string(text), ") Z ")
		})
	})
}

// children are the processes that a process has started, and that have not ended.
func children(pid int) (all []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(text), ") ")
		if state := strings.Fields(rest); len(state) > 1 && state[0] != "Z" && state[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			all = append(all, child)
		}
	}
	return all
}
