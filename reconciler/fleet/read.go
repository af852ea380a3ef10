package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// maxAnswers is how many times the largest answer all answers of the peers may
// have, together: anyone who can write to etcd can invent peers.
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

// readReport reads a report VM by VM, so that never the whole text is in
// memory. Each filter and each VM takes one of the entries that are left.
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
		return fmt.Errorf("it is not an object: %w", cause(err))
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
	return inList(decoder, "filters", func() error {
		filter, err := readFilter(decoder, entries)
		report.Filters = append(report.Filters, filter)
		return err
	})
}

// readFilter takes the entries before it reads what they are for: a VM takes
// much more memory than text.
func readFilter(decoder *json.Decoder, entries *atomic.Int64) (FilterSeen, error) {
	var filter FilterSeen
	if entries.Add(-1) < 0 {
		return filter, errTooManyVMs
	}
	err := inObject(decoder, func(name string) error {
		switch name {
		case "node":
			return decoder.Decode(&filter.Node)
		case "pod":
			return decoder.Decode(&filter.Pod)
		case "service":
			return decoder.Decode(&filter.Service)
		case "namespace":
			return decoder.Decode(&filter.Namespace)
		case "gateway":
			return decoder.Decode(&filter.Gateway)
		case "waypoint":
			return decoder.Decode(&filter.Waypoint)
		case "vms":
			return inList(decoder, "VMs", func() error {
				if entries.Add(-1) < 0 {
					return errTooManyVMs
				}
				var vm VMSeen
				err := decoder.Decode(&vm)
				filter.VMs = append(filter.VMs, vm)
				return err
			})
		}
		var other json.RawMessage // of a newer release
		return decoder.Decode(&other)
	})
	if err != nil {
		return filter, err
	}
	return filter, filter.check()
}

// inList calls read for each element of a list, which may be null.
func inList(decoder *json.Decoder, what string, read func() error) error {
	switch token, err := decoder.Token(); {
	case err == nil && token == nil:
		return nil // null
	case err != nil || token != json.Delim('['):
		return fmt.Errorf("its %s are not a list: %w", what, cause(err))
	}
	for decoder.More() {
		if err := read(); err != nil {
			return err
		}
	}
	_, err := decoder.Token()
	return err
}

// check rejects names that no request can have.
func (f *FilterSeen) check() error {
	texts := []string{f.Node, f.Pod, f.Service, f.Namespace, f.Gateway, f.Waypoint}
	for _, vm := range f.VMs {
		texts = append(texts, vm.ID, vm.Digest, vm.Envoy, vm.Problem, vm.Address.Zone())
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
		return errors.New("it has another type")
	}
	return err
}

// WriteReport writes a ReplicaReport of all that this replica knows as JSON, a
// part at a time, so that never the whole text is in memory.
func (f *Fleet) WriteReport(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetEscapeHTML(false) // It would make six bytes of one.
	name, err := json.Marshal(f.ID)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(to, `{"replica":%s,"filters":[`, name); err != nil {
		return err
	}
	first, known := true, f.known()
	for shard := range f.shards {
		for _, filter := range known(shard) {
			if !first {
				if _, err := io.WriteString(to, ","); err != nil {
					return err
				}
			}
			first = false
			if err := encoder.Encode(&filter); err != nil {
				return err
			}
		}
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
