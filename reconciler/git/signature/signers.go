package signature

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// signer is a line of a file of allowed signers: see ALLOWED SIGNERS in ssh-keygen(1).
type signer struct {
	// principals and namespaces are lists of patterns; no namespaces are all.
	principals, namespaces string
	// authority says that key signs certificates.
	authority bool
	// validAfter and validBefore are zero if they are not given.
	validAfter, validBefore time.Time
	key                     ssh.PublicKey
}

// keyTypes are the types of keys that may sign. Keys of RSA sign with SHA-2 only.
var keyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
	ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
}

func parseSigners(name string, text []byte) ([]signer, error) {
	var signers []signer
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line := strings.TrimSpace(string(line))
		if line == "" || line[0] == '#' {
			continue
		}
		one, err := parseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		signers = append(signers, one)
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("%s has no signer: it must have the keys that are trusted", name)
	}
	return signers, nil
}

func parseSigner(line string) (signer, error) {
	var s signer
	var rest string
	if quoted, found := strings.CutPrefix(line, `"`); found {
		if s.principals, rest, found = strings.Cut(quoted, `"`); !found {
			return s, errors.New("a quote is not closed")
		}
	} else if end := strings.IndexAny(line, " \t"); end >= 0 {
		s.principals, rest = line[:end], line[end:]
	}
	if s.principals == "" || strings.TrimSpace(rest) == "" {
		return s, errors.New("a line must be PRINCIPALS [OPTIONS] KEY")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(strings.TrimSpace(rest)))
	if err != nil {
		return s, fmt.Errorf("the key cannot be read: %w", err)
	}
	if !slices.Contains(keyTypes, key.Type()) {
		return s, fmt.Errorf("keys of type %s are not supported", key.Type())
	}
	s.key = key
	seen := map[string]bool{}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return s, fmt.Errorf("option %s is given twice", name)
		}
		seen[name] = true
		if err := s.option(name, value); err != nil {
			return s, fmt.Errorf("option %s: %w", name, err)
		}
	}
	return s, nil
}

// option takes an option of a line. One that is not known is an error: it may restrict the key.
func (s *signer) option(name, value string) (err error) {
	if name == "cert-authority" {
		if value != "" {
			return errors.New("it has no value")
		}
		s.authority = true
		return nil
	}
	if !slices.Contains([]string{"namespaces", "valid-after", "valid-before"}, name) {
		return errors.New("it is not known")
	}
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return errors.New("its value must be in quotes")
	}
	if value = strings.ReplaceAll(value[1:len(value)-1], `\"`, `"`); value == "" {
		return errors.New("its value is empty")
	}
	switch name {
	case "namespaces":
		s.namespaces = value
	case "valid-after":
		s.validAfter, err = parseTime(value)
	case "valid-before":
		s.validBefore, err = parseTime(value)
	}
	return err
}

// parseTime parses a time as ssh-keygen does: without a Z, it is local.
func parseTime(text string) (time.Time, error) {
	digits, isUTC := strings.CutSuffix(text, "Z")
	zone := time.Local
	if isUTC {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if at, err := time.ParseInLocation(layout, digits, zone); err == nil {
				return at, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time of the form YYYYMMDD[HHMM[SS]][Z]", text)
}

// matchList reports whether a text matches a comma-separated list of patterns of
// OpenSSH, which has precedence for those that begin with an exclamation mark.
func matchList(text, list string) bool {
	matched := false
	for pattern := range strings.SplitSeq(list, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if !matchPattern(text, pattern) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

// matchPattern matches a pattern in which * stands for any characters and ? for one.
func matchPattern(text, pattern string) bool {
	// star is the last * in the pattern, after which mark is the next place in the text to try.
	star, mark, at := -1, 0, 0
	for i := 0; i < len(text); {
		switch {
		case at < len(pattern) && pattern[at] == '*':
			star, mark = at, i
			at++
		case at < len(pattern) && (pattern[at] == '?' || pattern[at] == text[i]):
			at++
			i++
		case star >= 0:
			mark++
			at, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[at:], "*") == ""
}
