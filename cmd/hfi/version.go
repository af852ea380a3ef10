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
		Short: "Show the version, the commit, the Go release and the platform of this program",
		Long: `Show the version of this program, the commit and the Go release that it was built
from, and the platform that it was built for. It does not ask the daemon:
"hfid --version" and its metric hfi_build_info say the same of that.`,
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
