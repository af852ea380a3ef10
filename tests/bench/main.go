// Command bench measures hfi beside what one would use instead, in one run,
// and prints a table. The machine's speed cancels out of the ratios; the
// absolute figures are for orientation.
//
// It runs the hfid of bin/, on repositories that it makes, with the stock
// git, cue and etcdctl.
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

// row is one line of the table. met is false where a bound was missed.
type row struct {
	figure, value, bound string
	met                  bool
	// firm: the bound does not depend on how busy the machine is, and so is
	// judged always.
	firm bool
}

// config is how much is measured.
type config struct {
	policies, samples, clients int
	// rounds of so many requests by so many connections measure the cost of a
	// request, after a warm-up of so many.
	rounds, requestsOfARound, connections, warmUp int
	// starts are of an Envoy, and delayRounds of a hundred delayed requests by each filter.
	starts, delayRounds int
}

var sections = []struct {
	name string
	run  func(context.Context, config) ([]row, error)
}{
	{"cold", coldStart},
	{"change", oneChange},
	{"drift", driftSeen},
	{"waiting", waitingClients},
	{"filter", filterCosts},
	{"push", pushToFault},
}

func main() {
	quick := flag.Bool("quick", false, "measure with smaller numbers")
	check := flag.Bool("check", false, "exit with 1 where any bound is missed, and not only where one is that no busy machine explains")
	only := flag.String("only", "", "run one section: cold, change, drift, waiting, filter or push")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	settings := config{policies: 10_000, samples: 40, clients: 10_000, rounds: 151, requestsOfARound: 700, connections: 8, warmUp: 20_000, starts: 5, delayRounds: 10}
	if *quick {
		settings = config{policies: 2_000, samples: 12, clients: 2_000, rounds: 15, requestsOfARound: 700, connections: 8, warmUp: 20_000, starts: 1, delayRounds: 2}
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

func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}
