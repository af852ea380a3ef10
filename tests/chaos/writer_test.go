package chaos

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// etcdWriter modifies the daemon's keys in etcd.
type etcdWriter struct {
	daemon  *hfidtest.Daemon
	oracle  *oracle
	random  *rand.Rand
	script  *transcript
	etcdctl string
	writes  int
	// digests has the digests of former heads.
	digests []any
}

func newEtcdWriter(t *testing.T, daemon *hfidtest.Daemon, oracle *oracle, random *rand.Rand, script *transcript) *etcdWriter {
	return &etcdWriter{daemon: daemon, oracle: oracle, random: random, script: script, etcdctl: testtool.Path(t, "etcdctl")}
}

// records has the daemon's keys other than policies and head.
var records = []string{"epoch", "epoch-floor", "history/", "history/000000000001", "leader", "origins/", "origins/00", "publishing", "status", "trigger"}

// write makes one to three changes. Errors are ignored, because the daemon may have been killed.
func (w *etcdWriter) write() {
	for range 1 + w.random.IntN(3) {
		w.once()
	}
}

func (w *etcdWriter) once() {
	name := fmt.Sprintf("p%02d", w.random.IntN(16))
	value := w.oracle.values[w.random.IntN(len(w.oracle.values))]
	switch draw := w.random.IntN(100); {
	case draw < 15:
		w.ctl("put", "/hfi/policies/stray", renamed(value, "stray"))
	case draw < 40:
		w.ctl("put", "/hfi/policies/"+name, renamed(value, name))
	case draw < 45:
		w.ctl("put", "/hfi/policies/"+name, "no policy")
	case draw < 60:
		w.ctl("del", "/hfi/policies/"+name)
	case draw < 65:
		w.ctl("del", "--prefix", "/hfi/policies/")
	case draw < 70:
		w.ctl("put", "/hfi/head", "no head")
	case draw < 75:
		w.ctl("del", "/hfi/head")
	case draw < 91:
		w.tamper()
	case draw < 94:
		w.ctl("put", "/hfi/"+records[w.random.IntN(len(records))], "no record")
	case draw < 97:
		w.ctl("del", "--prefix", "/hfi/"+records[w.random.IntN(len(records))])
	default:
		w.ctl("del", "--prefix", "/hfi/")
	}
}

// tamper writes the head again unchanged, so that it may not match the current policies, or
// changes its count or digest, possibly to an earlier digest. (TestAnOldHeadIsNotServedAgain
// restores complete earlier heads with their policies.)
func (w *etcdWriter) tamper() {
	head, _ := w.ctl("get", "--print-value-only", "/hfi/head")
	var fields map[string]any
	if json.Unmarshal([]byte(head), &fields) != nil {
		return
	}
	w.digests = append(w.digests, fields["digest"])
	switch w.random.IntN(4) {
	case 0:
		fields["count"] = w.random.IntN(20)
	case 1:
		fields["digest"] = fmt.Sprintf("v1:%064x", w.random.Uint64())
	case 2:
		fields["digest"] = w.digests[w.random.IntN(len(w.digests))]
	}
	text, _ := json.Marshal(fields)
	w.ctl("put", "/hfi/head", string(text))
}

func (w *etcdWriter) ctl(arguments ...string) (string, bool) {
	address := w.daemon.EtcdAddress()
	if address == "" {
		return "", false
	}
	command := exec.Command(w.etcdctl, append([]string{"--endpoints", address, "--dial-timeout", "300ms", "--command-timeout", "500ms"}, arguments...)...)
	out, err := command.Output()
	outcome := "done"
	if err != nil {
		outcome = "failed"
	} else if arguments[0] != "get" {
		w.writes++
	}
	line := strings.Join(arguments, " ")
	w.script.note("etcdWriter: %.120s: %s", line, outcome)
	return string(out), err == nil
}

// renamed returns a policy with another name.
func renamed(policy, name string) string {
	var value map[string]any
	if err := json.Unmarshal([]byte(policy), &value); err != nil {
		panic(err)
	}
	value["metadata"] = map[string]any{"name": name}
	text, _ := json.Marshal(value)
	return string(text)
}

// etcdHolds returns the commit of the head and the set in etcd, read with etcdctl.
func etcdHolds(t *testing.T, daemon *hfidtest.Daemon) (commit string, holds set) {
	t.Helper()
	var found struct {
		KVs []struct{ Key, Value string }
	}
	if err := json.Unmarshal([]byte(daemon.Etcdctl("get", "--prefix", "/hfi/policies/", "-w", "json")), &found); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, kv := range found.KVs {
		key, err := base64.StdEncoding.DecodeString(kv.Key)
		if err != nil {
			t.Fatal(err)
		}
		text, err := base64.StdEncoding.DecodeString(kv.Value)
		if err != nil {
			t.Fatal(err)
		}
		var value any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatalf("%s holds %q: %v", key, text, err)
		}
		values[strings.TrimPrefix(string(key), "/hfi/policies/")] = value
	}
	var head struct{ Commit string }
	if err := json.Unmarshal([]byte(daemon.Etcdctl("get", "--print-value-only", "/hfi/head")), &head); err != nil {
		t.Fatal(err)
	}
	return head.Commit, setOf(values)
}
