package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/boifi/hfi/internal/datadir"
)

// Defaults of Embedded.
const (
	DefaultListen       = "127.0.0.1:0"
	DefaultQuota        = 2 << 30
	DefaultCheckTimeout = 10 * time.Minute
	DefaultStartTimeout = time.Minute
)

// ErrDamaged means that the embedded server's data cannot be used.
var ErrDamaged = errors.New("the embedded etcd's data are damaged: move the folder etcd out of hfid's data folder, and hfid publishes from git again")

// Embedded is an etcd server of one member in a child process, which ends with
// this one. It keeps its data in a folder that the caller has locked. One
// goroutine calls Open and Close.
type Embedded struct {
	// Folder is the daemon's data folder.
	Folder string
	// Listen is HOST:PORT for clients; with port 0 a free one is chosen, and kept over restarts while it stays free.
	Listen string
	// QuotaBytes bounds the size of the database.
	QuotaBytes int64
	// CheckTimeout bounds the time that a started server takes to read all of
	// its database, StartTimeout the time after that until it is ready.
	CheckTimeout, StartTimeout time.Duration

	logger *slog.Logger
	// port is that of the last start, or 0.
	port int
	// killed is the last process that was killed because it was not ready, or nil.
	killed *serverProcess

	mu sync.Mutex
	// server is the process that was started last and was ready, or nil.
	server *serverProcess
	// failure is why no server runs: why the last start failed or, once Err was
	// called, why the server ended. It is nil while a server runs.
	failure error
}

// NewEmbedded is a server with its data under a data folder.
func NewEmbedded(folder string, logger *slog.Logger) *Embedded {
	return &Embedded{
		Folder: folder, Listen: DefaultListen, QuotaBytes: DefaultQuota,
		CheckTimeout: DefaultCheckTimeout, StartTimeout: DefaultStartTimeout, logger: logger,
	}
}

