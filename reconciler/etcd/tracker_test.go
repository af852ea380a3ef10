package etcd

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// The files under testdata/tracker are transcripts: the events that a tracker
// sees, and what it concludes. Of the conclusions only those are printed that
// changed. To rewrite the expected output: go test -run TestTracker -rewrite.
func TestTracker(t *testing.T) {
	datadriven.Walk(t, "testdata/tracker", func(t *testing.T, path string) {
		run := &transcript{t: t, printed: map[string]string{}}
		run.start(reconciler.Revision{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			run.t = t
			return run.command(d)
		})
	})
}

// transcript runs a tracker by the commands of a file.
type transcript struct {
	t       *testing.T
	tracker *tracker
	begun   time.Time
	now     time.Time
	printed map[string]string
	// head is what the head key says, and epoch the last one that was written:
	// what a leader signs.
	head  headKey
	epoch reconciler.Epoch
}

func (r *transcript) signer() signer { return signer{prefix: "/hfi/", keys: testKeys} }

func (r *transcript) start(known reconciler.Revision) {
	r.begun = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r.now = r.begun
	r.tracker = &tracker{
		trackerConfig: trackerConfig{known: known, publishGrace: 30 * time.Second, proofGrace: 20 * time.Second, suspectFor: 2 * time.Second},
		epoch:         newEpochTracker(known),
	}
}

func (r *transcript) command(d *datadriven.TestData) string {
	revision := r.number(d, "revision")
	switch d.Cmd {
	case "start": // with known=REVISION, the newest one that this daemon has served
		var text string
		d.ScanArgs(r.t, "known", &text)
		known, err := reconciler.ParseRevision(text)
		if err != nil {
			r.t.Fatal(err)
		}
		r.start(known)
		return r.print(effects{})
	case "load": // etcd is read: the lines are its keys, as of the head's revision; etcd is at revision
		c := newCache("/hfi/", "self", testKeys)
		last := int64(0)
		r.head = headKey{}
		for _, event := range r.events(d) {
			c.put(event.Kv)
			last = max(last, event.Kv.ModRevision)
		}
		c.revision = last
		if c.head.present {
			c.revision = c.head.modRevision
		}
		if d.HasArg("at") { // the head's revision is compacted away: the keys are those at this one
			c.revision = r.number(d, "at")
		}
		c.flush()
		return r.step(loaded{cache: c, clusterID: uint64(r.number(d, "cluster")), revision: max(revision, c.revision)})
	case "watch": // events
		return r.step(watched{events: r.events(d)})
	case "watch-lost": // etcd has compacted the next events
		return r.step(watchLost{})
	case "probe": // etcd is at revision; head and epoch were written at these
		seen := probeResult{revision: revision, clusterID: uint64(r.number(d, "cluster"))}
		if head := r.number(d, "head"); head > 0 {
			seen.head = &mvccpb.KeyValue{ModRevision: head}
		}
		if epoch := r.number(d, "epoch"); epoch > 0 {
			seen.epoch = &mvccpb.KeyValue{ModRevision: epoch}
		}
		before := int64(0)
		if r.tracker.cache != nil {
			before = r.tracker.cache.revision
		}
		var alarms []string
		if d.HasArg("alarms") {
			alarms = make([]string, 1)
			d.ScanArgs(r.t, "alarms", &alarms[0])
		}
		return r.step(probed{result: seen, before: before, alarms: alarms, alarmsKnown: true})
	case "unreachable": // after an attempt of that many seconds
		return r.step(unreachable{reason: "no answer", began: r.now.Add(-time.Duration(r.number(d, "after")) * time.Second)})
	case "publishing":
		return r.step(publishing{set: r.set(strings.Fields(d.Input))})
	case "elected":
		return r.step(elected{term: termKey{key: "/hfi/leader/1", revision: revision}})
	case "resigned":
		return r.step(resigned{})
	case "foreign": // candidates that another one would delete now
		var foreign []string
		for _, candidate := range r.tracker.foreignCandidates(r.now, "") {
			foreign = append(foreign, candidate.key)
		}
		return fmt.Sprintln(foreign)
	case "pass": // time
		passed, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			r.t.Fatal(err)
		}
		r.now = r.now.Add(passed)
		return r.step(timePassed{})
	}
	r.t.Fatalf("there is no command %s", d.Cmd)
	return ""
}

