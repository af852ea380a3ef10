package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/boifi/hfi/reconciler/cue"
)

// TestMain makes this test binary the hfi command for the scripts: the real
// program, in processes of its own.
func TestMain(m *testing.M) {
	// A child that evaluates CUE is this program too, under another name than hfi.
	cue.RunChild()
	testscript.Main(m, map[string]func(){"hfi": main})
}

// TestScripts runs the transcripts in testdata/script, against stock git and a
// daemon that is written by hand. They show that a change is a commit and a
// push, that what was applied comes back from GET /v1/policies, and the
// contract with scripts: exit codes, output formats, standard error.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": cmdDaemon,
			"exits":  cmdExits,
			"origin": cmdOrigin,
		},
	})
}

const gitConfig = `[user]
	name = Ada
	email = ada@example.org
[init]
	defaultBranch = main
[advice]
	detachedHead = false
`

// setUp gives a script a git configuration of its own and no server.
func setUp(env *testscript.Env) error {
	config := filepath.Join(env.WorkDir, ".gitconfig")
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("GIT_CONFIG_GLOBAL", config)
	env.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	env.Setenv("GIT_TERMINAL_PROMPT", "0")
	// Nothing listens on port 1.
	env.Setenv("HFI_SERVER", "http://127.0.0.1:1")
	env.Values[daemonKey{}] = &fakeDaemon{}
	return os.WriteFile(config, []byte(gitConfig), 0o644)
}

// cmdExits runs a program and expects an exit code: exits CODE PROGRAM ARGS…
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdOrigin makes the bare repository $ORIGIN with what the folder seed
// holds, and a clone of it in the folder other: origin
func cmdOrigin(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.Getenv("WORK")
	ts.Setenv("ORIGIN", filepath.Join(work, "origin.git"))
	ts.Setenv("HFI_REPO", "")
	for _, git := range [][]string{
		{"init", "-q", "--bare", "origin.git"},
		// Its own hooks, whatever a script says of the user's.
		{"-C", "origin.git", "config", "core.hooksPath", filepath.Join(work, "origin.git", "hooks")},
		{"clone", "-q", "origin.git", "other"},
		{"-C", "other", "--work-tree", filepath.Join(work, "seed"), "add", "-A"},
		{"-C", "other", "commit", "-q", "-m", "Begin"},
		{"-C", "other", "reset", "-q", "--hard"},
		{"-C", "other", "push", "-q", "-u", "origin", "main"},
	} {
		ts.Check(ts.Exec("git", git...))
	}
}
