package etcd

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
)

// What the records are signed for.
const (
	headPurpose    statekey.Purpose = "etcd head"
	epochPurpose   statekey.Purpose = "etcd epoch"
	floorPurpose   statekey.Purpose = "etcd epoch floor"
	historyPurpose statekey.Purpose = "etcd history"
)

// maxSigned bounds the value of a signed record. hfi's have a few hundred bytes.
const maxSigned = 16 << 10

// signer signs and verifies the records under a prefix that only replicas may write.
type signer struct {
	prefix string
	keys   *statekey.Keys
}

// headFormat is the version of headRecord.
const headFormat = 2

// headRecord is the value of the head key. It is valid only for the one write
// that it was signed for: a key gets a version once in the time between its
// creation and its deletion, and is never created twice at one revision. So no
// head is valid again when it is put back later, and readers need no memory.
type headRecord struct {
	Format int `json:"format"`
	reconciler.Head
	// Epoch is the one that was in force.
	Epoch reconciler.Epoch `json:"epoch"`
	// CreateRevision and Version are those that etcd gives the key with this write.
	CreateRevision int64 `json:"create_revision"`
	Version        int64 `json:"version"`
	statekey.Signature
}

// headPlaceholder is the value of a head key that exists only so that its
// create revision is known before a head is signed.
const headPlaceholder = `{"format":2,"placeholder":true}`

// headKey is what the head key says.
type headKey struct {
	record[reconciler.Head]
	// epoch is the one in which the head was written, and signer the ID of the
	// key that signed it; of no meaning unless valid.
	epoch  reconciler.Epoch
	signer string
	// createRevision and version are etcd's of the key; 0 unless present.
	createRevision, version int64
	// placeholder says that the value is headPlaceholder; it implies that it is
	// present and not valid.
	placeholder bool
	// problem is why it is not valid; nil if it is, or is not present, or a placeholder.
	problem error
}

func (r *headRecord) signed(prefix string) []string {
	return []string{
		prefix, r.Commit, string(r.Digest), strconv.Itoa(r.Count), r.At.UTC().Format(time.RFC3339Nano),
		strconv.FormatInt(r.Epoch.Number, 10), r.Epoch.ID, strconv.FormatInt(r.CreateRevision, 10), strconv.FormatInt(r.Version, 10),
	}
}

// encodeHead is the value of a head for the key's next write, of which before
// is what the key says until then.
func (s signer) encodeHead(head reconciler.Head, epoch reconciler.Epoch, before headKey) string {
	record := headRecord{Format: headFormat, Head: head, Epoch: epoch, CreateRevision: before.createRevision, Version: before.version + 1}
	record.Signature = s.keys.Sign(headPurpose, record.signed(s.prefix)...)
	return encode(record)
}

var (
	errNoRecord  = errors.New("it is no record of hfi's")
	errPutBack   = errors.New("it was signed for an earlier write of its key, and put back")
	errOldFormat = errors.New("it is of another version of hfi")
)

func (s signer) decodeHead(kv *mvccpb.KeyValue) headKey {
	key := headKey{createRevision: kv.CreateRevision, version: kv.Version}
	key.present, key.modRevision = true, kv.ModRevision
	if string(kv.Value) == headPlaceholder {
		key.placeholder = true
		return key
	}
	var record headRecord
	switch {
	case len(kv.Value) > maxSigned || json.Unmarshal(kv.Value, &record) != nil:
		key.problem = errNoRecord
	case record.Format != headFormat:
		key.problem = errOldFormat
	case record.Digest == "" || record.Count < 0:
		key.problem = errNoRecord
	default:
		key.problem = s.keys.Verify(record.Signature, headPurpose, record.signed(s.prefix)...)
	}
	if key.problem == nil && (record.CreateRevision != kv.CreateRevision || record.Version != kv.Version) {
		key.problem = errPutBack
	}
	key.value, key.epoch, key.signer, key.valid = record.Head, record.Epoch, record.KeyID, key.problem == nil
	return key
}

