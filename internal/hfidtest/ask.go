package hfidtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/testtool"
)

// requestLimit bounds each request that does not wait for a change.
const requestLimit = 10 * time.Second

// client keeps no connections, because the next process has another address.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// Answer is the answer to an HTTP request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Ask sends a request without a body to the running process.
func (d *Daemon) Ask(ctx context.Context, method, path string, header http.Header) (*Answer, error) {
	address := d.Address()
	if address == "" {
		return nil, fmt.Errorf("%s %s: hfid does not listen", method, path)
	}
	request, err := http.NewRequestWithContext(ctx, method, address+path, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return &Answer{response.StatusCode, response.Header, body}, nil
}

// Get sends a GET request and fails the test if there is no answer, of any status.
func (d *Daemon) Get(path string) *Answer {
	d.t.Helper()
	return d.must(http.MethodGet, path)
}

// Post sends a POST request and fails the test if there is no answer, of any status.
func (d *Daemon) Post(path string) *Answer {
	d.t.Helper()
	return d.must(http.MethodPost, path)
}

func (d *Daemon) must(method, path string) *Answer {
	d.t.Helper()
	d.URL()
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	answer, err := d.Ask(ctx, method, path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer
}

// JSON sends a GET request and decodes the answer. A status other than 200 fails the test.
func (d *Daemon) JSON(path string, into any) {
	d.t.Helper()
	answer := d.Get(path)
	if answer.Status != http.StatusOK {
		d.t.Fatalf("GET %s: %d: %s", path, answer.Status, answer.Body)
	}
	if err := json.Unmarshal(answer.Body, into); err != nil {
		d.t.Fatalf("GET %s: %v: %s", path, err, answer.Body)
	}
}

// Status returns the answer of GET /v1/status.
func (d *Daemon) Status() *api.Status {
	d.t.Helper()
	var status api.Status
	d.JSON("/v1/status", &status)
	return &status
}

// Policies is the answer of GET /v1/policies.
type Policies struct {
	// ByName has each policy's JSON, as the daemon wrote it.
	ByName map[string]json.RawMessage
	// Commit, Revision and ETag are headers of the answer.
	Commit, Revision, ETag string
}

// Policies returns the answer of GET /v1/policies with a query, which may be empty.
func (d *Daemon) Policies(query string) *Policies {
	d.t.Helper()
	answer := d.Get("/v1/policies" + query)
	policies, err := ParsePolicies(answer)
	if err != nil {
		d.t.Fatal(err)
	}
	return policies
}

// ParsePolicies decodes an answer of GET /v1/policies. A duplicate name is an error.
func ParsePolicies(answer *Answer) (*Policies, error) {
	if answer.Status != http.StatusOK {
		return nil, fmt.Errorf("GET /v1/policies: %d: %s", answer.Status, answer.Body)
	}
	var list struct {
		Policies []json.RawMessage `json:"policies"`
	}
	if err := json.Unmarshal(answer.Body, &list); err != nil || list.Policies == nil {
		return nil, fmt.Errorf("GET /v1/policies: not a list of policies (%v): %.300s", err, answer.Body)
	}
	policies := &Policies{
		ByName: make(map[string]json.RawMessage, len(list.Policies)),
		Commit: answer.Header.Get("X-Hfi-Commit"), Revision: answer.Header.Get("X-Hfi-Revision"), ETag: answer.Header.Get("ETag"),
	}
	for _, policy := range list.Policies {
		var named struct {
			Metadata struct{ Name string }
		}
		if err := json.Unmarshal(policy, &named); err != nil || named.Metadata.Name == "" {
			return nil, fmt.Errorf("GET /v1/policies: a policy without a name (%v): %.300s", err, policy)
		}
		if _, twice := policies.ByName[named.Metadata.Name]; twice {
			return nil, fmt.Errorf("GET /v1/policies: %s is a duplicate", named.Metadata.Name)
		}
		policies.ByName[named.Metadata.Name] = policy
	}
	return policies, nil
}

// WaitReady waits until GET /ready answers 200.
func (d *Daemon) WaitReady() {
	d.t.Helper()
	d.await("ready", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
		defer cancel()
		answer, err := d.Ask(ctx, http.MethodGet, "/ready", nil)
		return err == nil && answer.Status == http.StatusOK
	})
}

// WaitStatus waits until the status meets a condition, and returns it. On a
// timeout the test fails with the last status.
func (d *Daemon) WaitStatus(what string, wanted func(*api.Status) bool) *api.Status {
	d.t.Helper()
	var status *api.Status
	testtool.Within(d.t, WaitLimit, what, func() error {
		if status = d.Status(); wanted(status) {
			return nil
		}
		text, _ := json.MarshalIndent(status, "", "  ")
		return fmt.Errorf("the status is\n%s", text)
	})
	return status
}

// WaitSynced waits until git, etcd and the policies served are of a commit.
func (d *Daemon) WaitSynced(commit string) *api.Status {
	d.t.Helper()
	return d.WaitStatus("synced to "+commit, func(s *api.Status) bool {
		return s.Sync.Status == api.Synced && s.Sync.LastAppliedRevision != nil && s.Sync.LastAppliedRevision.Commit == commit
	})
}

// EtcdAddress returns the embedded etcd's client address, HOST:PORT, or "" if
// the running process has not written one: a killed process leaves its own.
func (d *Daemon) EtcdAddress() string {
	run, path := d.current(), datadir.Folder(d.DataDir).EtcdAddress()
	info, err := os.Stat(path)
	if run == nil || err != nil || info.ModTime().Before(run.started) {
		return ""
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// Etcdctl runs etcdctl on the embedded etcd. A failure fails the test.
func (d *Daemon) Etcdctl(arguments ...string) string {
	d.t.Helper()
	d.await("reachable by etcdctl", func() bool { return d.EtcdAddress() != "" })
	out, err := etcdtest.Ctl(d.t, append([]string{"--endpoints", d.EtcdAddress()}, arguments...)...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}
