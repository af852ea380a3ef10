package lastgood

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"time"

	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// magic is the start of every journal and identifies its format.
const magic = "hfi last good 2\n"

// A record is a length (4 bytes), a CRC-32C (4 bytes), a kind (1 byte) and a
// body. Length and CRC are little endian and cover the kind and the body.
const (
	frameSize = 8
	// maxRecord is in bytes. A policy in etcd is far smaller.
	maxRecord = 16 << 20
)

// The kinds of records.
const (
	// kindPut: an origin's fields, then a policy's canonical JSON.
	kindPut = 'P'
	// kindDelete: a policy's name.
	kindDelete = 'D'
	// kindHead: a headRecord in JSON. It commits the records before it.
	kindHead = 'H'
)

type headRecord struct {
	Head     reconciler.Head `json:"head"`
	Revision string          `json:"revision"`
	statekey.Signature
}

// purpose is what a head is signed for.
const purpose statekey.Purpose = "last good"

func (r *headRecord) signed() []string {
	return []string{r.Head.Commit, string(r.Head.Digest), strconv.Itoa(r.Head.Count), r.Head.At.UTC().Format(time.RFC3339Nano), r.Revision}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendState appends the records that change a set to a state's, and its head.
func appendState(text []byte, from *schema.Set, to *reconciler.State, keys *statekey.Keys) []byte {
	for _, change := range schema.Diff(from, to.Set) {
		if change.New == nil {
			text = appendRecord(text, kindDelete, []byte(change.Name))
			continue
		}
		text = appendRecord(text, kindPut, encodeEntry(change.New))
	}
	record := headRecord{Head: to.Head, Revision: to.Revision.String()}
	record.Signature = keys.Sign(purpose, record.signed()...)
	head, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("encoding a head: %v", err)) // Cannot happen: it has only strings, numbers and a time.
	}
	return appendRecord(text, kindHead, head)
}

