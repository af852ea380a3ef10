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

// ErrDamaged says that the embedded server's data cannot be used as it is.
var ErrDamaged = errors.New("the embedded etcd's data are damaged, or cannot be written; if they cannot be mended, stop hfid, " +
	"move the folder etcd in its data folder away, and start it again: it publishes anew from git")

// trap keeps a server that gives up from taking the process with it. etcd
// ends the process by its logger's Fatal and Panic; through the trap's logger
// these end the calling goroutine instead, and spring the trap.
type trap struct {
	log *slog.Logger
	// sprung is closed when the server has given up; reason is set before.
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

// trapCore hands etcd's errors to slog at debug level and drops the rest of
// what it logs. Some of them are no failures (a new folder without a storage
// version, listeners that end with the server); what is one shows in the
// store's health, and springs the trap if the server gives up.
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
	c.trap.log.Debug("embedded etcd: "+sentence(entry.Message, fields), "logger", entry.LoggerName)
	return nil
}

// start starts a server in a goroutine of its own, which may end in any way.
func (t *trap) start(ctx context.Context, config *embed.Config) (*embed.Etcd, error) {
	type result struct {
		server *embed.Etcd
		err    error
	}
	results := make(chan result, 1)
	go func() {
		finished := result{err: errors.New("the start was cut off")}
		defer func() {
			// A goroutine that is ended by the trap may stumble over its own remains.
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

// checkData reads the database before etcd does. Pages that do not hang
// together make bbolt panic, or touch memory that is not there, in goroutines
// of etcd's that nobody can guard; here both come to an error. (bbolt's own
// Check is no help: it panics in a goroutine of its own.)
func checkData(folder string) (err error) {
	path := filepath.Join(folder, "member", "snap", "db")
	info, err := os.Stat(path)
	if err != nil {
		return nil // A first start, or one that will tell by itself.
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
