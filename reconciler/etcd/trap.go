package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ErrDamaged means that the embedded server's data cannot be used.
var ErrDamaged = errors.New("the embedded etcd's data are damaged, or cannot be written; if they cannot be repaired, stop hfid, " +
	"move the folder etcd out of its data folder, and start it again: it publishes from git")

// trap prevents an etcd server that fails from ending the process. etcd ends the
// process with its logger's Fatal and Panic; the trap's logger ends the calling
// goroutine instead, and springs the trap.
type trap struct {
	log *slog.Logger
	// sprung is closed when the server has failed; reason is set before.
	sprung chan struct{}
	once   sync.Once
	reason error
	// said is the last error that the server logged.
	said atomic.Pointer[string]
}

func (t *trap) lastSaid() string {
	if said := t.said.Load(); said != nil {
		return " (before that: " + *said + ")"
	}
	return ""
}

func newTrap(log *slog.Logger) *trap { return &trap{log: log, sprung: make(chan struct{})} }

func (t *trap) spring(reason error) {
	t.once.Do(func() {
		t.reason = reason
		t.log.Error("the embedded etcd has stopped", "error", reason)
		close(t.sprung)
	})
}

func (t *trap) err() error {
	select {
	case <-t.sprung:
		return t.reason
	default:
		return nil
	}
}

func (t *trap) logger() *zap.Logger {
	return zap.New(trapCore{trap: t}, zap.WithFatalHook(trapHook{t}), zap.WithPanicHook(trapHook{t}))
}

// trapHook is what zap calls in place of os.Exit and panic.
type trapHook struct{ trap *trap }

func (h trapHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	h.trap.spring(fmt.Errorf("%w: %s", ErrDamaged, sentence(entry.Message, fields)))
	runtime.Goexit()
}

func sentence(message string, fields []zapcore.Field) string {
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			message += ": " + err.Error()
		}
	}
	return message
}

// trapCore logs etcd's errors with slog at debug level, and drops the rest of
// what it logs. Some of the errors are not failures (a new folder without a
// storage version, listeners that end with the server); a failure is in the
// store's health, and springs the trap if the server ends.
type trapCore struct{ trap *trap }

func (c trapCore) Enabled(level zapcore.Level) bool  { return level >= zapcore.ErrorLevel }
func (c trapCore) With([]zapcore.Field) zapcore.Core { return c }
func (c trapCore) Sync() error                       { return nil }
func (c trapCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}
func (c trapCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	text := sentence(entry.Message, fields)
	c.trap.said.Store(&text)
	c.trap.log.Debug("embedded etcd: "+text, "logger", entry.LoggerName)
	return nil
}

// start starts a server in a goroutine of its own, which a failing server may end.
func (t *trap) start(ctx context.Context, config *embed.Config) (*embed.Etcd, error) {
	type result struct {
		server *embed.Etcd
		err    error
	}
	results := make(chan result, 1)
	go func() {
		finished := result{err: errors.New("the start ended early")}
		defer func() {
			// A goroutine that the trap ends may panic in etcd's deferred calls.
			thrown := recover()
			if thrown != nil {
				t.log.Debug("the embedded etcd panicked", "panic", thrown, "stack", string(debug.Stack()))
			}
			if err := t.err(); err != nil {
				finished = result{err: err}
			} else if thrown != nil {
				finished = result{err: fmt.Errorf("%w: %v%s", ErrDamaged, thrown, t.lastSaid())}
			}
			results <- finished
		}()
		server, err := embed.StartEtcd(config)
		var network *net.OpError
		if err != nil && !errors.As(err, &network) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		finished = result{server, err}
	}()
	select {
	case r := <-results:
		return r.server, r.err
	case <-ctx.Done():
		go func() {
			if r := <-results; r.server != nil {
				closeServer(r.server, t, closeTimeout)
			}
		}()
		return nil, ctx.Err()
	}
}

// checkData reads the database before etcd does. Inconsistent pages make bbolt
// panic, or read unmapped memory, in goroutines of etcd where nothing can
// recover; here both become an error. (bbolt's own Check does not help: it
// panics in a goroutine of its own.)
func checkData(folder string) (err error) {
	path := filepath.Join(folder, "member", "snap", "db")
	info, err := os.Stat(path)
	if err != nil {
		return nil // A first start, or etcd reports the error itself.
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if thrown := recover(); thrown != nil {
			err = damaged(path, fmt.Errorf("%v", thrown))
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return damaged(path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("it has %d bytes of %d", info.Size(), tx.Size())
		}
		return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
			return bucket.ForEach(func([]byte, []byte) error { return nil })
		})
	})
	if err != nil {
		return damaged(path, err)
	}
	return nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
}