// Open starts the server and returns when it is ready. After an error, and
// after the server has failed, Open may be called again; an error that wraps
// ErrDamaged recurs until it is repaired manually.
func (e *Embedded) Open(ctx context.Context) error {
	err := e.open(ctx)
	if err != nil {
		err = fmt.Errorf("starting the embedded etcd: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure = err
	return err
}

func (e *Embedded) open(ctx context.Context) error {
	// The first start is tried in any case: a server that finds its files in place can be read from, though the disk is full.
	if datadir.Unwritable(e.Err()) {
		if err := datadir.Folder(e.Folder).Writable(); err != nil {
			return err
		}
	}
	listen, err := net.ResolveTCPAddr("tcp", e.Listen)
	if err != nil {
		return fmt.Errorf("the address %q for the embedded etcd: %w", e.Listen, err)
	}
	for try := 1; ; try++ {
		err := e.start(ctx, listen)
		// Another process may use a free port before this one does.
		if listen.Port == 0 && try < 10 && errors.Is(err, syscall.EADDRINUSE) {
			e.port = 0
			continue
		}
		return err
	}
}

func (e *Embedded) start(ctx context.Context, listen *net.TCPAddr) error {
	// Processes that wait for a disk that hangs must not pile up.
	if e.killed != nil && !e.killed.hasEnded() {
		return errors.New("the process started before was killed, but still waits for the disk")
	}
	data := datadir.Folder(e.Folder)
	if e.port == 0 {
		port, err := choosePort(listen)
		if err != nil {
			return err
		}
		e.port = port
	}
	host := listen.IP.String()
	if listen.IP == nil {
		host = "0.0.0.0"
	}
	address := net.JoinHostPort(host, fmt.Sprint(e.port))
	if err := datadir.Make(data.Etcd()); err != nil {
		return fmt.Errorf("creating the folder for the embedded etcd: %w", err)
	}
	server, err := startServer(serverRequest{Folder: data.Etcd(), Address: address, QuotaBytes: e.QuotaBytes}, e.logger)
	if err != nil {
		return err
	}
	if err := e.waitReady(ctx, server); err != nil {
		server.kill()
		e.killed = server
		return err
	}
	e.mu.Lock()
	e.server = server
	e.mu.Unlock()
	if err := datadir.WriteFile(data.EtcdAddress(), []byte(address+"\n")); err != nil {
		e.logger.Warn("writing the embedded etcd's address to the data folder failed", "address", address, "error", err)
	}
	return nil
}

// waitReady waits until a server is ready. A server that takes too long is not
// known to be damaged: its disk may be slow.
func (e *Embedded) waitReady(ctx context.Context, server *serverProcess) error {
	limit := time.NewTimer(e.CheckTimeout)
	defer limit.Stop()
	select {
	case <-server.checked:
		limit.Reset(e.StartTimeout)
	case <-server.ended:
		return e.explain(server)
	case <-limit.C:
		return fmt.Errorf("its database was not read within %s; it is tried again%s", e.CheckTimeout, server.lastError())
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-server.ready:
		return nil
	case <-server.ended:
		return e.explain(server)
	case <-limit.C:
		// A log that lost its end may leave etcd without a leader, without an error.
		return fmt.Errorf("it was not ready within %s; it is tried again. If it never is ready and the disk is not slow, its data may be damaged: "+
			"move the folder etcd out of hfid's data folder%s", e.StartTimeout, server.lastError())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// choosePort returns the port of listen, or a free one.
func choosePort(listen *net.TCPAddr) (int, error) {
	if listen.Port != 0 {
		return listen.Port, nil
	}
	listener, err := net.ListenTCP("tcp", listen)
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// explain says why a server ended, and what to do.
func (e *Embedded) explain(server *serverProcess) error {
	// etcd does not always say that the disk is the reason: data that could not be written look damaged.
	if err := datadir.Folder(e.Folder).Writable(); err != nil {
		return fmt.Errorf("%w; etcd says: %w", err, server.reason)
	}
	switch {
	case datadir.Unwritable(server.reason):
		return fmt.Errorf("the data folder %s cannot be written: %w", e.Folder, server.reason)
	case server.wasReady(), server.inUse, server.killed, noDamage(server.reason):
		return server.reason
	}
	return fmt.Errorf("%w: %w", ErrDamaged, server.reason)
}

// noDamage reports whether an error says that an address is taken, or that the
// machine has no memory, files or processes left, rather than that data are damaged.
func noDamage(err error) bool {
	for _, known := range []syscall.Errno{
		syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	// Go's runtime ends a process with these.
	for _, text := range []string{"out of memory", "cannot allocate memory", "failed to create new OS thread"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

func (e *Embedded) current() *serverProcess {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

// Address is HOST:PORT for clients, or empty unless the server was started.
func (e *Embedded) Address() string {
	if server := e.current(); server != nil {
		return server.address
	}
	return ""
}

// Failed is closed when the server that was started has ended by itself.
func (e *Embedded) Failed() <-chan struct{} { return e.current().ended }

// Err is why no server runs, or nil if one runs or Open was not called.
func (e *Embedded) Err() error {
	e.mu.Lock()
	server, failure := e.server, e.failure
	e.mu.Unlock()
	if failure != nil || server == nil {
		return failure
	}
	if !server.hasEnded() {
		return nil
	}
	// It uses the disk, which may hang.
	failure = fmt.Errorf("the embedded etcd has stopped: %w", e.explain(server))
	e.mu.Lock()
	defer e.mu.Unlock()
	// Meanwhile Open or Close may have been called.
	if e.server == server && e.failure == nil {
		e.failure = failure
	}
	return e.failure
}

// closeTimeout bounds the wait for a server to close.
const closeTimeout = 10 * time.Second

// killTimeout bounds the wait for a process to end after it was killed.
const killTimeout = 5 * time.Second

// Close stops the server. It is safe on one that was never started.
func (e *Embedded) Close() error {
	server := e.current()
	if server == nil {
		return nil
	}
	err := os.Remove(datadir.Folder(e.Folder).EtcdAddress())
	if errors.Is(err, os.ErrNotExist) || datadir.Unwritable(err) {
		err = nil
	}
	stopped := server.stop(closeTimeout)
	e.mu.Lock()
	e.server, e.failure = nil, nil
	e.mu.Unlock()
	if !stopped {
		return errors.Join(err, fmt.Errorf("the embedded etcd did not stop within %s", closeTimeout))
	}
	return err
}
