package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// put writes a file for a flag, and returns its path.
func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func textOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// keepsSecret fails the test if a daemon's log or one of its responses contains a secret.
func keepsSecret(t *testing.T, d *hfidtest.Daemon, secrets ...string) {
	t.Helper()
	places := map[string]string{"the log": textOf(t, d.LogFile)}
	for _, path := range []string{"/v1/status", "/v1/drift", "/v1/policies", "/metrics", "/ready"} {
		places["GET "+path] = string(d.Get(path).Body)
	}
	for where, text := range places {
		if len(text) == 0 {
			t.Errorf("%s is empty, so it cannot be checked", where)
		}
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s contains the secret %q:\n%s", where, secret, text)
			}
		}
	}
}

// refusedBy returns the fields of a daemon that a git server has refused since its
// start, so that manual action is required.
func refusedBy(reason string) fields {
	return fields{
		"source.reachable": false, "source.last_seen_at": null, "source.last_attempted_revision": null,
		"source.error.reason": reason, "source.error.message": present, "sync.status": "Unknown", "sync.last_applied_revision": null,
		"conditions.Ready.status": "Unknown", "conditions.Stalled.status": "True", "conditions.Stalled.reason": reason,
		"conditions.Reconciling.status": "False",
	}
}

// A remote over HTTPS, configured by hfid's flags: each problem is reported for
// what it is, and is solved by a change of its file without a restart. A push is
// found by polling, without a webhook. No secret is in a log or a response.
func TestRemoteOverHTTPS(t *testing.T) {
	t.Parallel()
	const wrong, right = "a-wr0ng-secret", "the-r1ght-secret"
	for name, c := range map[string]struct {
		server gittest.HTTP
		// flags precede the file with the secret.
		flags []string
		user  string
	}{
		"token":             {gittest.HTTP{Token: right, TLS: true}, []string{"--git-token-file"}, "x-access-token"},
		"user and password": {gittest.HTTP{User: "ada", Password: right, TLS: true}, []string{"--git-username", "ada", "--git-password-file"}, "ada"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := gittest.New(t)
			first := commit(repo, "One", files(500, "a"))
			server := gittest.ServeHTTP(t, repo, c.server)
			ca, secret := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "secret")
			put(t, ca, "")
			put(t, secret, wrong+"\n")
			d := hfidtest.New(t, server.URL, append(c.flags, secret, "--git-ca-file", ca, "--interval", "1s", "--log-level", "debug")...)
			d.Start()
			seeStatus(t, d, "a server with an unknown certificate authority", refusedBy("CertificateInvalid").with(fields{"source.url": server.URL}))
			put(t, ca, textOf(t, server.CAFile))
			seeStatus(t, d, "a wrong secret", refusedBy("AuthenticationFailed"))
			put(t, secret, right+"\n")
			seeStatus(t, d, "all right", synced(first, 1).with(fields{"source.url": server.URL}))
			second := commit(repo, "Two", files(500, "a", "b"))
			seeStatus(t, d, "a push without a webhook", synced(second, 2))
			wantNames(t, "served", servedNames(d), "a", "b")
			// It was accepted before, and now the server refuses it.
			put(t, secret, wrong+"\n")
			seeStatus(t, d, "a changed secret", fields{"source.reachable": false, "source.error.reason": "AuthenticationFailed", "sync.last_applied_revision.commit": second})
			keepsSecret(t, d, wrong, right,
				base64.StdEncoding.EncodeToString([]byte(c.user+":"+wrong)), base64.StdEncoding.EncodeToString([]byte(c.user+":"+right)))
		})
	}
}

// A remote over SSH, configured by hfid's flags: a host whose key has changed is
// not trusted, an unknown client key is refused, and a push is found by polling.
func TestRemoteOverSSH(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	server := gittest.ServeSSH(t, repo)
	hosts, key := filepath.Join(t.TempDir(), "known_hosts"), filepath.Join(t.TempDir(), "id")
	put(t, hosts, textOf(t, server.OtherHostsFile))
	put(t, key, textOf(t, server.RefusedKeyFile))
	d := hfidtest.New(t, server.URL, "--git-ssh-key-file", key, "--git-known-hosts-file", hosts, "--interval", "1s", "--log-level", "debug")
	d.Start()
	seeStatus(t, d, "another host", refusedBy("HostKeyChanged"))
	put(t, hosts, textOf(t, server.KnownHostsFile))
	seeStatus(t, d, "an unknown client key", refusedBy("AuthenticationFailed"))
	put(t, key, textOf(t, server.KeyFile))
	seeStatus(t, d, "all right", synced(first, 1).with(fields{"source.url": server.URL}))
	second := commit(repo, "Two", files(500, "a", "b"))
	seeStatus(t, d, "a push without a webhook", synced(second, 2))
	var secrets []string
	for line := range strings.Lines(textOf(t, server.KeyFile) + textOf(t, server.RefusedKeyFile)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
			secrets = append(secrets, line)
		}
	}
	keepsSecret(t, d, secrets...)
}

