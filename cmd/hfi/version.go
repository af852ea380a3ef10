package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/version"
)

// versionTemplate is what --version prints: the line of "hfi version".
const versionTemplate = "{{.Name}} {{.Version}}\n"

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of hfi",
		Long: `Show the version of hfi, the commit and the Go version it was built with, and its
platform. It does not contact the daemon: use "hfid --version" or the daemon's metric
hfi_build_info for that.`,
		Example: `  hfi version
  hfi version -o json | jq -r .version`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := version.Get()
			if done, err := a.value(info); done {
				return err
			}
			_, err := fmt.Fprintf(a.stdout, "hfi %s\n", info)
			return err
		},
	}
}