// epochRecord is the value of the epoch key. One that is put back does no
// harm: an epoch only gives way to a later one.
type epochRecord struct {
	reconciler.Epoch
	statekey.Signature
}

// epochKey is what the epoch key says.
type epochKey struct {
	record[reconciler.Epoch]
	// signer is the ID of the key that signed it; of no meaning unless valid.
	signer string
	// claimed is the number in a record that does not verify, or 0.
	claimed int64
	// problem is why it is not valid; nil if it is, or is not present.
	problem error
}

func (r *epochRecord) signed(prefix string) []string {
	return []string{prefix, strconv.FormatInt(r.Number, 10), r.ID}
}

func (s signer) encodeEpoch(epoch reconciler.Epoch) string {
	record := epochRecord{Epoch: epoch}
	record.Signature = s.keys.Sign(epochPurpose, record.signed(s.prefix)...)
	return encode(record)
}

func (s signer) decodeEpoch(kv *mvccpb.KeyValue) epochKey {
	var key epochKey
	key.present, key.modRevision = true, kv.ModRevision
	var record epochRecord
	if len(kv.Value) > maxSigned || json.Unmarshal(kv.Value, &record) != nil ||
		record.Number <= 0 || record.Number > maxEpoch || !validEpochID(record.ID) {
		key.problem = errNoRecord
		return key
	}
	key.value, key.signer = record.Epoch, record.KeyID
	if key.problem = s.keys.Verify(record.Signature, epochPurpose, record.signed(s.prefix)...); key.problem != nil {
		key.claimed = record.Number
	}
	key.valid = key.problem == nil
	return key
}

// floorRecord is the value of the epoch-floor key.
type floorRecord struct {
	Number int64 `json:"number"`
	statekey.Signature
}

func (r *floorRecord) signed(prefix string) []string {
	return []string{prefix, strconv.FormatInt(r.Number, 10)}
}

func (s signer) encodeFloor(number int64) string {
	record := floorRecord{Number: number}
	record.Signature = s.keys.Sign(floorPurpose, record.signed(s.prefix)...)
	return encode(record)
}

// decodeFloor returns the number of an announcement, or 0 and why it is none.
func (s signer) decodeFloor(value []byte) (int64, error) {
	var record floorRecord
	if len(value) > maxSigned || json.Unmarshal(value, &record) != nil || record.Number <= 0 || record.Number > maxEpoch {
		return 0, errNoRecord
	}
	if err := s.keys.Verify(record.Signature, floorPurpose, record.signed(s.prefix)...); err != nil {
		return 0, err
	}
	return record.Number, nil
}

// historyRecord is the value of a key under history/.
type historyRecord struct {
	// Entry is an api.HistoryEntry. Its bytes are signed, so that a version that
	// knows fewer fields verifies it too.
	Entry json.RawMessage `json:"entry"`
	statekey.Signature
}

func (r *historyRecord) signed(prefix string, number int64) []string {
	return []string{prefix, strconv.FormatInt(number, 10), string(r.Entry)}
}

func (s signer) encodeHistory(number int64, entry *api.HistoryEntry) string {
	record := historyRecord{Entry: json.RawMessage(encode(entry))}
	record.Signature = s.keys.Sign(historyPurpose, record.signed(s.prefix, number)...)
	return encode(record)
}

// decodeHistory returns an entry, or an empty one and why it is none.
func (s signer) decodeHistory(number int64, value []byte) (api.HistoryEntry, error) {
	var record historyRecord
	var entry api.HistoryEntry
	if len(value) > maxHistoryEntry || json.Unmarshal(value, &record) != nil || json.Unmarshal(record.Entry, &entry) != nil {
		return api.HistoryEntry{}, errNoRecord
	}
	if err := s.keys.Verify(record.Signature, historyPurpose, record.signed(s.prefix, number)...); err != nil {
		return api.HistoryEntry{}, err
	}
	return entry, nil
}
