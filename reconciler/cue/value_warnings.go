package cue

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"cuelang.org/go/cue/ast"
	"golang.org/x/net/publicsuffix"

	"github.com/boifi/hfi/schema"
)

// valueWarnings returns warnings for the values of a valid policy that probably select or
// match nothing, or other requests than its author means: at most maxFindings. The
// document that it was read from gives the places. It is nil for a policy of a package.
func valueWarnings(entry *schema.Entry, document ast.Expr) []schema.Problem {
	d := valueWarner{entry: entry, document: document}
	d.name(entry.Policy.Spec.Selector.Service, "spec", "selector", "service")
	d.name(entry.Policy.Spec.Selector.Namespace, "spec", "selector", "namespace")
	d.name(entry.Policy.Spec.Selector.Gateway, "spec", "selector", "gateway")
	for i, rule := range entry.Policy.Spec.Rules {
		if rule.Match == nil {
			continue
		}
		at := []string{"spec", "rules", strconv.Itoa(i), "match"}
		if rule.Match.Path != nil {
			d.path(rule.Match.Path, append(at, "path"))
		}
		if to := rule.Match.To; to != nil {
			d.name(to.Service, append(at, "to", "service")...)
			d.name(to.Namespace, append(at, "to", "namespace")...)
			d.host(to.Host, append(at, "to", "host"))
		}
		for j, header := range rule.Match.Headers {
			if header.Exact != nil && *header.Exact == schema.Any {
				d.warn(`exact matches the value "*" alone; to match any value, write present: true`, append(at, "headers", strconv.Itoa(j), "exact")...)
			}
		}
	}
	return d.warnings
}

type valueWarner struct {
	entry    *schema.Entry
	document ast.Expr
	warnings []schema.Problem
}

func (d *valueWarner) warn(message string, at ...string) {
	if len(d.warnings) >= maxFindings {
		return
	}
	p := schema.Problem{
		File: d.entry.Origin.File, Line: d.entry.Origin.Line, Column: 1, Field: fieldPath(at).String(), Message: message,
	}
	if d.document != nil {
		if n := deepest(d.document, at); n != nil {
			p.Line, p.Column = nodePlace(n)
		}
	} else {
		p.Message = fmt.Sprintf("policy %q: %s", d.entry.Name(), message)
	}
	d.warnings = append(d.warnings, p)
}

// name warns of a name with quotes or with characters other than ASCII, which may be
// invisible. Names in Kubernetes have none.
func (d *valueWarner) name(name string, at ...string) {
	odd := func(r rune) bool { return r > unicode.MaxASCII || strings.ContainsRune("'\"`", r) }
	first := strings.IndexFunc(name, odd)
	if first < 0 {
		return
	}
	r := []rune(name[first:])[0]
	message := fmt.Sprintf("%s has the character %U %s, so it probably selects nothing", at[len(at)-1], r, strconv.QuoteRuneToASCII(r))
	rest := strings.Map(func(r rune) rune {
		if odd(r) && !unicode.IsLetter(r) {
			return -1
		}
		return r
	}, name)
	if rest != "" && !strings.ContainsFunc(rest, odd) {
		message += "; write " + rest
	}
	d.warn(message, at...)
}

// host warns of a destination that is a service of the cluster, as far as its domain shows, or
// to which applications rarely send plain HTTP.
func (d *valueWarner) host(host string, at []string) {
	parts := strings.Split(host, ".")
	_, public := publicsuffix.PublicSuffix(host)
	switch {
	case host == "":
	case len(parts) == 1:
		d.warn(fmt.Sprintf("in Istio, for a service of the cluster, write service: %s and its namespace", host), at...)
	case !public && (len(parts) == 2 || parts[2] == "svc"):
		d.warn(fmt.Sprintf("in Istio, for a service of the cluster, write service: %s and namespace: %s", parts[0], parts[1]), at...)
	default:
		d.warn("only plain HTTP is faulted: what the application itself encrypts (https://) is opaque to the sidecar, unless the mesh originates the TLS", at...)
	}
}

// path warns of a comparison that no path matches, or few.
func (d *valueWarner) path(match *schema.StringMatch, at []string) {
	for _, c := range []struct {
		how  string
		text *string
	}{{"exact", match.Exact}, {"prefix", match.Prefix}} {
		if c.text == nil || *c.text == "" {
			continue
		}
		message := ""
		text := *c.text
		before := strings.TrimSuffix(strings.TrimRight(text, "*"), ".")
		switch {
		case before == "" && strings.Contains(text, "*"):
			message = fmt.Sprintf("* is not a wildcard in %s; omit path to match any", c.how)
		case strings.Contains(before, "*"):
			message = fmt.Sprintf("* is not a wildcard in %s; write a regex", c.how)
		case strings.HasSuffix(text, "*"):
			message = fmt.Sprintf("* is not a wildcard in %s; write prefix: %s", c.how, quote(before))
		case strings.Contains(text, "?"):
			message = fmt.Sprintf("no path matches %s: it is compared without the query string, which begins with ?", quote(text))
		case text[0] != '/':
			message = fmt.Sprintf("no path matches %s: a path begins with /", quote(text))
		default:
			continue
		}
		d.warn(message, append(at, c.how)...)
	}
	if match.Regex != nil && strings.HasSuffix(*match.Regex, "/*") {
		d.warn(`/* in a regex matches slashes alone; for any path below it, write /.*`, append(at, "regex")...)
	}
}
