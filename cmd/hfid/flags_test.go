package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

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

// Blanks around a value mean nothing, and an empty variable is an unset one.
func TestValuesAreTrimmed(t *testing.T) {
	for name, value := range map[string]string{
		"HFID_BRANCH": "release\n", "HFID_ETCD_ENDPOINTS": " http://a:2379, http://b:2379,\n", "HFID_STATE_KEY_FILE": "none\n", "HFID_INTERVAL": "7s\n",
		"HFID_DRIFT": "", "HFID_LOG_LEVEL": " ", "HFID_NO_SUCH_FLAG": "", "HFID_LOG_FORMAT": "json ",
	} {
		t.Setenv(name, value)
	}
	var o options
	flags := pflag.NewFlagSet("hfid", pflag.ContinueOnError)
	o.bind(flags)
	if err := flags.Parse([]string{"--repo", " /srv/policies.git ", "--kube-namespaces", "demo, shop"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fromEnvironment(flags), trim(flags), o.check()); err != nil {
		t.Fatal(err)
	}
	got := []any{o.repo, o.branch, o.etcd.Endpoints, o.interval, o.drift, o.logLevel, o.logFormat, o.kube.namespaces}
	want := []any{"/srv/policies.git", "release", []string{"http://a:2379", "http://b:2379"}, 7 * time.Second, "report", "info", "json", []string{"demo", "shop"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{"text": `level=WARN msg=hello name=x`, "json": `"level":"WARN","msg":"hello","name":"x"}`} {
		var log bytes.Buffer
		logger, err := newLogger(&log, "warn", format)
		if err != nil {
			t.Fatal(err)
		}
		logger.Info("not this")
		logger.Warn("hello", "name", "x")
		if !strings.Contains(log.String(), want) || strings.Contains(log.String(), "not this") {
			t.Errorf("%s: %s", format, log.String())
		}
	}
	if _, err := newLogger(io.Discard, "info", "xml"); err == nil || !strings.Contains(err.Error(), "--log-format must be text or json") {
		t.Errorf("--log-format xml: %v", err)
	}
}

// The usage text of every flag that takes a value has its default, or says that it is required.
func TestUsageHasDefaults(t *testing.T) {
	newCommand().Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.DefValue == "" || flag.DefValue == "[]" {
			if !strings.Contains(flag.Usage, "(default: ") && !strings.Contains(flag.Usage, "required") {
				t.Errorf("--%s: %s", flag.Name, flag.Usage)
			}
		}
	})
}

// Replicas that share an etcd must share a key. Who wants none has to say so.
func TestAnExternalEtcdNeedsAStateKey(t *testing.T) {
	for arguments, want := range map[string]bool{
		"":                               true,
		"--state-key-file key":           true,
		"--etcd-endpoints http://a:2379": false,
		"--etcd-endpoints http://a:2379 --state-key-file key":  true,
		"--etcd-endpoints http://a:2379 --state-key-file none": true,
	} {
		var o options
		flags := pflag.NewFlagSet("hfid", pflag.ContinueOnError)
		o.bind(flags)
		if err := flags.Parse(append([]string{"--repo", "x"}, strings.Fields(arguments)...)); err != nil {
			t.Fatal(err)
		}
		err := o.check()
		if (err == nil) != want {
			t.Errorf("%q: %v", arguments, err)
		}
		if err != nil && !strings.Contains(err.Error(), "head -c 32 /dev/urandom | base64 > FILE") {
			t.Errorf("the error does not say how to make a key: %v", err)
		}
	}
}
