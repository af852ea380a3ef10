package git

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// address is where a repository is.
type address struct {
	// local is a folder, or empty for a remote.
	local string
	// remote is the URL without credentials; user and password are those that stood in it.
	remote, user, password string
	// display is for people: the folder, or remote.
	display string
	ssh     bool
	// problem says why the address cannot be used, or is empty.
	problem string
}

// scpLike is USER@HOST:PATH, which has no scheme and is no path of this machine.
var scpLike = regexp.MustCompile(`^([^@/:]+@)?[^/:]+:[^/].*$|^[^@/:]+@[^/:]+:/.*$`)

func parseAddress(text string) address {
	if !strings.Contains(text, "://") {
		if _, err := os.Stat(text); err != nil && scpLike.MatchString(text) {
			return address{remote: text, display: text, ssh: true}
		}
		return address{local: text, display: text}
	}
	parsed, err := url.Parse(text)
	if err != nil {
		// The text may hold a password: it is not repeated.
		return address{remote: "invalid:", display: "a URL that cannot be read", problem: "the repository's URL cannot be read: check --repo"}
	}
	if parsed.Scheme == "file" {
		return address{local: parsed.Path, display: parsed.Path}
	}
	a := address{ssh: strings.Contains(parsed.Scheme, "ssh")}
	switch parsed.Scheme {
	case "http", "https", "ssh", "git+ssh", "ssh+git":
	default:
		a.problem = fmt.Sprintf("repositories are not read over %s: use a folder, or a URL of https, http, ssh or file", parsed.Scheme)
	}
	if parsed.User != nil {
		a.password, _ = parsed.User.Password()
		if a.ssh {
			// The user is part of where an SSH repository is, and no secret.
			parsed.User = url.User(parsed.User.Username())
		} else {
			a.user = parsed.User.Username()
			parsed.User = nil
		}
	}
	parsed.RawQuery, parsed.Fragment = "", ""
	a.remote, a.display = parsed.String(), parsed.String()
	return a
}
