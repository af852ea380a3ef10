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
)

// daemon is a running hfid.
type daemon struct {
	url, logFile string
	process      *os.Process
	// ended is closed when the process has ended, as err says.
	ended chan struct{}
	err   error
}

var listening = regexp.MustCompile(`msg=listening address=(http\S+)`)

// startDaemon returns when the daemon is ready. With an error none is left running.
func (s *stage) startDaemon(ctx context.Context, listen string) (*daemon, error) {
	d := &daemon{logFile: filepath.Join(s.folder, "hfid.log"), ended: make(chan struct{})}
	log, err := os.Create(d.logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(s.program("hfid"), "--repo", filepath.Join(s.folder, "policies.git"),
		"--data-dir", filepath.Join(s.folder, "data"), "--listen", listen)
	command.Stderr = log
	// In a group of its own a Ctrl-C does not reach it before the demo has stopped what needs it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
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
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ended:
			return fmt.Errorf("it ended: %w", d.err)
		case <-time.After(20 * time.Millisecond):
		}
		if found := listening.FindSubmatch(d.log()); found != nil {
			d.url = string(found[1])
			if _, err := get(ctx, d.url+"/ready"); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("it was not ready within %s", patience)
}

func (d *daemon) log() []byte {
	text, _ := os.ReadFile(d.logFile) // an empty log says as much
	return text
}

// stop asks it to end, and makes it end if it does not.
func (d *daemon) stop() {
	_ = d.process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		_ = d.process.Kill()
		<-d.ended
	}
}

// status is GET /v1/status.
type status = api.Status

// until asks for the status until it shows something.
func (s *stage) until(ctx context.Context, what string, shows func(status) bool) (status, error) {
	var last status
	for deadline := time.Now().Add(patience); ctx.Err() == nil; {
		text, err := get(ctx, s.url+"/v1/status")
		if err == nil {
			last = status{}
			err = json.Unmarshal(text, &last)
		}
		switch {
		case err == nil && shows(last):
			return last, nil
		case time.Now().After(deadline):
			return last, fmt.Errorf("the status did not show %s within %s (%w): %s", what, patience, err, text)
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
