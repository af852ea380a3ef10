package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/schema/scaffold"
)

func newInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Create a policy repository that is ready for cue vet",
		Long: `Write a policy repository into DIR: the schema, limits for its policies, an example policy in
YAML and one in CUE, and a CI workflow that checks every push with the stock cue command.

DIR is created if it does not exist. A README.md in it is kept; if any other of the
files exists already, nothing is written.`,
		Example: `  hfi init chaos
  cd chaos && git init -b main && git add . && git commit -m "Initial policies"`,
		Args: exactly(1, "DIR, the folder to create it in"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			kept, err := scaffold.Write(dir)
			if err != nil {
				return fmt.Errorf("creating a policy repository: %w", err)
			}
			if done, err := a.value(map[string]string{"dir": dir}); done {
				return err
			}
			return a.printNextSteps(dir, kept)
		},
	}
}

func (a *app) printNextSteps(dir string, keptReadme bool) error {
	kept, push := "", `git init -b main && git add . && git commit -m "Initial policies"
  git remote add origin URL && git push -u origin main
  hfid --repo URL                            # serves what you push`
	if keptReadme {
		kept = fmt.Sprintf(" %s is kept as it is.", scaffold.Readme)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
		push = `git add . && git commit -m "Initial policies" && git push
  hfid --repo URL                            # serves what you push`
	}
	_, err := fmt.Fprintf(a.stdout, `Created a policy repository in %s.%s Next:

  cd %s
  hfi vet                                    # or cue vet, as the CI workflow does
  %s
`, clean(dir), kept, clean(filepath.Clean(dir)), push)
	return err
}

// exactly checks the number of arguments and names what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s requires %s, and got %s", cmd.CommandPath(), what, plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}
