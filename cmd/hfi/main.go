// Command hfi is the command line of hfi: it creates and validates repositories of
// fault policies, changes them by commits, and shows what the daemon serves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/boifi/hfi/internal/api/client"
	"github.com/boifi/hfi/internal/version"
	"github.com/boifi/hfi/reconciler/cue"
)

func main() {
	// First: this program is also the child process that evaluates CUE.
	cue.RunChild()
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes a command line and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal kills the program without cleaning up.
	context.AfterFunc(ctx, stop)
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !a.running {
		// An error before the command runs is a usage error.
		err = usageError("%v", err)
	}
	interrupted := ctx.Err() != nil
	code := exitCode(err, interrupted)
	if message := explain(err, interrupted); message != "" {
		fmt.Fprintf(stderr, "%s %s\n", a.paintErr(red, "hfi:"), clean(message))
	}
	return code
}

// defaultTimeout is the default of --timeout.
const defaultTimeout = 2 * time.Minute

// app is shared by all commands.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	// The global flags.
	server, secretFile string

	timeout time.Duration
	output  format

	// running is set once the command line is parsed.
	running bool
}

// client returns a client of the daemon at --server.
func (a *app) client() (*client.Client, error) {
	daemon, err := client.New(a.server)
	if err != nil {
		return nil, usageError("--server: %v", err)
	}
	if a.secretFile != "" {
		secret, err := os.ReadFile(a.secretFile)
		if err != nil {
			return nil, usageError("--webhook-secret-file: %v", err)
		}
		daemon.Secret = strings.TrimSpace(string(secret))
	}
	return daemon, nil
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "hfi",
		Short: "Fault policies for Envoy and Istio, from git",
		Long: `hfi creates and validates repositories of fault policies, changes them by commits,
and shows what the daemon (hfid) serves.

The exit code says what happened: see "hfi help exit-codes".`,
		Example: `  hfi init chaos                   # create a policy repository
  hfi vet chaos                    # validate it
  hfi apply -f frontend.yaml       # commit, push, wait until it is served
  hfi status                       # whether git, etcd and the filters agree
  hfi wait HEAD --timeout 30s      # wait until every filter has the last commit
  hfi get filters                  # which sidecars enforce it`,
		Version:       version.Get().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		// Of mistyped commands that are this near, the right one is suggested.
		SuggestionsMinimumDistance: 2,
		Args:                       knownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate(versionTemplate)
	flags := root.PersistentFlags()
	flags.StringVar(&a.server, "server", envOr("HFI_SERVER", "http://127.0.0.1:8080"), "`address` of the daemon, or HFI_SERVER")
	flags.StringVar(&a.secretFile, "webhook-secret-file", envOr("HFI_WEBHOOK_SECRET_FILE", ""), "`file` with the secret of the daemon's webhooks, which triggers a fetch from git, or HFI_WEBHOOK_SECRET_FILE (default: none)")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "maximum time that the command may take")
	flags.VarP(&a.output, "output", "o", "output `format`: table, wide, name, json, yaml or jsonpath=EXPRESSION")
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(
		newInit(a), newVet(a), newApply(a), newDelete(a), newGet(a), newStatus(a),
		newDiff(a), newHistory(a), newWait(a), newVersion(a), newExitCodes(a),
	)
	a.limitAll(root.Commands())
	addCompletionExamples(root)
	return root
}

// trim removes blanks around the values of flags.
func trim(flags *pflag.FlagSet) error {
	var problems []error
	flags.Visit(func(flag *pflag.Flag) {
		if flag.Value.Type() == "string" {
			problems = append(problems, flag.Value.Set(strings.TrimSpace(flag.Value.String())))
		}
	})
	return errors.Join(problems...)
}

// knownCommand refuses arguments of hfi itself, and suggests the command that was probably meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unknown command %q%s", args[0], suggestion(cmd, args[0]))
}

// suggestion is a question for the commands whose names are near, or empty.
func suggestion(cmd *cobra.Command, typed string) string {
	near := cmd.SuggestionsFor(typed)
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", cmd.CommandPath()+" "+near[0])
}

// limitAll applies limited to commands and their subcommands.
func (a *app) limitAll(commands []*cobra.Command) {
	for _, command := range commands {
		if command.RunE != nil {
			command.RunE = a.limited(command.RunE)
		}
		a.limitAll(command.Commands())
	}
}

// limited bounds a command by --timeout.
func (a *app) limited(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if a.timeout <= 0 {
			return usageError("--timeout must be more than 0, not %v", a.timeout)
		}
		if a.output.String() == nameFormat && cmd.Annotations[withNames] == "" {
			return usageError("%s cannot print names: -o name is for get, history, diff, apply and delete", cmd.CommandPath())
		}
		if err := trim(cmd.Flags()); err != nil {
			return usageError("%v", err)
		}
		a.running = true
		if watch := cmd.Flags().Lookup("watch"); watch != nil && watch.Changed && !cmd.Flags().Changed("timeout") {
			return run(cmd, args) // until it is interrupted
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		cmd.SetContext(ctx)
		err := run(cmd, args)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && !isExit(err) {
			return &exitError{exitTimeout, fmt.Errorf("timed out after %v (%w): raise --timeout", a.timeout, err)}
		}
		return err
	}
}

func envOr(name, otherwise string) string {
	if value := strings.TrimSpace(os.Getenv(name)); value != "" {
		return value
	}
	return otherwise
}

// must panics on errors that only a defect of this program can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
