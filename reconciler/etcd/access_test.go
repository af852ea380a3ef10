package etcd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
)

// An external cluster with TLS, client certificates, and a user.
func TestAnExternalClusterWithTLSAndAUser(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithTLS())
	server.RequireUser()
	access := Access{
		Endpoints: []string{server.Endpoint}, CAFile: server.CAFile, CertFile: server.CertFile, KeyFile: server.KeyFile,
		Username: server.Username, PasswordFile: server.PasswordFile,
	}
	a := externalStore("a", server.Endpoint)
	a.Access = access
	openStore(t, a)
	term := campaign(t, a)
	state := publish(t, term, publication("c1", policies(t, 5, 100)))
	if got := server.Ctl("get", "/hfi/head", "--print-value-only"); !strings.Contains(got, string(state.Head.Digest)) {
		t.Errorf("etcdctl sees the head %s", got)
	}
	// Tokens do not outlive etcd's process: the client has to fetch another.
	server.Kill()
	server.Restart()
	eventually(t, "etcd is back", func() bool { return a.View().Health.Healthy })
	publish(t, lead(t, a, term), publication("c2", policies(t, 6, 100)))

	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, plain := etcdtest.Start(t, etcdtest.WithTLS()), etcdtest.Start(t)
	for name, c := range map[string]struct {
		change func(*Access)
		want   string
	}{
		"a wrong password":        {func(a *Access) { a.PasswordFile = wrong }, "user name or password"},
		"another CA":              {func(a *Access) { a.CAFile = other.CAFile }, "TLS handshake"},
		"no client's certificate": {func(a *Access) { a.CertFile, a.KeyFile = "", "" }, "TLS handshake"},
		"no TLS":                  {func(a *Access) { a.Endpoints = []string{strings.Replace(server.Endpoint, "https", "http", 1)} }, "expects TLS"},
		"https to a plain etcd":   {func(a *Access) { a.Endpoints = []string{strings.Replace(plain.Endpoint, "http", "https", 1)} }, "give http:// endpoints"},
		"nothing there":           {func(a *Access) { a.Endpoints = []string{"https://127.0.0.1:1"} }, "nothing listens"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := externalStore("x", server.Endpoint)
			s.Access = access
			s.RequestTimeout = time.Second
			c.change(&s.Access)
			openStore(t, s)
			var health string
			defer func() {
				if t.Failed() {
					t.Log(health)
				}
			}()
			eventually(t, "the reason is in the health", func() bool {
				h := s.View().Health
				health = h.Error
				return !h.Healthy && strings.Contains(h.Error, c.want)
			})
			if s.View().State != nil {
				t.Error("a state without access")
			}
		})
	}
}

// A changed password is reloaded without a restart, whether its file or etcd's
// user changes first; a wrong one in between does no harm.
func TestAChangedPasswordIsReloaded(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.WithTLS())
	server.RequireUser()
	file := filepath.Join(t.TempDir(), "password")
	old, err := os.ReadFile(server.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(old))
	a := externalStore("a", server.Endpoint)
	a.Access = Access{
		Endpoints: []string{server.Endpoint}, CAFile: server.CAFile, CertFile: server.CertFile, KeyFile: server.KeyFile,
		Username: server.Username, PasswordFile: file,
	}
	openStore(t, a)
	term := campaign(t, a)
	publish(t, term, publication("c1", policies(t, 5, 100)))

	write(t, file, "not-yet") // The file first.
	publish(t, lead(t, a, term), publication("c2", policies(t, 6, 100)))
	server.SetPassword("not-yet")
	eventually(t, "the new password is used", func() bool { return a.connection.Load().config.Password == "not-yet" })
	publish(t, lead(t, a, term), publication("c3", policies(t, 7, 100)))

	server.SetPassword("second") // etcd first.
	eventually(t, "the old password is refused", func() bool { return strings.Contains(a.View().Health.Error, "user name or password") })
	write(t, file, "second")
	eventually(t, "etcd is healthy", func() bool { return a.View().Health.Healthy && a.connection.Load().config.Password == "second" })
	publish(t, lead(t, a, term), publication("c4", policies(t, 8, 100)))
}

// A new certificate authority, with new certificates on both sides, is reloaded
// without a restart.
func TestAChangedAuthorityIsReloaded(t *testing.T) {
	t.Parallel()
	server, next := etcdtest.Start(t, etcdtest.WithTLS()), etcdtest.Start(t, etcdtest.WithTLS())
	folder := t.TempDir()
	access := Access{
		Endpoints: []string{server.Endpoint},
		CAFile:    filepath.Join(folder, "ca"), CertFile: filepath.Join(folder, "cert"), KeyFile: filepath.Join(folder, "key"),
	}
	copyAll := func(from *etcdtest.Server, ca, cert, key string) {
		for source, target := range map[string]string{from.CAFile: ca, from.CertFile: cert, from.KeyFile: key} {
			text, err := os.ReadFile(source)
			if err != nil {
				t.Fatal(err)
			}
			write(t, target, string(text))
		}
	}
	copyAll(server, access.CAFile, access.CertFile, access.KeyFile)
	a := externalStore("a", server.Endpoint)
	a.Access = access
	openStore(t, a)
	term := campaign(t, a)
	publish(t, term, publication("c1", policies(t, 5, 100)))

	server.Kill()
	copyAll(next, server.CAFile, server.CertFile, server.KeyFile)
	server.Restart()
	eventually(t, "etcd's new certificate is refused", func() bool { return strings.Contains(a.View().Health.Error, "TLS handshake") })
	copyAll(next, access.CAFile, access.CertFile, access.KeyFile)
	eventually(t, "etcd is healthy", func() bool { return a.View().Health.Healthy })
	publish(t, lead(t, a, term), publication("c2", policies(t, 6, 100)))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Open returns an error for settings that cannot be used, and names the file.
func TestOpenRejectsUnusableSettings(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoints := []string{"127.0.0.1:1"}
	for name, c := range map[string]struct {
		access Access
		want   string
	}{
		"no endpoint":    {Access{}, "no etcd endpoint"},
		"a missing CA":   {Access{Endpoints: endpoints, CAFile: "/missing"}, "/missing"},
		"no CA in it":    {Access{Endpoints: endpoints, CAFile: text}, "no PEM"},
		"half a pair":    {Access{Endpoints: endpoints, CertFile: text}, "key file"},
		"no certificate": {Access{Endpoints: endpoints, CertFile: text, KeyFile: text}, "client certificate"},
		"no password":    {Access{Endpoints: endpoints, Username: "x"}, "password file"},
		"a missing one":  {Access{Endpoints: endpoints, Username: "x", PasswordFile: "/missing"}, "/missing"},
		"an empty one":   {Access{Endpoints: endpoints, Username: "x", PasswordFile: empty}, "is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(DefaultPrefix, "a", quiet())
			s.StateKeys = testKeys
			s.Access = c.access
			if err := s.Open(testContext(t)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
				_ = s.Close()
			}
		})
	}
}