func appendRecord(text []byte, kind byte, body []byte) []byte {
	start := len(text)
	text = append(text, make([]byte, frameSize)...)
	text = append(append(text, kind), body...)
	payload := text[start+frameSize:]
	binary.LittleEndian.PutUint32(text[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(text[start+4:], crc32.Checksum(payload, castagnoli))
	return text
}

// encodeEntry encodes the origin as bytes, because a path in git may have any byte.
func encodeEntry(entry *schema.Entry) []byte {
	body := appendString(nil, entry.Origin.File)
	body = binary.AppendUvarint(body, uint64(max(entry.Origin.Line, 0)))
	body = appendString(body, entry.Origin.Commit)
	return append(body, entry.Canonical...)
}

func appendString(body []byte, text string) []byte {
	return append(binary.AppendUvarint(body, uint64(len(text))), text...)
}

func decodeEntry(body []byte) (*schema.Entry, error) {
	var origin schema.Origin
	var line uint64
	var ok bool
	if origin.File, body, ok = cutString(body); !ok {
		return nil, errors.New("a policy's origin is cut off")
	}
	if line, body, ok = cutNumber(body); !ok || line > 1<<31 {
		return nil, errors.New("a policy's line is not a number")
	}
	origin.Line = int(line)
	if origin.Commit, body, ok = cutString(body); !ok {
		return nil, errors.New("a policy's commit is cut off")
	}
	policy, err := schema.Parse(body)
	if err != nil {
		return nil, err
	}
	return schema.NewEntry(policy, origin), nil
}

func cutNumber(body []byte) (uint64, []byte, bool) {
	number, n := binary.Uvarint(body)
	if n <= 0 {
		return 0, nil, false
	}
	return number, body[n:], true
}

func cutString(body []byte) (string, []byte, bool) {
	length, body, ok := cutNumber(body)
	if !ok || length > uint64(len(body)) {
		return "", nil, false
	}
	return string(body[:length]), body[length:], true
}

// replayed is the content of a journal up to its last valid head, with the
// offsets after that head (good) and after the first (base).
type replayed struct {
	state      *reconciler.State
	good, base int64
}

// replay reads a journal up to its end or its first defect. With a defect it
// returns an error and the last valid state before it, if any. A head whose
// signature does not verify is a defect only if none follows whose signature
// does: an earlier head may be signed with a key that is gone.
func replay(file io.Reader, keys *statekey.Keys) (replayed, error) {
	var forged error
	var result replayed
	reader := bufio.NewReaderSize(file, 1<<16)
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(reader, start); err != nil || string(start) != magic {
		return result, fmt.Errorf("the file is not a journal of this format")
	}
	set := schema.NewSet()
	edits := map[string]*schema.Entry{}
	for offset := int64(len(magic)); ; {
		payload, err := readRecord(reader)
		if errors.Is(err, io.EOF) {
			if forged != nil {
				return result, forged
			}
			if len(edits) > 0 || result.state == nil {
				return result, fmt.Errorf("byte %d: the journal ends before its head", offset)
			}
			return result, nil
		}
		if err != nil {
			return result, fmt.Errorf("byte %d: %w", offset, err)
		}
		next := offset + frameSize + int64(len(payload))
		kind, body := payload[0], payload[1:]
		switch kind {
		case kindPut:
			entry, err := decodeEntry(body)
			if err != nil {
				return result, fmt.Errorf("byte %d: %w", offset, err)
			}
			edits[entry.Name()] = entry
		case kindDelete:
			edits[string(body)] = nil
		case kindHead:
			set = applyEdits(set, edits)
			clear(edits)
			if result.base == 0 {
				result.base = next
			}
			state, err := verifiedState(body, set, keys)
			switch {
			case errors.Is(err, ErrForged):
				forged = fmt.Errorf("byte %d: %w", offset, err)
			case err != nil:
				return result, fmt.Errorf("byte %d: %w", offset, err)
			default:
				result.state, result.good, forged = state, next, nil
			}
		default:
			return result, fmt.Errorf("byte %d: a record has the unknown kind %q", offset, kind)
		}
		offset = next
	}
}

func applyEdits(set *schema.Set, edits map[string]*schema.Entry) *schema.Set {
	var puts []*schema.Entry
	var deletes []string
	for name, entry := range edits {
		if entry == nil {
			deletes = append(deletes, name)
		} else {
			puts = append(puts, entry)
		}
	}
	return set.With(puts, deletes)
}

// verifiedState returns the state of a head record and a set. The head must be
// signed, else the error is ErrForged, and the set must have its digest.
func verifiedState(body []byte, set *schema.Set, keys *statekey.Keys) (*reconciler.State, error) {
	var record headRecord
	if err := json.Unmarshal(body, &record); err != nil {
		return nil, fmt.Errorf("reading a head: %w", err)
	}
	if err := keys.Verify(record.Signature, purpose, record.signed()...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	revision, err := reconciler.ParseRevision(record.Revision)
	if err != nil {
		return nil, fmt.Errorf("reading a head: %w", err)
	}
	if record.Head.Digest != set.Digest() || record.Head.Count != set.Len() {
		return nil, fmt.Errorf("the set of commit %.12s has the digest %s instead of %.80s", record.Head.Commit, set.Digest(), record.Head.Digest)
	}
	return &reconciler.State{Head: record.Head, Set: set, Revision: revision}, nil
}

// readRecord returns a record's kind and body, or io.EOF at the end.
func readRecord(reader *bufio.Reader) ([]byte, error) {
	var frame [frameSize]byte
	if n, err := io.ReadFull(reader, frame[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, errors.New("a record is cut off")
	}
	length := binary.LittleEndian.Uint32(frame[:])
	if length == 0 || length > maxRecord {
		return nil, fmt.Errorf("a record has the invalid length %d", length)
	}
	// ReadAll grows the buffer as it reads, so a wrong length costs no more memory than the file's size.
	payload, err := io.ReadAll(io.LimitReader(reader, int64(length)))
	if err != nil || uint32(len(payload)) != length {
		return nil, errors.New("a record is cut off")
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(frame[4:]) {
		return nil, errors.New("a record's checksum does not match")
	}
	return payload, nil
}
