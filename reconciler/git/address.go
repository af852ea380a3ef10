package git

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// address is the location of a repository.
type address struct {
	// local is a folder, or empty for a remote.
	local string
	// remote is the URL without its credentials, which are in user and password.
	remote, user, password string
	// display is the folder or remote, for messages.
	display string
	ssh     bool
	// problem says why the address cannot be used, or is empty.
	problem string
}

// scpLike matches SSH addresses of the form USER@HOST:PATH.
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
		// The text may contain a password, so no message has it.
		return address{remote: "invalid:", display: "an invalid URL", problem: "the repository's URL is invalid: check --repo"}
	}
	if parsed.Scheme == "file" {
		return address{local: parsed.Path, display: parsed.Path}
	}
	a := address{ssh: strings.Contains(parsed.Scheme, "ssh")}
	switch parsed.Scheme {
	case "http", "https", "ssh", "git+ssh", "ssh+git":
	default:
		a.problem = fmt.Sprintf("%s is not supported for repositories: use a folder, or a URL of https, http, ssh or file", parsed.Scheme)
	}
	if parsed.User != nil {
		a.password, _ = parsed.User.Password()
		if a.ssh {
			// The user is part of an SSH repository's location, and no secret.
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
