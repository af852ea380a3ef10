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

// stranger writes to the daemon's etcd behind its back.
type stranger struct {
	daemon  *hfidtest.Daemon
	oracle  *oracle
	random  *rand.Rand
	script  *transcript
	etcdctl string
	writes  int
	// digests are those that the head had.
	digests []any
}

func newStranger(t *testing.T, daemon *hfidtest.Daemon, oracle *oracle, random *rand.Rand, script *transcript) *stranger {
	return &stranger{daemon: daemon, oracle: oracle, random: random, script: script, etcdctl: testtool.Path(t, "etcdctl")}
}

// records are the daemon's own keys besides policies and head.
var records = []string{"epoch", "epoch-floor", "history/", "history/000000000001", "leader", "origins/", "origins/00", "publishing", "status", "trigger"}

// write does one to three things. That they fail, as the daemon may be dead by now, does not matter.
func (s *stranger) write() {
	for range 1 + s.random.IntN(3) {
		s.once()
	}
}

func (s *stranger) once() {
	name := fmt.Sprintf("p%02d", s.random.IntN(16))
	value := s.oracle.values[s.random.IntN(len(s.oracle.values))]
	switch draw := s.random.IntN(100); {
	case draw < 15:
		s.ctl("put", "/hfi/policies/stray", renamed(value, "stray"))
	case draw < 40:
		s.ctl("put", "/hfi/policies/"+name, renamed(value, name))
	case draw < 45:
		s.ctl("put", "/hfi/policies/"+name, "no policy")
	case draw < 60:
		s.ctl("del", "/hfi/policies/"+name)
	case draw < 65:
		s.ctl("del", "--prefix", "/hfi/policies/")
	case draw < 70:
		s.ctl("put", "/hfi/head", "no head")
	case draw < 75:
		s.ctl("del", "/hfi/head")
	case draw < 91:
		s.tamper()
	case draw < 94:
		s.ctl("put", "/hfi/"+records[s.random.IntN(len(records))], "no record")
	case draw < 97:
		s.ctl("del", "--prefix", "/hfi/"+records[s.random.IntN(len(records))])
	default:
		s.ctl("del", "--prefix", "/hfi/")
	}
}

// tamper writes the head again as it is, so that it describes what the
// policies were and not what they are by now, or changes its count, or its
// digest to another one, be it of an earlier set. (That a whole earlier head is put back while the policies are
// those that it describes is not among this: no reader could tell.)
func (s *stranger) tamper() {
	head, _ := s.ctl("get", "--print-value-only", "/hfi/head")
	var fields map[string]any
	if json.Unmarshal([]byte(head), &fields) != nil {
		return
	}
	s.digests = append(s.digests, fields["digest"])
	switch s.random.IntN(4) {
	case 0:
		fields["count"] = s.random.IntN(20)
	case 1:
		fields["digest"] = fmt.Sprintf("v1:%064x", s.random.Uint64())
	case 2:
		fields["digest"] = s.digests[s.random.IntN(len(s.digests))]
	}
	text, _ := json.Marshal(fields)
	s.ctl("put", "/hfi/head", string(text))
}

func (s *stranger) ctl(arguments ...string) (string, bool) {
	address := s.daemon.EtcdAddress()
	if address == "" {
		return "", false
	}
	command := exec.Command(s.etcdctl, append([]string{"--endpoints", address, "--dial-timeout", "300ms", "--command-timeout", "500ms"}, arguments...)...)
	out, err := command.Output()
	outcome := "done"
	if err != nil {
		outcome = "failed"
	} else if arguments[0] != "get" {
		s.writes++
	}
	line := strings.Join(arguments, " ")
	s.script.note("stranger: %.120s: %s", line, outcome)
	return string(out), err == nil
}

// renamed is a policy of another name.
func renamed(policy, name string) string {
	var value map[string]any
	if err := json.Unmarshal([]byte(policy), &value); err != nil {
		panic(err)
	}
	value["metadata"] = map[string]any{"name": name}
	text, _ := json.Marshal(value)
	return string(text)
}

// etcdHolds is the head's commit and the set in etcd, as etcdctl sees them.
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
