package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// delay returns the text of a policy that delays a service's requests.
func delay(name, service string, ms int) string {
	return fmt.Sprintf("metadata:\n  name: %s\nspec:\n  selector:\n    service: %s\n    namespace: demo\n  rules:\n    - fault:\n        delay_ms: %d\n        percentage: 50\n", name, service, ms)
}

// file returns the path of a policy in the tests' repositories.
func file(name string) string { return "policies/" + name + ".yaml" }

// files converts policies by name into files by path.
func files(ms int, names ...string) map[string]string {
	all := map[string]string{}
	for _, name := range names {
		all[file(name)] = delay(name, name, ms)
	}
	return all
}

// commit commits files, pushes, and returns the commit's hash from stock git.
func commit(repo *gittest.Repo, message string, files map[string]string) string {
	hash := repo.Commit(message, files)
	repo.Push()
	return hash
}

// fields has the expected values of a response by their path in its JSON. A step of
// a path is a field's name, an index, # for a list's length or, in conditions, a
// condition's type. A value is compared as JSON, or is a check.
type fields map[string]any

// check is a condition on a value of a response, with a description.
type check struct {
	wants string
	holds func(value any) bool
}

var (
	present = check{"anything but null", func(v any) bool { return v != nil && v != "" }}
	null    = check{"null", func(v any) bool { return v == nil }}
	absent  = check{"no such field, or an empty one", func(v any) bool { return v == missing{} || v == "" || v == nil }}
)

type missing struct{}

func matches(pattern string) check {
	re := regexp.MustCompile(pattern)
	return check{"text like " + pattern, func(v any) bool { s, ok := v.(string); return ok && re.MatchString(s) }}
}

// since checks that a time is not before a given time and not in the future.
func since(moment time.Time) check {
	return check{"a time since " + moment.Format(time.RFC3339Nano), func(v any) bool {
		s, _ := v.(string)
		at, err := time.Parse(time.RFC3339Nano, s)
		return err == nil && !at.Before(moment) && !at.After(time.Now().Add(time.Second))
	}}
}

// until checks that a time is not after a given time.
func until(moment time.Time) check {
	return check{"a time until " + moment.Format(time.RFC3339Nano), func(v any) bool {
		s, _ := v.(string)
		at, err := time.Parse(time.RFC3339Nano, s)
		return err == nil && !at.After(moment)
	}}
}

// at returns the value at a path of a response.
func at(value any, where string) any {
	for step := range strings.SplitSeq(where, ".") {
		switch v := value.(type) {
		case map[string]any:
			next, ok := v[step]
			if !ok {
				return missing{}
			}
			value = next
		case []any:
			if step == "#" {
				value = float64(len(v))
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil {
				i = slices.IndexFunc(v, func(item any) bool { return at(item, "type") == step })
			}
			if i < 0 || i >= len(v) {
				return missing{}
			}
			value = v[i]
		default:
			return missing{}
		}
	}
	return value
}

// differences describes how a response differs from the expected fields.
func (f fields) differences(answer any) (all []string) {
	for where, want := range f {
		got := at(answer, where)
		if c, ok := want.(check); ok {
			if !c.holds(got) {
				all = append(all, fmt.Sprintf("%s is %v, want %s", where, got, c.wants))
			}
			continue
		}
		if n, ok := want.(int); ok {
			want = float64(n)
		}
		if !reflect.DeepEqual(got, want) {
			all = append(all, fmt.Sprintf("%s is %v, want %v", where, got, want))
		}
	}
	slices.Sort(all)
	return all
}

// with returns f with additional fields, which take precedence.
func (f fields) with(more fields) fields {
	all := fields{}
	for _, some := range []fields{f, more} {
		for where, want := range some {
			all[where] = want
		}
	}
	return all
}

// see waits until one response has all fields, and returns it.
func see(t *testing.T, d *hfidtest.Daemon, what, path string, want fields) any {
	t.Helper()
	return seeWithin(t, d, what, path, want, hfidtest.WaitLimit)
}

func seeWithin(t *testing.T, d *hfidtest.Daemon, what, path string, want fields, limit time.Duration) any {
	t.Helper()
	var value any
	testtool.Within(t, limit, what+": GET "+path, func() error {
		answer := d.Get(path)
		value = nil
		if err := json.Unmarshal(answer.Body, &value); err != nil {
			t.Fatalf("GET %s: %v: %s", path, err, answer.Body)
		}
		if wrong := want.differences(value); len(wrong) > 0 {
			pretty, _ := json.MarshalIndent(value, "", "  ")
			return fmt.Errorf("\n  %s\nthe whole response:\n%s", strings.Join(wrong, "\n  "), pretty)
		}
		return nil
	})
	return value
}

// seeStatus is see for /v1/status, and for /v1/drift, which must report the same drift.
func seeStatus(t *testing.T, d *hfidtest.Daemon, what string, want fields) any {
	t.Helper()
	status := see(t, d, what, "/v1/status", want)
	drift := fields{}
	for where, value := range want {
		if part, ok := strings.CutPrefix(where, "drift."); ok {
			drift[part] = value
		}
	}
	see(t, d, what, "/v1/drift", drift)
	return status
}

// textAt returns the string at a path of a response.
func textAt(answer any, where string) string {
	s, _ := at(answer, where).(string)
	return s
}

// keysIn returns the names of the policies that etcdctl lists.
func keysIn(etcdctl func(...string) string) []string {
	var names []string
	for line := range strings.SplitSeq(etcdctl("get", "/hfi/policies/", "--prefix", "--keys-only"), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			names = append(names, path.Base(line))
		}
	}
	slices.Sort(names)
	return names
}

// servedNames returns the names of the policies that are served.
func servedNames(d *hfidtest.Daemon) []string {
	var names []string
	for name := range d.Policies("").ByName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func wantNames(t *testing.T, where string, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", where, got, want)
	}
}

// served returns the response of /v1/policies as a string, for comparison with a later one.
func served(d *hfidtest.Daemon) string {
	answer := d.Get("/v1/policies")
	return fmt.Sprintf("%d %s %s %s %s", answer.Status, answer.Header.Get("ETag"), answer.Header.Get("X-Hfi-Commit"), answer.Header.Get("X-Hfi-Revision"), answer.Body)
}
