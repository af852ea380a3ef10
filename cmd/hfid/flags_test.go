package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/version"
)

// The daemon says its version without a repository to follow.
func TestVersionFlag(t *testing.T) {
	var stdout, stderr bytes.Buffer
	command := newCommand()
	command.SetArgs([]string{"--version"})
	command.SetOut(&stdout)
	command.SetErr(&stderr)
	if err := command.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := stdout.String(), "hfid "+version.Get().String()+"\n"; got != want || stderr.Len() != 0 {
		t.Errorf("got %q and, on standard error, %q; want %q", got, stderr.String(), want)
	}
}

// --help and --version are flags and no settings: a variable of their name is
// refused as every other that means nothing.
func TestHelpAndVersionAreNoSettings(t *testing.T) {
	for _, name := range []string{"HFID_HELP", "HFID_VERSION"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "true")
			command := newCommand()
			command.SetArgs(nil)
			err := command.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), name+" has no flag") {
				t.Errorf("with %s set: %v", name, err)
			}
		})
	}
}
