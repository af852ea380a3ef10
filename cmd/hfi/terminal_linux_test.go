package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/boifi/hfi/internal/testtool"
	"golang.org/x/sys/unix"
)

// openTerminal opens a pseudo-terminal: what is written to the second file can be read from the first.
func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testtool.Lacks(t, "no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return master, terminal
}

// onTerminal runs hfi with its output on a terminal, and returns what the terminal showed.
func onTerminal(t *testing.T, env []string, args ...string) string {
	t.Helper()
	master, terminal := openTerminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, "hfi", args...)
	command.Stdout, command.Stderr = terminal, terminal
	command.Env = append(append(os.Environ(), "TERM=xterm", "NO_COLOR="), env...)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	var screen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Reading ends with an error once the terminal's last user is gone.
		_, _ = screen.ReadFrom(master)
	}()
	if err := command.Wait(); err != nil {
		t.Errorf("hfi %s: %v", strings.Join(args, " "), err)
	}
	<-done
	return screen.String()
}

// statusServer answers with a status that is in sync, or whatever change makes of it.
func statusServer(t *testing.T, change func(n int64, text string) string) string {
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text := `{"filters": {"complete": true}, "sync": {"status": "Synced", "last_applied_revision": {"commit": "1111111111111111111111111111111111111111", "count": 3}},
			"etcd": {"healthy": true}, "drift": {"status": "None"}, "conditions": [{"type": "Ready", "status": "True", "reason": "Synced",
			"message": "evil \u001b]0;title\u0007 message"}]}`
		if change != nil {
			text = change(n.Add(1), text)
		}
		fmt.Fprint(w, text)
	}))
	t.Cleanup(server.Close)
	return "HFI_SERVER=" + server.URL
}

// Colour is for terminals, and not for those who ask for none.
func TestColour(t *testing.T) {
	server := statusServer(t, nil)
	const escape = "\x1b["
	if screen := onTerminal(t, []string{server}, "status"); !strings.Contains(screen, escape+"32mSynced"+escape+"0m") {
		t.Errorf("a terminal got no green word:\n%q", screen)
	}
	// A mesh without any filter is not what anyone wants.
	if screen := onTerminal(t, []string{server}, "status"); !strings.Contains(screen, escape+"33mnone connected") {
		t.Errorf("no connected filter is not yellow:\n%q", screen)
	}
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if screen := onTerminal(t, []string{server, env}, "status"); strings.Contains(screen, escape) || !strings.Contains(screen, "Synced") {
			t.Errorf("with %s a terminal got colour, or nothing:\n%q", env, screen)
		}
	}
	command := exec.Command("hfi", "status")
	command.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=", server)
	piped, err := command.CombinedOutput()
	if err != nil || strings.Contains(string(piped), escape) || !strings.Contains(string(piped), "Synced") {
		t.Errorf("a pipe got colour, or nothing: %v\n%q", err, piped)
	}
}

// Whatever the server's texts contain, hfi's output does not steer the terminal.
func TestForeignTextDoesNotSteerTheTerminal(t *testing.T) {
	const hostile = `evil\u001b]0;title\u0007\u001b[2J` + "\u009b2J\u202e\u0085"
	server := statusServer(t, func(_ int64, text string) string {
		for _, field := range []string{`"type": "`, `"status": "True`, `"reason": "`, `"message": "`} {
			text = strings.Replace(text, field, field+hostile, 1)
		}
		return strings.Replace(text, `"filters": {`, `"etcd_extra": "`+hostile+`", "kubernetes": {"policies": [{"without_filter_count": 1, "without_filter": [{"pod": "`+hostile+`", "namespace": "`+hostile+`"}]}]}, "filters": {`, 1)
	})
	for _, command := range [][]string{
		{"status"}, {"status", "-o", "wide"}, {"status", "-o", "json"}, {"status", "-o", "yaml"},
		{"status", "-o", "jsonpath={.conditions[*].type}{'\\n'}{.conditions[*].message}"}, {"wait", strings.Repeat("1", 40)},
	} {
		screen := onTerminal(t, []string{server, "NO_COLOR=1"}, command...)
		if strings.ContainsAny(screen, "\x1b\a\u009b\u202e\u0085") {
			t.Errorf("hfi %s: a control character reached the terminal:\n%q", strings.Join(command, " "), screen)
		}
		if command[0] == "status" && !strings.Contains(screen, "evil") {
			t.Errorf("hfi %s: the text is gone:\n%q", strings.Join(command, " "), screen)
		}
	}
}

