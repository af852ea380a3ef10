package main

import "github.com/spf13/cobra"

// addCompletionExamples adds examples to cobra's own completion commands.
func addCompletionExamples(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	examples := map[string]string{
		"completion": "  source <(hfi completion bash)",
		"bash":       "  source <(hfi completion bash)\n  hfi completion bash > /etc/bash_completion.d/hfi",
		"zsh":        "  hfi completion zsh > \"${fpath[1]}/_hfi\"",
		"fish":       "  hfi completion fish > ~/.config/fish/completions/hfi.fish",
		"powershell": "  hfi completion powershell | Out-String | Invoke-Expression",
	}
	for _, command := range root.Commands() {
		if command.Name() != "completion" {
			continue
		}
		command.Example = examples["completion"]
		for _, shell := range command.Commands() {
			shell.Example = examples[shell.Name()]
		}
	}
}
