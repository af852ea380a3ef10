package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/boifi/hfi/internal/child"
)

// daemon is a running hfid.
type daemon struct {
	url, data string
	command   *exec.Cmd
	log       *os.File
}

var listening = regexp.MustCompile(`msg=listening address=(\S+)`)

// start runs hfid and returns once it listens.
func start(ctx context.Context, repo, data string, flags ...string) (*daemon, error) {
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(data, "hfid.log"))
	if err != nil {
		return nil, err
	}
	args := append([]string{"--repo", repo, "--data-dir", data, "--listen", "127.0.0.1:0"}, flags...)
	command := exec.CommandContext(ctx, "bin/hfid", args...)
	command.Stderr = log
	child.EndWithParent(command, false)
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting bin/hfid (make build): %w", err)
	}
	d := &daemon{data: data, command: command, log: log}
	err = until(ctx, 30*time.Second, "hfid listens", func() bool {
		text, _ := os.ReadFile(log.Name())
		found := listening.FindSubmatch(text)
		if found != nil {
			d.url = string(found[1])
		}
		return found != nil
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, errors.Join(err, d.stop(), fmt.Errorf("its log: %s", text))
	}
	return d, nil
}

// serving creates a repository of that many policies and a daemon that serves it.
// end stops the daemon and removes both.
func serving(ctx context.Context, policies int) (r *repo, d *daemon, end func() error, err error) {
	folder, err := os.MkdirTemp("", "hfi-bench-")
	if err != nil {
		return nil, nil, nil, err
	}
	if r, err = newRepo(folder, policies); err != nil {
		return nil, nil, nil, errors.Join(err, os.RemoveAll(folder))
	}
	if d, err = start(ctx, r.bare, filepath.Join(folder, "data")); err != nil {
		return nil, nil, nil, errors.Join(err, os.RemoveAll(folder))
	}
	end = func() error { return errors.Join(d.stop(), os.RemoveAll(folder)) }
	if err := d.served(ctx, policies); err != nil {
		return nil, nil, nil, errors.Join(err, end())
	}
	return r, d, end, nil
}

func (d *daemon) stop() error {
	defer d.log.Close()
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return d.command.Wait()
}

// served waits until the daemon serves that many policies.
func (d *daemon) served(ctx context.Context, count int) error {
	want := fmt.Sprintf(`"total_policies":%d,`, count)
	return until(ctx, 5*time.Minute, fmt.Sprintf("%d policies served", count), func() bool {
		_, body, err := get(ctx, d.url+"/v1/policies/status", nil)
		return err == nil && strings.Contains(string(body), want)
	})
}

// memory adds up a line of the status of the process, and of that of its
// embedded etcd, in MB: VmRSS or VmHWM.
func (d *daemon) memory(line string) (float64, error) {
	pid := d.command.Process.Pid
	total, err := memoryOf(pid, line)
	if err != nil {
		return 0, err
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // That thread has ended.
		}
		for _, child := range strings.Fields(string(text)) {
			number, err := strconv.Atoi(child)
			if err != nil {
				return 0, err
			}
			more, err := memoryOf(number, line)
			if err != nil {
				return 0, err
			}
			// It is the same program, whose pages the two share.
			shared, err := memoryOf(number, "RssFile")
			if err != nil {
				return 0, err
			}
			total += more - shared
		}
	}
	return total, nil
}

func memoryOf(pid int, line string) (float64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if rest, found := strings.CutPrefix(scanner.Text(), line+":"); found {
			kilobytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kilobytes / 1024, err
		}
	}
	return 0, fmt.Errorf("no line %s for process %d", line, pid)
}

func (d *daemon) etcd() (string, error) {
	text, err := os.ReadFile(filepath.Join(d.data, "etcd-client-address"))
	return strings.TrimSpace(string(text)), err
}

func get(ctx context.Context, url string, header http.Header) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	if header != nil {
		request.Header = header
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

// until polls every few milliseconds, for a limited time.
func until(ctx context.Context, limit time.Duration, what string, holds func() bool) error {
	for deadline := time.Now().Add(limit); !holds(); {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}
