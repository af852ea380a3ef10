package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api"
)

func newHistory(a *app) *cobra.Command {
	var limit int
	command := &cobra.Command{
		Use:   "history",
		Short: "Show the commits that the daemon applied or rejected",
		Long: `Show the commits that the daemon tried to apply, newest first: the outcome of each
(Applied, Invalid, Refused or Unverified), and the earlier commit whose policies it
restored, if any. With -o wide it shows who signed each, if the daemon verifies signatures.`,
		Example: `  hfi history
  hfi history -o wide
  hfi history -n 5
  hfi history -o json | jq -r '.[] | select(.outcome == "Applied") | .commit'`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{withNames: "true"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageError("--limit must be 0 or more")
			}
			daemon, err := a.client()
			if err != nil {
				return err
			}
			_, text, err := daemon.Status(cmd.Context())
			if err != nil {
				return fmt.Errorf("getting the history: %w", err)
			}
			return a.printHistory(text, limit)
		},
	}
	command.Flags().IntVarP(&limit, "limit", "n", 0, "maximum number of `entries` to show; 0 shows all")
	return command
}

// printHistory prints a status's history; JSON keeps the daemon's fields.
func (a *app) printHistory(status []byte, limit int) error {
	var answer struct {
		History []json.RawMessage `json:"history"`
	}
	if err := json.Unmarshal(status, &answer); err != nil {
		return fmt.Errorf("reading the history: %w", err)
	}
	if limit > 0 && len(answer.History) > limit {
		answer.History = answer.History[:limit]
	}
	entries := make([]api.HistoryEntry, len(answer.History))
	commits := make([]string, len(answer.History))
	for i, raw := range answer.History {
		if err := json.Unmarshal(raw, &entries[i]); err != nil {
			return fmt.Errorf("reading the history: %w", err)
		}
		commits[i] = entries[i].Commit
	}
	if done, err := a.names(commits); done {
		return err
	}
	if done, err := a.value(orEmpty(answer.History)); done {
		return err
	}
	if len(answer.History) == 0 {
		_, err := fmt.Fprintln(a.stdout, "No commits yet.")
		return err
	}
	wide := a.output.String() == wideFormat
	header := []string{"AT", "COMMIT", "OUTCOME", "AUTHOR", "SUBJECT", "NOTE"}
	if wide {
		header = append(header, "SIGNATURE")
	}
	var rows [][]string
	for _, entry := range entries {
		note := entry.Message
		if entry.Restores != "" {
			note = join(", ", "restores "+short(entry.Restores), note)
		}
		row := []string{entry.At.Local().Format(time.DateTime), short(entry.Commit), string(entry.Outcome),
			entry.Author, entry.Subject, note}
		if wide {
			row = append(row, describeSignature(entry.Signature))
		}
		rows = append(rows, row)
	}
	return a.table(header, rows)
}

// describeSignature says who signed a commit, or what is known of its signature. It
// is empty if the daemon did not verify it.
func describeSignature(signature *api.Signature) string {
	switch {
	case signature == nil:
		return ""
	case signature.Status == api.SignatureVerified:
		return fmt.Sprintf("%s: %s, %s", signature.Status, signature.Signer, signature.Key)
	}
	return fmt.Sprintf("%s: %s", signature.Status, signature.Reason)
}
