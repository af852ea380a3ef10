package etcd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// serverVariable is the environment variable that makes RunServer run a server.
const serverVariable = "HFI_ETCD_SERVER"

// serverRequest is the first line that the server's process reads, in JSON.
// A second line, of any content, stops the server; the end of the input, which
// comes with the parent's end, ends the process at once.
type serverRequest struct {
	// Folder is for etcd's data.
	Folder string
	// Address is HOST:PORT for clients.
	Address    string
	QuotaBytes int64
}

// serverMessage is a line of JSON from the server's process. One field is set,
// and Errno and InUse only with Failed.
type serverMessage struct {
	// Checked says that the database has been read.
	Checked bool `json:"checked,omitempty"`
	// MovedAside is where data are that cannot be used, because their log is missing.
	MovedAside string `json:"moved_aside,omitempty"`
	// Ready says that clients are served.
	Ready bool `json:"ready,omitempty"`
	// Logged is an error that etcd logged. Most are not failures.
	Logged string `json:"logged,omitempty"`
	// Failed is why the process ends.
	Failed string `json:"failed,omitempty"`
	// Errno is the operating system's error that Failed comes from, or 0.
	Errno syscall.Errno `json:"errno,omitempty"`
	// InUse says that the data are still locked by an earlier process.
	InUse bool `json:"in_use,omitempty"`
}

// maxServerText bounds the texts of a serverMessage, in bytes.
const maxServerText = 4 << 10

// RunServer must be called first thing in main, and in TestMain. Embedded runs
// its etcd server in a child process, which runs this program again: etcd ends
// its process when it cannot write, and damaged data make it panic in
// goroutines of its own. In a child process RunServer runs the server and
// exits. Otherwise it returns at once.
func RunServer() {
	if os.Getenv(serverVariable) == "" {
		return
	}
	// A terminal and a supervisor signal the whole group of processes; the parent decides when the server stops.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	in, out := bufio.NewReader(os.Stdin), &serverOutput{to: os.Stdout}
	var request serverRequest
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &request)
	}
	if err != nil {
		out.fail(fmt.Errorf("reading the request: %w", err))
	}
	stop := make(chan struct{})
	go func() {
		if _, err := in.ReadByte(); err != nil {
			os.Exit(0) // etcd's data survive this, as they survive a crash.
		}
		close(stop)
	}()
	if err := request.run(out, stop); err != nil {
		out.fail(err)
	}
	os.Exit(0)
}

// run runs a server until stop is closed.
func (r serverRequest) run(out *serverOutput, stop <-chan struct{}) error {
	aside, err := checkData(r.Folder)
	if err != nil {
		return err
	}
	if aside != "" {
		out.send(serverMessage{MovedAside: aside})
	}
	out.send(serverMessage{Checked: true})
	server, err := embed.StartEtcd(r.config(out))
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-stop:
		return nil
	}
	out.send(serverMessage{Ready: true})
	files, err := openedFiles(r.Folder)
	if err != nil {
		return fmt.Errorf("%w: %w", errFilesRemoved, err)
	}
	tick := time.NewTicker(filesInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-server.Err():
			return err
		case <-server.Server.StopNotify():
			return errors.New("the server stopped by itself")
		case <-stop:
			return nil
		case <-tick.C:
			if files.removed() {
				out.fail(errFilesRemoved) // Without closing the server, which would write.
			}
		}
	}
}

func (r serverRequest) config(out *serverOutput) *embed.Config {
	// etcd allocates each segment of the write-ahead log in full; its default of
	// 64 MB is for loads that this server never has.
	wal.SegmentSizeBytes = 8 << 20
	client := url.URL{Scheme: "http", Host: r.Address}
	// With one member, nothing listens on the peer address. It is part of the
	// member's identity, so it stays the same while the client's port changes.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	config := embed.NewConfig()
	config.Name = "hfi"
	config.Dir = r.Folder
	config.ListenPeerUrls = nil
	config.AdvertisePeerUrls = []url.URL{peer}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = []url.URL{client}
	config.EnableGRPCGateway = false
	// With one member no vote can be late: the shortest election timeout that etcd allows.
	config.TickMs, config.ElectionMs = 20, 100
	config.PreVote = false
	config.QuotaBackendBytes = r.QuotaBytes
	// A short log keeps restarts fast and memory small.
	config.SnapshotCount, config.SnapshotCatchUpEntries = 2000, 100
	config.MaxSnapFiles, config.MaxWalFiles = 2, 2
	config.AutoCompactionRetention = "0"
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(serverLog{out: out}))
	return config
}

// serverOutput sends messages to the parent.
type serverOutput struct {
	mu sync.Mutex
	to io.Writer
}

func (o *serverOutput) send(message serverMessage) {
	for _, text := range []*string{&message.Logged, &message.Failed} {
		if len(*text) > maxServerText {
			*text = (*text)[:maxServerText]
		}
	}
	line, err := json.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("encoding a message: %v", err)) // Impossible: it has only strings and numbers.
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = o.to.Write(append(line, '\n')) // If the parent is gone, so is this process soon.
}

// fail ends the process.
func (o *serverOutput) fail(err error) {
	message := serverMessage{Failed: err.Error(), InUse: errors.Is(err, fileutil.ErrLocked) || errors.Is(err, bolterrors.ErrTimeout)}
	_ = errors.As(err, &message.Errno)
	o.send(message)
	os.Exit(1)
}

// serverLog sends etcd's errors to the parent, and drops the rest of what it
// logs. Some are not failures: a new folder without a storage version,
// listeners that end with the server. A fatal one ends the process.
type serverLog struct{ out *serverOutput }

func (serverLog) Enabled(level zapcore.Level) bool    { return level >= zapcore.ErrorLevel }
func (l serverLog) With([]zapcore.Field) zapcore.Core { return l }
func (serverLog) Sync() error                         { return nil }
func (l serverLog) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(entry.Level) {
		return checked.AddCore(entry, l)
	}
	return checked
}

func (l serverLog) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	err := errors.New(entry.Message)
	for _, field := range fields {
		if cause, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	// zap would end the process, or panic, next: the parent is informed first.
	if entry.Level >= zapcore.DPanicLevel {
		l.out.fail(err)
	}
	l.out.send(serverMessage{Logged: err.Error()})
	return nil
}

// lockWait bounds the wait for an earlier process, which is about to end, to
// unlock the database.
const lockWait = 10 * time.Second

// checkData reads the database before etcd does. Inconsistent pages make bbolt
// panic, or read unmapped memory, in goroutines of etcd; here both become an
// error that says what it is. (bbolt's own Check does not help: it panics in a
// goroutine of its own.) If the log is missing, etcd would wait for it for ever: the rest
// is moved aside, to the path returned, in place of what was moved before.
func checkData(folder string) (aside string, err error) {
	path := databaseFile(folder)
	info, err := os.Stat(path)
	if err != nil {
		return "", nil // A first start, or etcd reports the error itself.
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if thrown := recover(); thrown != nil {
			err = fmt.Errorf("%s: %v", path, thrown)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer db.Close()
	useless := false
	err = db.View(func(tx *bolt.Tx) error {
		useless = withoutLog(folder, tx)
		if tx.Size() > info.Size() {
			return fmt.Errorf("it has %d bytes of %d", info.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
			return bucket.ForEach(func([]byte, []byte) error { return nil })
		})
	})
	if err == nil && useless {
		aside = filepath.Join(folder, "member.without-log")
		if err = os.RemoveAll(aside); err == nil {
			err = os.Rename(filepath.Join(folder, "member"), aside)
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return aside, nil
}
