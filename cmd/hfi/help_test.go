package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The usage text of every flag that takes a value has its default, or says that it is required.
func TestUsageHasDefaults(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(command *cobra.Command) {
		command.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			if zero := flag.DefValue == "" || flag.DefValue == "[]" || flag.DefValue == "0s"; zero &&
				!strings.Contains(flag.Usage, "(default: ") && !strings.Contains(flag.Usage, "required") {
				t.Errorf("%s --%s: %s", command.CommandPath(), flag.Name, flag.Usage)
			}
		})
		for _, child := range command.Commands() {
			visit(child)
		}
	}
	visit(newRoot(&app{}))
}

// Every command, cobra's own completion included, has help with a sentence and examples.
func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	var visit func(*cobra.Command)
	visited := 0
	visit = func(command *cobra.Command) {
		if command.Name() == "help" {
			return
		}
		visited++
		t.Run(command.CommandPath(), func(t *testing.T) {
			if command.Short == "" {
				t.Error("it has no short description")
			}
			var stdout, stderr bytes.Buffer
			args := append(strings.Fields(command.CommandPath())[1:], "--help")
			if code := run(args, nil, &stdout, &stderr); code != exitOK {
				t.Fatalf("--help: exit code %d: %s", code, stderr.String())
			}
			if !strings.Contains(stdout.String(), "Examples:\n  ") {
				t.Errorf("--help shows no examples:\n%s", stdout.String())
			}
		})
		for _, child := range command.Commands() {
			visit(child)
		}
	}
	visit(newRoot(&app{}))
	if visited < 15 {
		t.Errorf("only %d commands were visited", visited)
	}
}
