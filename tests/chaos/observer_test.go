package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// answer is a response that a client got.
type answer struct {
	commit, revision, etag string
	set                    set
}

// readAnswer parses a complete response of GET /v1/policies, with distinct names.
func readAnswer(raw *hfidtest.Answer) (*answer, error) {
	policies, err := hfidtest.ParsePolicies(raw)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for name, text := range policies.ByName {
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			return nil, err
		}
		values[name] = value
	}
	return &answer{commit: policies.Commit, revision: policies.Revision, etag: policies.ETag, set: setOf(values)}, nil
}

// observer requests /v1/policies continuously, once as curl does and once as a filter does,
// which waits for a change. It reports the first violation.
type observer struct {
	t       *testing.T
	daemon  *hfidtest.Daemon
	oracle  *oracle
	branch  *branch
	script  *transcript
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	answers atomic.Int64

	mu       sync.Mutex
	violated bool
	commits  map[string]bool
	newest   string
	// etags has the set of each ETag.
	etags map[string]set
}

func startObserver(t *testing.T, daemon *hfidtest.Daemon, oracle *oracle, branch *branch, script *transcript) *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{t: t, daemon: daemon, oracle: oracle, branch: branch, script: script, cancel: cancel, commits: map[string]bool{}, etags: map[string]set{}}
	o.tasks.Go(func() { o.watch(ctx, &view{name: "curl"}) })
	o.tasks.Go(func() { o.watch(ctx, &view{name: "filter", waits: true}) })
	t.Cleanup(o.stop)
	return o
}

func (o *observer) stop() {
	o.cancel()
	o.tasks.Wait()
}

// view is what one client has seen.
type view struct {
	name  string
	waits bool
	last  *answer
	// place is the index in the branch's refs of the last commit seen.
	place int
	// epoch and revision are the last seen.
	epoch, revision int64
}

func (o *observer) watch(ctx context.Context, v *view) {
	for ctx.Err() == nil {
		if err := o.look(ctx, v); err != nil {
			o.mu.Lock()
			if !o.violated {
				o.violated = true
				o.script.note("VIOLATION seen by %s: %v", v.name, err)
				o.t.Errorf("seen by %s: %v", v.name, err)
			}
			o.mu.Unlock()
			return
		}
		time.Sleep(2 * time.Millisecond) // the daemon needs the processor too
	}
}

// look sends one request. An error is a violation. A missing or incomplete response is not,
// because the daemon is killed.
func (o *observer) look(ctx context.Context, v *view) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	path, header := "/v1/policies", http.Header{}
	if v.waits {
		path += "?wait=5s"
		if v.last != nil {
			header.Set("If-None-Match", v.last.etag)
			header.Set("X-Hfi-Revision", v.last.revision)
		}
	}
	raw, err := o.daemon.Ask(ctx, http.MethodGet, path, header)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within 20s: %w", err)
	case err != nil:
		return nil
	case raw.Status == http.StatusServiceUnavailable && strings.Contains(string(raw.Body), "not_ready"):
		return nil // The daemon has just started.
	case raw.Status == http.StatusServiceUnavailable && v.waits && strings.Contains(string(raw.Body), "behind"):
		return fmt.Errorf("the daemon lost the state %s that it had served: %s", v.last.revision, raw.Body)
	case raw.Status == http.StatusNotModified && v.waits && v.last != nil:
		if raw.Header.Get("ETag") != v.last.etag {
			return fmt.Errorf("not modified, with the ETag %s, but the client has %s", raw.Header.Get("ETag"), v.last.etag)
		}
		now := *v.last
		now.commit, now.revision = raw.Header.Get("X-Hfi-Commit"), raw.Header.Get("X-Hfi-Revision")
		return o.judge(v, &now)
	}
	now, err := readAnswer(raw)
	if err != nil {
		return err
	}
	return o.judge(v, now)
}

// judge compares a response with the oracle and with earlier responses.
func (o *observer) judge(v *view, now *answer) error {
	o.answers.Add(1)
	tree := o.branch.tree(now.commit)
	if tree == "" {
		return fmt.Errorf("served as commit %q, which the branch has never pointed to", now.commit)
	}
	want := o.oracle.expected(tree)
	if want == "" {
		return fmt.Errorf("served as commit %s, which is invalid, with %s", now.commit, now.set.differences(""))
	}
	if now.set != want {
		return fmt.Errorf("served as commit %s, but the set differs: %s", now.commit, now.set.differences(want))
	}
	from := v.place
	place := o.branch.next(now.commit, from)
	if place < 0 {
		return fmt.Errorf("commit %s is served after ref %d (%s), but the branch has not pointed to it since", now.commit, from, v.last.commit)
	}
	var epoch, revision int64
	if err := readRevision(now.revision, &epoch, &revision); err != nil {
		return err
	}
	if epoch < v.epoch || epoch == v.epoch && revision < v.revision {
		return fmt.Errorf("revision %s is served after %d-….%d", now.revision, v.epoch, v.revision)
	}
	if v.last == nil || v.last.commit != now.commit {
		o.script.note("%s sees ref %d: %s, revision %s", v.name, place, short(now.commit), now.revision)
	}
	v.last, v.place, v.epoch, v.revision = now, place, epoch, revision
	o.mu.Lock()
	defer o.mu.Unlock()
	o.commits[now.commit], o.newest = true, now.commit
	if before, known := o.etags[now.etag]; known && before != now.set {
		return fmt.Errorf("the ETag %s has two sets: %s", now.etag, now.set.differences(before))
	}
	o.etags[now.etag] = now.set
	return nil
}

// readRevision parses NUMBER-ID.REVISION.
func readRevision(text string, epoch, revision *int64) error {
	number, rest, _ := strings.Cut(text, "-")
	_, tail, _ := strings.Cut(rest, ".")
	if _, err := fmt.Sscan(number+" "+tail, epoch, revision); err != nil {
		return fmt.Errorf("X-Hfi-Revision is %q: %w", text, err)
	}
	return nil
}

func (o *observer) failed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.violated
}

func (o *observer) distinct() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.commits)
}

// awaitCommit waits a short time for a commit to be served, which may not happen.
func (o *observer) awaitCommit(commit string, limit time.Duration) {
	_ = testtool.Poll(limit, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.newest != commit {
			return errors.New("it is not served")
		}
		return nil
	})
}
