package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// maxAnswers is how many times the largest answer all answers of the peers may
// have, together: whoever can write to etcd can invent peers.
const maxAnswers = 2

// maxText bounds a name or a digest in an answer, in bytes, as in a request.
const maxText = 253

// answersLimit is what is left, for all answers together: bytes, and VMs and filters.
type answersLimit struct{ bytes, entries atomic.Int64 }

var errTooManyVMs = errors.New("too many VMs")

// limitedBody reads no more than a limit of its own, and a shared one.
type limitedBody struct {
	from   io.Reader
	own    int64
	shared *atomic.Int64
	// exceeded: the shared limit was.
	exceeded bool
}

// Read implements io.Reader.
func (b *limitedBody) Read(into []byte) (int, error) {
	n, err := b.from.Read(into)
	b.own -= int64(n)
	b.exceeded = b.exceeded || b.shared.Add(-int64(n)) < 0
	if b.own < 0 || b.exceeded {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// readReport reads a report filter by filter, so that never the whole text is
// in memory. Each filter and each VM takes one of the entries that are left.
func readReport(from io.Reader, entries *atomic.Int64) (*ReplicaReport, error) {
	decoder := json.NewDecoder(from)
	report := &ReplicaReport{}
	err := inObject(decoder, func(name string) error {
		switch name {
		case "replica":
			return decoder.Decode(&report.Replica)
		case "full":
			return decoder.Decode(&report.Full)
		case "lost_ago_ns":
			return decoder.Decode(&report.LostAgo)
		case "kubernetes":
			return decoder.Decode(&report.Kubernetes)
		case "filters":
			return readFilters(decoder, report, entries)
		}
		var other json.RawMessage // of a newer release
		return decoder.Decode(&other)
	})
	return report, err
}

// inObject calls read with the name of each field of an object.
func inObject(decoder *json.Decoder, read func(name string) error) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return fmt.Errorf("it is no object: %w", cause(err))
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		if err := read(token.(string)); err != nil { // A name is a string, else Token fails.
			return err
		}
	}
	_, err := decoder.Token()
	return err
}

func readFilters(decoder *json.Decoder, report *ReplicaReport, entries *atomic.Int64) error {
	switch token, err := decoder.Token(); {
	case err == nil && token == nil:
		return nil // null
	case err != nil || token != json.Delim('['):
		return fmt.Errorf("its filters are no list: %w", cause(err))
	}
	for decoder.More() {
		var filter FilterSeen
		if err := decoder.Decode(&filter); err != nil {
			return err
		}
		if entries.Add(-int64(1+len(filter.VMs))) < 0 {
			return errTooManyVMs
		}
		if err := filter.check(); err != nil {
			return err
		}
		report.Filters = append(report.Filters, filter)
	}
	_, err := decoder.Token()
	return err
}

// check refuses what no request can have said.
func (f *FilterSeen) check() error {
	texts := []string{f.Node, f.Pod, f.Service, f.Namespace}
	for _, vm := range f.VMs {
		texts = append(texts, vm.ID, vm.Digest)
	}
	for _, text := range texts {
		if len(text) > maxText {
			return fmt.Errorf("a name in it has %d bytes", len(text))
		}
	}
	return nil
}

func cause(err error) error {
	if err == nil {
		return errors.New("something else is in its place")
	}
	return err
}

// WriteReport writes Local as JSON, a part at a time, so that never the whole
// text is in memory.
func (f *Fleet) WriteReport(to io.Writer) error {
	encoder := json.NewEncoder(to)
	name, err := json.Marshal(f.ID)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(to, `{"replica":%s,"filters":[`, name); err != nil {
		return err
	}
	first := true
	err = f.parts(func(filters []FilterSeen) error {
		for i := range filters {
			if !first {
				if _, err := io.WriteString(to, ","); err != nil {
					return err
				}
			}
			first = false
			if err := encoder.Encode(&filters[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The fields behind the filters, without the opening brace.
	rest, err := json.Marshal(f.state())
	if err != nil {
		return err
	}
	separator := ","
	if len(rest) == len("{}") {
		separator = ""
	}
	_, err = fmt.Fprintf(to, "]%s%s\n", separator, rest[1:])
	return err
}