// The JSON that hfi prints has the value of the server's answer, and a pipe gets the values as they are.
func TestHostileTextInJSON(t *testing.T) {
	server := statusServer(t, func(_ int64, text string) string { return strings.Replace(text, `"evil `, "\"evil \u009b\u202e", 1) })
	for format, want := range map[string]string{"json": `"evil \u009b\u202e\u001b]0;title\u0007 message"`, "jsonpath={.conditions[0].message}": "evil \u009b\u202e\x1b]0;title\a message"} {
		command := exec.Command("hfi", "status", "-o", format)
		command.Env = append(os.Environ(), server)
		if output, err := command.CombinedOutput(); err != nil || !strings.Contains(string(output), want) {
			t.Errorf("-o %s: %v, no %q in:\n%s", format, err, want, output)
		}
	}
}

// Tables fit a terminal of 80 columns, and keep everything if asked to.
func TestTablesFitTheTerminal(t *testing.T) {
	const message = "2 of 3 VMs with other policies in force than the current ones, for longer than a minute"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/filters":
			fmt.Fprintf(w, `{"connected": 1, "behind": 1, "complete": true, "items": [{"namespace": "production", "service": "checkout-frontend",
				"pod": "checkout-frontend-7d4b9c6f58-x2x9q", "node": "sidecar~10.0.0.1~checkout-frontend-7d4b9c6f58-x2x9q", "state": "Behind",
				"vms": {"total": 3, "current": 1, "behind": 2}, "message": %q}]}`, message)
		case "/v1/policies":
			fmt.Fprint(w, `{"policies": [{"metadata": {"name": "checkout-frontend-of-production-is-slow"}, "spec": {"selector": {"service": "checkout-frontend",
				"namespace": "production"}, "rules": [{"match": {"path": {"prefix": "/api/v1/orders"}}, "fault": {"delay_ms": 500, "percentage": 50}}]}}]}`)
		default:
			fmt.Fprintf(w, `{"sync": {"status": "Synced"}, "history": [{"commit": "1111111111111111111111111111111111111111", "outcome": "Refused",
				"author": "Grace Hopper <grace@example.org>", "subject": "End all of the experiments of the last quarter", "message": %q}]}`, message)
		}
	}))
	t.Cleanup(server.Close)
	ansi := regexp.MustCompile(`\x1b\[[0-9;]*m|\r`)
	for _, args := range [][]string{{"get", "filters"}, {"get"}, {"history"}} {
		screen := ansi.ReplaceAllString(onTerminal(t, []string{"HFI_SERVER=" + server.URL}, args...), "")
		for line := range strings.Lines(screen) {
			if width := utf8.RuneCountInString(strings.TrimSpace(line)); width > 80 {
				t.Errorf("hfi %v: a line has %d columns: %s", args, width, line)
			}
		}
		if !strings.Contains(screen, "…") {
			t.Errorf("hfi %v: nothing was cut:\n%s", args, screen)
		}
		wide := onTerminal(t, []string{"HFI_SERVER=" + server.URL}, append(args, "-o", "wide")...)
		if strings.Contains(wide, "…") {
			t.Errorf("hfi %v -o wide: something was cut:\n%s", args, wide)
		}
	}
}

// On a terminal, what takes over a second has a line that is rewritten in
// place and is gone at the end.
func TestProgressLine(t *testing.T) {
	server := statusServer(t, func(n int64, text string) string {
		if n < 8 {
			return strings.Replace(text, `"Synced", "last`, `"OutOfSync", "last`, 1)
		}
		return text
	})
	screen := onTerminal(t, []string{server}, "wait", strings.Repeat("1", 40))
	for _, want := range []string{"\r\x1b[KWaiting for 111111111111: OutOfSync, serving 111111111111 … 1s", "\r\x1b[K\x1b[32m111111111111 is served"} {
		if !strings.Contains(screen, want) {
			t.Errorf("the terminal did not get %q:\n%q", want, screen)
		}
	}
}
