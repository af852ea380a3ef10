// Command bench measures hfi and its alternatives in one run, and prints a table.
// The ratios do not depend on the machine's speed; the absolute figures are for
// orientation. It runs bin/hfid with generated repositories and the stock git, cue
// and etcdctl.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
)

// row is one line of the table. met is false if a bound was missed.
type row struct {
	figure, value, bound string
	met                  bool
	// firm means that the bound does not depend on the load of the machine, so that it
	// is always checked.
	firm bool
}

// config is the size of the measurements.
type config struct {
	policies, samples, clients, commits, names int
	// The cost of a request is measured in rounds, each of a number of requests over a
	// number of connections, after a warm-up.
	rounds, requestsOfARound, connections, warmUp int
	// starts is the number of starts of an Envoy, and delayRounds that of rounds of a
	// hundred delayed requests by each filter.
	starts, delayRounds int
}

var sections = []struct {
	name string
	run  func(context.Context, config) ([]row, error)
}{
	{"cold", coldStart},
	{"change", oneChange},
	{"drift", driftSeen},
	{"commits", commitsFollowed},
	{"waiting", waitingClients},
	{"sidecars", sidecars},
	{"names", invented},
	{"filter", filterCosts},
	{"push", pushToFault},
}

func main() {
	quick := flag.Bool("quick", false, "measure with smaller numbers")
	check := flag.Bool("check", false, "exit with 1 if any bound is missed, and not only if one is missed that does not depend on the load of the machine")
	only := flag.String("only", "", "run one section: cold, change, drift, commits, waiting, sidecars, names, filter or push")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	settings := config{policies: 10_000, samples: 40, clients: 10_000, commits: 15_000, names: 1_000_000, rounds: 151, requestsOfARound: 700, connections: 8, warmUp: 20_000, starts: 5, delayRounds: 10}
	if *quick {
		settings = config{policies: 2_000, samples: 12, clients: 2_000, commits: 1_500, names: 100_000, rounds: 15, requestsOfARound: 700, connections: 8, warmUp: 20_000, starts: 1, delayRounds: 2}
	}
	raiseFileLimit()

	var rows []row
	for _, section := range sections {
		if *only != "" && *only != section.name {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", section.name)
		more, err := section.run(ctx, settings)
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", section.name, err)
			os.Exit(1)
		}
		rows = append(rows, more...)
	}
	print(rows)
	if slices.ContainsFunc(rows, func(r row) bool { return !r.met && (r.firm || *check) }) {
		fmt.Fprintln(os.Stderr, "bench: a bound is missed")
		os.Exit(1)
	}
}

func print(rows []row) {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "| figure\t| measured\t| bound\t| met\t|")
	fmt.Fprintf(table, "|%s\n", strings.Repeat("---|", 4))
	for _, r := range rows {
		met := "yes"
		if !r.met {
			met = "no"
		}
		if r.bound == "" {
			met = ""
		}
		fmt.Fprintf(table, "| %s\t| %s\t| %s\t| %s\t|\n", r.figure, r.value, r.bound, met)
	}
	table.Flush()
}
