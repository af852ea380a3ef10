package git

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"

	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/skeema/knownhosts"

	"github.com/boifi/hfi/internal/datadir"
)

// maxSkipped bounds the malformed lines of the known hosts: a file with more has another format.
const maxSkipped = 100

// knownHosts are the known hosts as last read.
type knownHosts struct {
	mu   sync.Mutex
	text []byte
	db   *knownhosts.HostKeyDB
}

// malformedLine finds the number of the line in an error of the parser.
var malformedLine = regexp.MustCompile(`^knownhosts: .*?:([0-9]+): `)

// knownHostsNow returns the known hosts as they are in the file now. As in
// OpenSSH, a line that cannot be read is skipped: with an error, one malformed
// line would disable all other hosts.
func (s *Source) knownHostsNow() (*knownhosts.HostKeyDB, error) {
	text, err := os.ReadFile(s.KnownHostsFile)
	if err != nil {
		return nil, err
	}
	known := &s.hosts
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.db != nil && bytes.Equal(known.text, text) {
		return known.db, nil
	}
	lines := bytes.Split(text, []byte("\n"))
	db, err := gitssh.NewKnownHostsDb(s.KnownHostsFile)
	for range maxSkipped + 1 {
		if err == nil {
			known.text, known.db = text, db
			return db, nil
		}
		found := malformedLine.FindStringSubmatch(err.Error())
		if found == nil {
			return nil, err
		}
		number, _ := strconv.Atoi(found[1])
		if number < 1 || number > len(lines) || len(lines[number-1]) == 0 {
			return nil, err
		}
		s.Logger.Warn("skipping a line of the known hosts that cannot be read", "file", s.KnownHostsFile, "line", number)
		lines[number-1] = nil
		db, err = s.parseHosts(bytes.Join(lines, []byte("\n")))
	}
	return nil, fmt.Errorf("more than %d lines cannot be read", maxSkipped)
}

// parseHosts parses known hosts. The parser reads files only.
func (s *Source) parseHosts(text []byte) (*knownhosts.HostKeyDB, error) {
	// The known hosts are read before the first clone makes the folder.
	if err := datadir.Make(s.dataDir); err != nil {
		return nil, s.cannotWrite(err)
	}
	file, err := os.CreateTemp(s.dataDir, "known-hosts-")
	if err != nil {
		return nil, s.cannotWrite(err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, s.cannotWrite(err)
	}
	return gitssh.NewKnownHostsDb(file.Name())
}
