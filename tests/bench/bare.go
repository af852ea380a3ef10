package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"github.com/boifi/hfi/internal/child"
)

// bareVariable makes this program run as the plain server, in a separate process.
const bareVariable = "HFI_BENCH_BARE"

func init() {
	if os.Getenv(bareVariable) == "" {
		return
	}
	raiseFileLimit()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	err = http.Serve(listener, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

type bare struct {
	address string
	command *exec.Cmd
}

func startBare(ctx context.Context) (*bare, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, self)
	command.Env = append(os.Environ(), bareVariable+"=1")
	command.Stderr = os.Stderr
	child.EndWithParent(command, false)
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	return &bare{address: strings.TrimSpace(line), command: command}, err
}

func (b *bare) pid() int { return b.command.Process.Pid }

func (b *bare) stop() error {
	if err := b.command.Process.Kill(); err != nil {
		return err
	}
	// The error only says that it was killed.
	_ = b.command.Wait()
	return nil
}
