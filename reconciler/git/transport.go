package git

import (
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
	if keys, ok := auth.(*timedKeys); ok {
		to := keys.source.address.ssh
		endpoint.User, endpoint.Host, endpoint.Port, endpoint.Path = to.user, to.host, to.port, to.path
	}
	return t.Transport.NewUploadPackSession(endpoint, auth)
}
