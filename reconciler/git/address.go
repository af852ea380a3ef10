package git

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
)

// address is the location of a repository.
type address struct {
	// local is a folder as an absolute path, or empty for a remote.
	local string
	// remote is the URL for go-git, without credentials, which are in user and password.
	remote, user, password string
	// ssh is the location for SSH, else nil. go-git reads SSH addresses in
	// other ways than git, and is given this one instead of the URL's.
	ssh *sshAddress
	// display is the folder or remote, for messages.
	display string
	// problem says why the address cannot be used, or is empty.
	problem string
}

// sshAddress is the location of a repository on an SSH server.
type sshAddress struct {
	user, host string
	port       int
	// path is as the server's git-upload-pack takes it: absolute, or relative to
	// the user's home, or with ~ at its beginning.
	path string
}

// hostPort is the address to dial.
func (a *sshAddress) hostPort() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

func parseAddress(text string) address {
	if !strings.Contains(text, "://") {
		if _, err := os.Stat(text); err != nil {
			if ssh, ok := parseSCPLike(runtime.GOOS, text); ok {
				return address{remote: sshURL, display: text, ssh: ssh}
			}
		}
		return localAddress(text)
	}
	parsed, err := url.Parse(text)
	if err != nil {
		// The text may contain a password, so no message has it.
		return address{remote: "invalid:", display: "an invalid URL", problem: "the repository's URL is invalid: check --repo"}
	}
	a := address{}
	if parsed.User != nil {
		a.password, _ = parsed.User.Password()
	}
	parsed.RawQuery, parsed.Fragment, parsed.RawFragment = "", "", ""
	switch parsed.Scheme {
	case "file":
		return localAddress(parsed.Path)
	case "ssh", "git+ssh", "ssh+git":
		// The user is part of an SSH repository's location, and no secret.
		user := parsed.User.Username()
		if parsed.User != nil {
			parsed.User = url.User(user)
		}
		port, _ := strconv.Atoi(parsed.Port()) // url.Parse lets digits through only
		a.ssh = newSSHAddress(user, parsed.Hostname(), port, parsed.Path)
		a.remote, a.display = sshURL, parsed.String()
		if a.ssh.host == "" || a.ssh.path == "" {
			a.problem = "the repository's URL has no host or no path: check --repo"
		}
		return a
	case "http", "https":
	default:
		a.problem = fmt.Sprintf("%s is not supported for repositories: use a folder, or a URL of https, http, ssh or file", parsed.Scheme)
	}
	a.user = parsed.User.Username()
	parsed.User = nil
	parsed.Path, parsed.RawPath = strings.TrimRight(parsed.Path, "/"), strings.TrimRight(parsed.RawPath, "/")
	a.remote, a.display = parsed.String(), parsed.String()
	return a
}

// localAddress makes a folder's path absolute, so that it is
// unambiguous in the status.
func localAddress(folder string) address {
	if absolute, err := filepath.Abs(folder); err == nil {
		folder = absolute
	}
	return address{local: folder, display: folder}
}

// sshURL is the URL that go-git is given for every SSH address.
const sshURL = "ssh://address-of-the-source/"

func newSSHAddress(user, host string, port int, path string) *sshAddress {
	// As in git, a ~ that follows the first slash is the beginning of the path.
	if strings.HasPrefix(path, "/~") {
		path = path[1:]
	}
	return &sshAddress{user: cmp.Or(user, gitssh.DefaultUsername), host: host, port: cmp.Or(port, gitssh.DefaultPort), path: path}
}

// parseSCPLike parses the form [USER@]HOST:PATH, by git's rules: a colon before
// any slash makes it one, and brackets enclose an IPv6 address, or HOST:PORT. On
// Windows a letter and a colon are a drive.
func parseSCPLike(system, text string) (*sshAddress, bool) {
	before, bracketed, found := strings.Cut(text, "[")
	if found && (before == "" || strings.HasSuffix(before, "@")) && !strings.ContainsAny(before, ":/") {
		inside, path, closed := strings.Cut(bracketed, "]:")
		if !closed || inside == "" || path == "" || strings.Contains(inside, "/") {
			return nil, false
		}
		user := strings.TrimSuffix(before, "@")
		if within, rest, named := strings.Cut(inside, "@"); named && user == "" {
			user, inside = within, rest
		}
		if host, digits, hasPort := strings.Cut(inside, ":"); hasPort && !strings.Contains(digits, ":") {
			port, err := strconv.ParseUint(digits, 10, 16)
			return newSSHAddress(user, host, int(port), path), err == nil && host != ""
		}
		return newSSHAddress(user, inside, 0, path), true
	}
	place, path, found := strings.Cut(text, ":")
	if system == "windows" && len(place) == 1 && strings.ToLower(place) >= "a" && strings.ToLower(place) <= "z" {
		return nil, false
	}
	if !found || path == "" || strings.Contains(place, "/") {
		return nil, false
	}
	user, host, named := strings.Cut(place, "@")
	if !named {
		user, host = "", place
	}
	return newSSHAddress(user, host, 0, path), host != ""
}