func (r *transcript) step(event any) string {
	r.t.Helper()
	state, epoch := r.tracker.state, r.tracker.epoch.value
	out := r.tracker.step(r.now, event)
	r.checkInvariants(state, epoch)
	return r.print(out)
}

// checkInvariants checks what the tracker's fields promise after every step;
// state and epoch are those before it.
func (r *transcript) checkInvariants(state *reconciler.State, epoch reconciler.Epoch) {
	r.t.Helper()
	k := r.tracker
	check := func(ok bool, what string) {
		r.t.Helper()
		if !ok {
			r.t.Errorf("broken: %s", what)
		}
	}
	check((k.cache == nil) == (k.phase == cacheEmpty), "cache is nil exactly while it is empty")
	check(k.cache == nil || k.publishingSince.IsZero() == !k.cache.midPublication(), "publishingSince is zero exactly while nothing is published")
	check((k.drift.since != nil) == (k.drift.state == driftDetected), "drift has a since exactly while it is detected")
	check((k.epoch.value.Number == 0) == (k.epoch.state == epochNone), "the epoch is zero exactly while there is none")
	check(k.epoch.value == epoch || k.epoch.value.Number > epoch.Number || k.epoch.value.Number == maxEpoch, "the epoch only gives way to a later one")
	check(state == nil || k.state != nil && !k.state.Revision.Before(state.Revision), "the state never goes back")
	check(k.state == nil || verified(k.state.Head, k.state.Set), "the state is what its head says")
	check(k.state == nil || !k.state.Revision.Before(k.known), "the state is never older than known")
	view := k.snapshot().view
	check(!view.HeadVerified || view.State != nil, "a verified head implies a state")
	check(view.Health.Healthy || view.Drift.Status == api.DriftUnknown, "drift is unknown while etcd is not healthy")
}

func (r *transcript) number(d *datadriven.TestData, name string) int64 {
	var number int64
	if d.HasArg(name) {
		d.ScanArgs(r.t, name, &number)
	}
	return number
}

// set is the set of policies NAME=DELAY.
func (r *transcript) set(texts []string) *schema.Set {
	var entries []*schema.Entry
	for _, text := range texts {
		name, delay, _ := strings.Cut(text, "=")
		ms, err := strconv.Atoi(delay)
		if err != nil {
			r.t.Fatal(err)
		}
		entries = append(entries, policy(r.t, name, ms))
	}
	return schema.NewSet(entries...)
}

