package git

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// SSH addresses lead to the same user, host, port and path as with git.
func TestSSHAddressesAgreeWithGit(t *testing.T) {
	folder := t.TempDir()
	called := filepath.Join(folder, "called")
	ssh := filepath.Join(folder, "ssh")
	script := "#!/bin/sh\nfor argument; do echo \"$argument\"; done > " + called + "\nexit 1\n"
	if err := os.WriteFile(ssh, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	asked := func(address string) (host, port, path string) {
		t.Helper()
		if err := os.RemoveAll(called); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "git", "-c", "protocol.version=0", "ls-remote", address)
		command.Env = append(gittest.Environment(), "GIT_SSH="+ssh, "GIT_SSH_VARIANT=ssh")
		_ = command.Run() // The script always fails.
		text, err := os.ReadFile(called)
		if err != nil {
			return "", "", ""
		}
		arguments := strings.Split(strings.TrimSpace(string(text)), "\n")
		port = "22"
		if arguments[0] == "-p" {
			port, arguments = arguments[1], arguments[2:]
		}
		return arguments[0], port, strings.Trim(strings.TrimPrefix(arguments[1], "git-upload-pack "), "'")
	}
	for _, address := range []string{
		"git@host:path/r.git", "git@host:/srv/r.git", "host:/srv/r.git", "host:r.git", "git@host:~/r.git", "git@host:/~/r.git", "git@host:~ada/r.git",
		"git@[::1]:r.git", "[::1]:/srv/r.git", "git@[host:2222]:r.git", "[git@host:2222]:/srv/r.git", "[host]:r.git", "git@[::1]:/~/r.git",
		"ssh://host/srv/r.git", "ssh://git@host:2222/srv/r.git", "ssh://host/~/r.git", "ssh://git@host/~ada/r.git", "ssh://git@[::1]:2222/r.git",
		"git+ssh://git@host/r.git", "ssh+git://host:23/~/r.git", "ssh://git@host/a%20b.git", "ssh://host/r.git/", "host:a:b.git",
		"./host:r.git", "/srv/a:b.git", "a/b:c",
	} {
		host, port, path := asked(address)
		got := parseAddress(address)
		if host == "" {
			if got.ssh != nil && got.problem == "" {
				t.Errorf("%s: to git it is no SSH address, here %+v", address, *got.ssh)
			}
			continue
		}
		if got.ssh == nil {
			t.Errorf("%s: to git it is an SSH address, here %+v", address, got)
			continue
		}
		if !strings.Contains(host, "@") {
			host = "git@" + host // The default that git has from the system's user.
		}
		if have := got.ssh.user + "@" + got.ssh.host; have != host || strconv.Itoa(got.ssh.port) != port || got.ssh.path != path {
			t.Errorf("%s: got %s port %d path %s, git has %s port %s path %s", address, have, got.ssh.port, got.ssh.path, host, port, path)
		}
	}
}

// A folder's address is absolute for everybody who reads it.
func TestLocalAddressesAreAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{"policies.git": here + "/policies.git", "../x": filepath.Dir(here) + "/x", "file:///srv/p.git": "/srv/p.git", "/srv/p.git/": "/srv/p.git"} {
		if got := parseAddress(text); got.local != want || got.display != want {
			t.Errorf("%s is %q, displayed %q, want %q", text, got.local, got.display, want)
		}
	}
}

// As in git, C: is a drive on Windows, and a host elsewhere.
func TestDriveIsNoSSHHost(t *testing.T) {
	for _, c := range []struct {
		system, text string
		want         bool
	}{
		{"windows", `C:\chaos`, false}, {"windows", "c:/chaos", false}, {"windows", "C:chaos", false},
		{"windows", "cc:/chaos", true}, {"windows", "c@h:/chaos", true}, {"windows", "1:/chaos", true},
		{"linux", "c:/chaos", true},
	} {
		if ssh, got := parseSCPLike(c.system, c.text); got != c.want {
			t.Errorf("%s on %s: an SSH address %v (%+v), want %v", c.text, c.system, got, ssh, c.want)
		}
	}
}
