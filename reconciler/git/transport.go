package git

import (
	"context"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// go-git has a global list of capabilities that it does not declare, and finds
// the client for a URL in a global table.
func init() {
	// Azure DevOps refuses a fetch that does not declare multi_ack. go-git reads
	// the answers to it, of which it ignores all but the last.
	transport.UnsupportedCapabilities = []capability.Capability{capability.ThinPack}
	client.InstallProtocol("ssh", sshTransport{gitssh.DefaultClient})
	client.InstallProtocol("http", httpTransport{githttp.DefaultClient})
	client.InstallProtocol("https", httpTransport{githttp.DefaultClient})
}

// sshTransport connects to the address of the source that the credentials are of.
type sshTransport struct{ transport.Transport }

func (t sshTransport) NewUploadPackSession(endpoint *transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	keys, ok := auth.(*timedKeys)
	if !ok {
		return t.Transport.NewUploadPackSession(endpoint, auth)
	}
	to := keys.source.address.ssh
	endpoint.User, endpoint.Host, endpoint.Port, endpoint.Path = to.user, to.host, to.port, to.path
	session, err := t.Transport.NewUploadPackSession(endpoint, auth)
	if err != nil {
		return nil, err
	}
	return &sshSession{session, keys}, nil
}

// sshSession reads what a server may send for a fetch only once it has asked for
// it: the list of references, which is kept in memory, has a lower limit.
type sshSession struct {
	transport.UploadPackSession
	keys *timedKeys
}

func (s *sshSession) UploadPack(ctx context.Context, request *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	s.keys.operation.readMore(s.keys.source.MaxFetch)
	return s.UploadPackSession.UploadPack(ctx, request)
}