// events reads lines of the form REVISION KEY VALUE:
//
//	3 policies/a 100           a policy with that delay
//	3 origins a b              the origins of these policies
//	4 head c1 a=100 b=200      a head that describes these policies
//	1 epoch 1-x
//	2 leader/1 a lease=7       likewise publishing and replicas/ID
//	6 leader/1 x created=2     overwritten, at first created at that revision
//	6 status a term=2 number=1 the report of a leader; without a number, of an earlier version
//	5 head future              a head with a digest of an unknown version
//	5 head forged c1 a=100     a head that nobody signed
//	5 head stolen              a head that is signed with another key
//	5 head placeholder
//	5 foreign 200              200 keys policies/x0000 and so on; or: 5 foreign 200 deleted
//	5 policies/a deleted
//	5 policies/a garbage
func (r *transcript) events(d *datadriven.TestData) []*clientv3.Event {
	var events []*clientv3.Event
	for line := range strings.SplitSeq(d.Input, "\n") {
		words := strings.Fields(line)
		if len(words) < 2 {
			r.t.Fatalf("%q is not of the form REVISION KEY VALUE", line)
		}
		revision, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		key, values := words[1], words[2:]
		if key == "foreign" {
			count, err := strconv.Atoi(values[0])
			if err != nil {
				r.t.Fatal(err)
			}
			for i := range count {
				event := putEvent(fmt.Sprintf("/hfi/policies/x%04d", i), "garbage", revision, 0)
				if values[len(values)-1] == "deleted" {
					event.Type = clientv3.EventTypeDelete
				}
				events = append(events, event)
			}
			continue
		}
		if key == "origins" {
			for _, name := range values {
				bucket := schema.BucketOf(name)
				origins := originsOf(r.set([]string{name + "=1"}), bucket)
				events = append(events, putEvent(keys("/hfi/").origins(bucket), encodeOrigins(origins), revision, 0))
			}
			continue
		}
		created := revision
		if last := len(values) - 1; last >= 0 && strings.HasPrefix(values[last], "created=") {
			created, _ = strconv.ParseInt(values[last][len("created="):], 10, 64)
			values = values[:last]
		}
		lease := int64(0)
		if last := len(values) - 1; last >= 0 && strings.HasPrefix(values[last], "lease=") {
			lease, _ = strconv.ParseInt(values[last][len("lease="):], 10, 64)
			values = values[:last]
		}
		if key == "head" && r.head.version == 0 {
			r.head.createRevision = revision
		}
		event := putEvent("/hfi/"+key, r.value(key, values), revision, lease)
		event.Kv.CreateRevision = created
		if key == "head" {
			r.head.version++
			event.Kv.CreateRevision, event.Kv.Version = r.head.createRevision, r.head.version
		}
		if len(values) == 1 && values[0] == "deleted" {
			event.Type = clientv3.EventTypeDelete
			if key == "head" {
				r.head = headKey{}
			}
		}
		events = append(events, event)
	}
	return events
}

func putEvent(key, value string, revision, lease int64) *clientv3.Event {
	return &clientv3.Event{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), ModRevision: revision, CreateRevision: revision, Lease: lease,
	}}
}

func (r *transcript) value(key string, words []string) string {
	if len(words) == 0 || words[0] == "garbage" || words[0] == "deleted" {
		return "garbage"
	}
	name, isPolicy := strings.CutPrefix(key, "policies/")
	switch {
	case isPolicy:
		return string(r.set([]string{name + "=" + words[0]}).Get(name).Canonical)
	case key == "head" && words[0] == "placeholder":
		return headPlaceholder
	case key == "head" && words[0] == "forged":
		set, forger := r.set(words[2:]), signer{prefix: "/hfi/", keys: statekey.None()}
		return forger.encodeHead(reconciler.Head{Commit: words[1], Digest: set.Digest(), Count: set.Len(), At: r.begun}, r.epoch, r.head)
	case key == "head" && words[0] == "stolen":
		forger := signer{prefix: "/hfi/", keys: statekey.Random()}
		return forger.encodeHead(reconciler.Head{Commit: "evil", Digest: "v1:00"}, r.epoch, r.head)
	case key == "head" && words[0] == "future":
		return r.signer().encodeHead(reconciler.Head{Commit: "c9", Digest: "v99:0"}, r.epoch, r.head)
	case key == "head":
		set := r.set(words[1:])
		return r.signer().encodeHead(reconciler.Head{Commit: words[0], Digest: set.Digest(), Count: set.Len(), At: r.begun}, r.epoch, r.head)
	case key == "epoch":
		number, id, _ := strings.Cut(words[0], "-")
		parsed, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		r.epoch = reconciler.Epoch{Number: parsed, ID: id}
		return r.signer().encodeEpoch(r.epoch)
	case key == "epoch-floor":
		number, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			r.t.Fatal(err)
		}
		return r.signer().encodeFloor(number)
	case key == "status":
		record := statusRecord{LeaderReport: reconciler.LeaderReport{Leader: words[0]}}
		for _, word := range words[1:] {
			name, text, _ := strings.Cut(word, "=")
			number, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				r.t.Fatal(err)
			}
			*map[string]*int64{"term": &record.Term, "number": &record.Number}[name] = number
		}
		return encode(record)
	case strings.HasPrefix(key, "replicas/"):
		return encode(replicaRecord{Format: formatVersion, URL: words[0]})
	}
	return words[0]
}

