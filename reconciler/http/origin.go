package http

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// AnyHost in Server.Hosts allows every name.
const AnyHost = "*"

// checkOrigin rejects what a foreign web page makes a browser on this machine
// send: a cross-site POST, and a request with the host name of a page whose DNS
// name resolves to the loopback (DNS rebinding). A trigger that requires a
// secret, which such a page does not have, may use any host name: a tunnel or
// proxy for webhooks passes on its own.
func (s *Server) checkOrigin(r *http.Request, route route) error {
	if s.crossOrigin.Check(r) != nil {
		return &httpError{
			status: http.StatusForbidden, code: "cross_origin",
			message: "cross-site requests are not allowed",
		}
	}
	authenticated := route.post && s.WebhookSecret != nil
	if !s.onLoopback.Load() || authenticated || s.isOwn(r.Host) {
		return nil
	}
	s.foreignHost.Do(func() {
		s.Logger.Warn("rejecting requests with an unknown host name: if it is yours, add it to --allowed-hosts", "host", fmt.Sprintf("%.120q", r.Host))
	})
	return &httpError{
		status: http.StatusForbidden, code: "foreign_host",
		message: fmt.Sprintf("hfid listens on the loopback and is not known as %.120q: if that name is yours, add it to --allowed-hosts", r.Host),
	}
}

// isOwn reports whether a Host header names this machine, or something that
// nobody can register: an address, a name without dots, or one in a
// domain that is reserved for machines, local networks and clusters.
func (s *Server) isOwn(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	if !strings.Contains(host, ".") {
		return true
	}
	for _, domain := range []string{".localhost", ".local", ".localdomain", ".internal", ".svc"} {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	if machine, err := os.Hostname(); err == nil && strings.EqualFold(host, machine) {
		return true
	}
	return slices.ContainsFunc(s.Hosts, func(own string) bool { return own == AnyHost || strings.EqualFold(own, host) })
}

// isLoopback reports whether only this machine reaches the address.
func isLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