// A webhook with a secret: a request without it is refused and has no effect. A
// request that is signed as by GitHub, or has a token as from GitLab, triggers a
// fetch.
func TestWebhookSecret(t *testing.T) {
	t.Parallel()
	const secret = "the-webh00k-secret"
	repo := gittest.New(t)
	first := commit(repo, "One", files(500, "a"))
	// Over HTTP and polled hourly: a push is not noticed without a webhook.
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	file := put(t, filepath.Join(t.TempDir(), "secret"), secret+"\n")
	d := hfidtest.Run(t, server.URL, "--interval", "1h", "--webhook-secret-file", file, "--log-level", "debug")
	d.WaitSynced(first)

	body := []byte(`{"ref":"refs/heads/main"}`)
	sign := func(secret string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		return "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	send := func(header, value string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.URL()+"/v1/webhook", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			request.Header.Set(header, value)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	second := commit(repo, "Two", files(500, "a", "b"))
	before := server.Requests()
	for name, c := range map[string][2]string{
		"unsigned":        {},
		"of another":      {"X-Hub-Signature-256", sign("another-secret")},
		"half":            {"X-Hub-Signature-256", sign(secret)[:20]},
		"unprefixed":      {"X-Hub-Signature-256", strings.TrimPrefix(sign(secret), "sha256=")},
		"the wrong token": {"X-Gitlab-Token", "another-secret"},
		"a longer token":  {"X-Gitlab-Token", secret + "x"},
	} {
		if status, text := send(c[0], c[1]); status != http.StatusForbidden || !strings.Contains(text, `"forbidden"`) {
			t.Errorf("a webhook %s gets %d: %s", name, status, text)
		}
	}
	time.Sleep(2 * time.Second) // no fetch may follow
	if after := server.Requests(); after != before {
		t.Errorf("refused webhooks caused %d requests to git", after-before)
	}
	if commit := d.Status().Sync.LastAppliedRevision.Commit; commit != first {
		t.Errorf("after refused webhooks %s is applied", commit)
	}
	if status, text := send("X-Hub-Signature-256", sign(secret)); status != http.StatusAccepted {
		t.Errorf("a signed webhook gets %d: %s", status, text)
	}
	d.WaitSynced(second)
	third := commit(repo, "Three", files(500, "a", "b", "c"))
	if status, text := send("X-Gitlab-Token", secret); status != http.StatusAccepted {
		t.Errorf("a webhook with the token gets %d: %s", status, text)
	}
	d.WaitSynced(third)
	// hfi proves that it knows the secret, and so need not wait for an hour.
	fourth := commit(repo, "Four", files(500, "a", "b", "c", "d"))
	want(t, d, repo.Work(), 0, []string{"is served"}, "wait", fourth, "--webhook-secret-file", file)

	// If the secret cannot be read, every webhook is refused.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, text := send("X-Hub-Signature-256", sign(secret)); status != http.StatusServiceUnavailable {
		t.Errorf("without the secret's file, a webhook gets %d: %s", status, text)
	}
	keepsSecret(t, d, secret)
}

// An external etcd with TLS, client certificates and a user, configured by hfid's
// flags. A wrong password is reported as such, without the password.
func TestEtcdWithTLSAndAUser(t *testing.T) {
	t.Parallel()
	const wrong = "a-wr0ng-passw0rd"
	server := etcdtest.Start(t, etcdtest.WithTLS())
	server.RequireUser()
	repo := gittest.New(t)
	hash := commit(repo, "One", files(500, "a"))
	d := hfidtest.Run(t, repo.Bare(), "--interval", "1s", "--log-level", "debug", "--etcd-endpoints", server.Endpoint,
		"--etcd-ca-file", server.CAFile, "--etcd-cert-file", server.CertFile, "--etcd-key-file", server.KeyFile,
		"--etcd-username", server.Username, "--etcd-password-file", server.PasswordFile)
	d.WaitSynced(hash)
	seeStatus(t, d, "synced", synced(hash, 1).with(fields{"etcd.mode": "external", "etcd.endpoints.0": server.Endpoint}))
	wantNames(t, "etcd", keysIn(server.Ctl), "a")

	d.Stop()
	d.Start("--etcd-password-file", put(t, filepath.Join(t.TempDir(), "password"), wrong))
	d.WaitReady()
	seeStatus(t, d, "a wrong password", fields{
		"etcd.mode": "external", "etcd.healthy": false, "etcd.error": matches("refused the user name or password"), "etcd.last_seen_at": null,
		"sync.status": "Unknown", "sync.served_from": "disk", "sync.last_applied_revision.commit": hash, "drift.status": "Unknown",
		"conditions.Ready.status": "Unknown",
	})
	keepsSecret(t, d, wrong, strings.TrimSpace(textOf(t, server.PasswordFile)))
	d.Stop()
	d.Start()
	next := commit(repo, "Two", files(500, "a", "b"))
	seeStatus(t, d, "fixed", synced(next, 2))
	wantNames(t, "etcd", keysIn(server.Ctl), "a", "b")
}