// print is the effects and what has changed of the conclusions.
func (r *transcript) print(out effects) string {
	k := r.tracker
	taken := k.snapshot()
	var text strings.Builder
	show := func(name, format string, values ...any) {
		line := fmt.Sprintf(format, values...)
		if r.printed[name] != line {
			fmt.Fprintf(&text, "%s: %s\n", name, line)
		}
		r.printed[name] = line
	}
	if effects := describe(out); effects != "" {
		fmt.Fprintf(&text, "effects: %s\n", effects)
	}
	phase := map[cachePhase]string{cacheEmpty: "empty", cacheFollowing: "following", cacheStale: "stale"}[k.phase]
	show("cache", "%s, at %d", phase, taken.revision)
	show("epoch", "%d-%s %s", k.epoch.value.Number, k.epoch.value.ID, k.epoch.state)
	state := "none"
	if k.state != nil {
		var names []string
		for _, entry := range k.state.Set.Entries() {
			names = append(names, fmt.Sprintf("%s=%d", entry.Name(), entry.Policy.Spec.Rules[0].Fault.DelayMS))
		}
		state = fmt.Sprintf("%s at %s [%s]", k.state.Head.Commit, k.state.Revision, strings.Join(names, " "))
	}
	show("state", "%s", state)
	show("head verified", "%v", taken.view.HeadVerified)
	drift := string(taken.view.Drift.Status)
	for i, item := range taken.view.Drift.Items {
		if i == 5 {
			drift += fmt.Sprintf(", and more: %d", taken.view.Drift.Total)
			break
		}
		drift += fmt.Sprintf(", %s %s", item.Kind, item.Key)
	}
	if since := taken.view.Drift.Since; since != nil {
		drift += fmt.Sprintf(", since %s", since.Sub(r.begun))
	}
	show("drift", "%s", drift)
	show("healthy", "%v", k.health.Healthy)
	if len(k.health.Alarms) > 0 || r.printed["alarms"] != "" {
		show("alarms", "%v", k.health.Alarms)
	}
	if taken.view.LeaderReport != nil {
		show("report", "%s's %d, current %v, lost %v", taken.view.LeaderReport.Leader, k.cache.report.number, taken.view.ReportCurrent, taken.view.ReportLost)
	}
	if k.term != nil && k.cache != nil {
		show("leads", "%v", k.cache.leads(*k.term))
	}
	if !k.replicaLostAt.IsZero() {
		show("replica lost", "at %s", k.replicaLostAt.Sub(r.begun))
	}
	return text.String()
}

func describe(out effects) string {
	var all []string
	add := func(wanted bool, format string, values ...any) {
		if wanted {
			all = append(all, fmt.Sprintf(format, values...))
		}
	}
	add(out.notify, "notify")
	add(out.reload, "reload")
	add(out.away, "log that etcd is away")
	add(out.back, "log that etcd is back")
	add(len(out.alarms) > 0, "log the alarms %v", out.alarms)
	for _, f := range out.forgeries {
		add(true, "%d forged writes of %s (%v)", f.count, f.key, f.problem)
	}
	add(out.announceEpoch > 0, "announce epoch %d", out.announceEpoch)
	add(out.endTerm != nil, "end term")
	add(out.triggerTerm, "trigger term")
	add(out.wakeIn > 0, "wake in %s", out.wakeIn)
	return strings.Join(all, ", ")
}
