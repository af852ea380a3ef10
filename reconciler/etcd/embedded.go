package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"github.com/boifi/hfi/internal/datadir"
)

// Defaults of Embedded.
const (
	DefaultListen       = "127.0.0.1:0"
	DefaultQuota        = 2 << 30
	DefaultStartTimeout = time.Minute
)

// Embedded is an etcd server of one member in this process. It keeps its
// data in a folder that the caller has locked.
type Embedded struct {
	// Folder is the daemon's data folder.
	Folder string
	// Listen is HOST:PORT for clients; with port 0 a free one is chosen at every start.
	Listen string
	// QuotaBytes bounds the size of the database.
	QuotaBytes int64
	// StartTimeout bounds the wait for a started server to be ready.
	StartTimeout time.Duration

	logger *slog.Logger
	server *embed.Etcd
	trap   *trap
	// address is HOST:PORT while the server runs.
	address string
}

// NewEmbedded is a server with its data under a data folder.
func NewEmbedded(folder string, logger *slog.Logger) *Embedded {
	return &Embedded{
		Folder: folder, Listen: DefaultListen, QuotaBytes: DefaultQuota, StartTimeout: DefaultStartTimeout, logger: logger,
	}
}

// etcd allocates each segment of the write-ahead log in full; its default of
// 64 MB is for loads that this server never has.
var smallSegments = sync.OnceFunc(func() { wal.SegmentSizeBytes = 8 << 20 })

// Open starts the server and returns when it is ready. An error that wraps
// ErrDamaged needs a person; after another one, Open may be tried again.
func (e *Embedded) Open(ctx context.Context) error {
	smallSegments()
	listen, err := net.ResolveTCPAddr("tcp", e.Listen)
	if err != nil {
		return fmt.Errorf("the address %q for the embedded etcd: %w", e.Listen, err)
	}
	for try := 1; ; try++ {
		err := e.start(ctx, listen)
		// Another process may use a free port before this one does.
		if listen.Port == 0 && try < 10 && errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return fmt.Errorf("starting the embedded etcd: %w", err)
		}
		return nil
	}
}

func (e *Embedded) start(ctx context.Context, listen *net.TCPAddr) error {
	port, err := choosePort(listen)
	if err != nil {
		return err
	}
	host := listen.IP.String()
	if listen.IP == nil {
		host = "0.0.0.0"
	}
	address := net.JoinHostPort(host, fmt.Sprint(port))
	if err := checkData(e.dataFolder()); err != nil {
		return err
	}
	trap := newTrap(e.logger)
	config, err := e.config(address, trap)
	if err != nil {
		return err
	}
	server, err := trap.start(ctx, config)
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, e.StartTimeout)
	defer cancel()
	select {
	case <-server.Server.ReadyNotify():
	case <-trap.sprung:
		err = trap.err()
	case <-ready.Done():
		err = fmt.Errorf("%w: not ready within %s%s", ErrDamaged, e.StartTimeout, trap.lastSaid())
	}
	if err == nil {
		err = datadir.WriteFile(datadir.Folder(e.Folder).EtcdAddress(), []byte(address+"\n"))
	}
	if err != nil {
		// A server that is not ready may never finish closing either.
		closeServer(server, trap, time.Second)
		return err
	}
	e.server, e.trap, e.address = server, trap, address
	return nil
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

func (e *Embedded) dataFolder() string { return datadir.Folder(e.Folder).Etcd() }

func (e *Embedded) config(address string, trap *trap) (*embed.Config, error) {
	client := url.URL{Scheme: "http", Host: address}
	// With one member, nothing listens on the peer address. It is part of the
	// member's identity, so it stays the same while the client's port changes.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	config := embed.NewConfig()
	config.Name = "hfi"
	config.Dir = e.dataFolder()
	config.ListenPeerUrls = nil
	config.AdvertisePeerUrls = []url.URL{peer}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{client}
	config.EnableGRPCGateway = false
	// With one member no vote can be late: the shortest election timeout that etcd allows.
	config.TickMs, config.ElectionMs = 20, 100
	config.PreVote = false
	config.QuotaBackendBytes = e.QuotaBytes
	// A short log keeps restarts fast and memory small.
	config.SnapshotCount, config.SnapshotCatchUpEntries = 2000, 100
	config.MaxSnapFiles, config.MaxWalFiles = 2, 2
	config.AutoCompactionRetention = "0"
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(trap.logger())
	return config, nil
}

// Address is HOST:PORT for clients, or empty unless the server runs.
func (e *Embedded) Address() string { return e.address }

// Failed is closed when the running server has failed.
func (e *Embedded) Failed() <-chan struct{} { return e.trap.sprung }

// Err is why the server failed, or nil.
func (e *Embedded) Err() error { return e.trap.err() }

// closeTimeout bounds the wait for a server to close. One that failed may never do so.
const closeTimeout = 10 * time.Second

// Close stops the server. It is safe on one that was never started.
func (e *Embedded) Close() error {
	if e.server == nil {
		return nil
	}
	err := os.Remove(datadir.Folder(e.Folder).EtcdAddress())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	closed := closeServer(e.server, e.trap, closeTimeout)
	e.server, e.address = nil, ""
	if !closed {
		return errors.Join(err, fmt.Errorf("the embedded etcd did not stop within %s", closeTimeout))
	}
	return err
}

func closeServer(server *embed.Etcd, trap *trap, limit time.Duration) bool {
	select {
	case <-trap.sprung:
		// Parts of the server have ended, and the rest may wait for them.
		limit = time.Second
	default:
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Close()
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}
