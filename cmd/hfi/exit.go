package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api/client"
)

// The exit codes. Scripts depend on them: see exitCodesText.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInvalid     = 3
	exitTimeout     = 4
	exitDiffers     = 5
	exitNotFound    = 6
	exitRefused     = 7
	exitUnreachable = 8
	exitSilent      = 9
	exitInterrupted = 130
)

const exitCodesText = `hfi's exit codes:

    0  done, or nothing to do
    1  any other failure: git, a file, a malformed answer
    2  usage error: unknown command or flag, or a wrong argument
    3  policies are invalid (vet, apply, delete, diff)
    4  timed out (--timeout)
    5  with --exit-code: not in sync, or drifted (status); different (diff)
    6  the policy does not exist (get, delete)
    7  the daemon does not apply the commit: it is invalid, refused by the
       guard against unintended deletion, superseded or not on the branch, or
       the branch cannot be read until somebody acts (wait, apply, delete)
    8  no daemon answers at --server, or a proxy there reaches none
    9  the commit is served, but a filter has stopped asking for policies or
       says that it cannot inject faults, or a targeted pod has had no filter
       for a minute (wait, apply, delete)
  130  interrupted`

func newExitCodes(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "List the exit codes and their meaning",
		Long:  exitCodesText,
		Example: `  hfi wait HEAD; case $? in
    4) echo "still not served" ;;
    7) echo "the daemon does not apply it" ;;
    9) echo "a sidecar does not enforce it" ;;
  esac`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, exitCodesText)
			return err
		},
	}
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

func isExit(err error) bool {
	var exit *exitError
	return errors.As(err, &exit)
}

func usageError(pattern string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(pattern, args...)}
}

func exitCode(err error, interrupted bool) int {
	var exit *exitError
	var unreachable *client.UnreachableError
	switch {
	case interrupted:
		return exitInterrupted
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	}
	return exitFailure
}

// explain returns the error message with advice, in one line, or an empty string if
// the command printed everything already.
func explain(err error, interrupted bool) string {
	var exit *exitError
	var unreachable *client.UnreachableError
	var malformed *client.MalformedError
	switch {
	case interrupted:
		return "interrupted"
	case errors.As(err, &unreachable):
		return err.Error() + ": start hfid, or set --server or HFI_SERVER to its address"
	case errors.As(err, &malformed):
		return err.Error() + ": check --server and HFI_SERVER"
	case errors.As(err, &exit) && exit.code == exitUsage:
		return err.Error() + ` (see "hfi --help")`
	}
	return err.Error()
}
