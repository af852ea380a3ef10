package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/child"
)

// daemon is a running hfid.
type daemon struct {
	url, logFile string
	process      *os.Process
	// ended is closed once the process ended and err is set.
	ended chan struct{}
	err   error
}

var listening = regexp.MustCompile(`msg=listening address=(http\S+)`)

// startDaemon starts the daemon and waits until it is ready. After an error no process is left.
func (s *demo) startDaemon(ctx context.Context, listen string) (*daemon, error) {
	d := &daemon{logFile: filepath.Join(s.folder, "hfid.log"), ended: make(chan struct{})}
	log, err := os.Create(d.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(s.program("hfid"), "--repo", filepath.Join(s.folder, "policies.git"),
		"--data-dir", filepath.Join(s.folder, "data"), "--listen", listen)
	command.Stderr = log
	// In its own process group it does not get Ctrl-C before the demo stops the sidecars.
	child.EndWithParent(command, true)
	if err := command.Start(); err != nil {
		return nil, err
	}
	d.process = command.Process
	go func() {
		d.err = command.Wait()
		close(d.ended)
	}()
	if err := d.awaitReady(ctx); err != nil {
		d.stop()
		return nil, fmt.Errorf("%w\n%s", err, d.log())
	}
	return d, nil
}

func (d *daemon) awaitReady(ctx context.Context) error {
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ended:
			return fmt.Errorf("it exited: %w", d.err)
		case <-time.After(20 * time.Millisecond):
		}
		if found := listening.FindSubmatch(d.log()); found != nil {
			d.url = string(found[1])
			if _, err := get(ctx, d.url+"/ready"); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("it was not ready within %s", waitLimit)
}

func (d *daemon) log() []byte {
	text, _ := os.ReadFile(d.logFile) // Without a log there is nothing to show.
	return text
}

// stop sends SIGTERM, and SIGKILL if the process does not exit in time.
func (d *daemon) stop() {
	_ = d.process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(waitLimit):
		_ = d.process.Kill()
		<-d.ended
	}
}

// status is the answer of GET /v1/status.
type status = api.Status

// until polls the status until a condition holds.
func (s *demo) until(ctx context.Context, what string, shows func(status) bool) (status, error) {
	var last status
	for deadline := time.Now().Add(waitLimit); ctx.Err() == nil; {
		text, err := get(ctx, s.url+"/v1/status")
		if err == nil {
			last = status{}
			err = json.Unmarshal(text, &last)
		}
		switch {
		case err == nil && shows(last):
			return last, nil
		case time.Now().After(deadline):
			return last, fmt.Errorf("the status did not show %s within %s (%w): %s", what, waitLimit, err, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return last, ctx.Err()
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, text)
	}
	return text, err
}
