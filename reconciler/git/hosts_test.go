package git

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// Azure DevOps answers 400 to a fetch that does not declare multi_ack.
func TestServersThatNeedMultiAck(t *testing.T) {
	repo := gittest.New(t)
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{Refuse: func(r *http.Request, body []byte) string {
		if r.Method == http.MethodPost && !bytes.Contains(body, []byte("multi_ack")) {
			return "TF401035: the client must support multi_ack"
		}
		return ""
	}})
	fullWay(t, repo, open(t, server.URL, "policies"))
}

// A slash at the end of an address does not double in the paths that are asked
// for, and characters that a URL encodes stay encoded.
func TestHTTPPaths(t *testing.T) {
	repo, head := pushed(t, policy(1))
	for _, address := range []string{"/policies.git", "/policies.git/", "/policies.git//", "/p%6Flicies.git", "/an%20organisation/policies.git/"} {
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{Refuse: func(r *http.Request, _ []byte) string {
			if strings.Contains(r.URL.Path, "//") {
				return "no such path: " + r.URL.Path
			}
			r.URL.Path = strings.TrimPrefix(r.URL.Path, "/an organisation")
			return ""
		}})
		s := open(t, strings.TrimSuffix(server.URL, "/policies.git")+address, "policies")
		if mustHead(t, s) != head {
			t.Errorf("%s has another head", address)
		}
		mustDelta(t, s, "", head)
	}
}

// The source reads a repository in its user's home, and one given by an address
// without slashes before its path.
func TestSSHAddressesAreServed(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	for _, address := range []string{
		"ssh://git@" + server.Address + "/~/policies.git",
		"git+ssh://git@" + server.Address + repo.Bare(),
		"ssh+git://git@" + server.Address + repo.Bare(),
		"git@[" + server.Address + "]:policies.git",
		"[" + server.Address + "]:" + repo.Bare(),
		"[git@" + server.Address + "]:~/policies.git",
	} {
		s := open(t, address, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile })
		if got, err := s.Head(t.Context()); got != head {
			t.Errorf("%s: the head is %q (%v), want %s", address, got, err, head)
		}
	}
}
