package etcd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// keys names the keys under a prefix; it ends with a slash.
type keys string

func newKeys(prefix string) keys { return keys(strings.TrimRight(prefix, "/") + "/") }

func (k keys) policies() string            { return string(k) + "policies/" }
func (k keys) policy(name string) string   { return k.policies() + name }
func (k keys) origins(bucket int) string   { return fmt.Sprintf("%sorigins/%02x", string(k), bucket) }
func (k keys) head() string                { return string(k) + "head" }
func (k keys) epoch() string               { return string(k) + "epoch" }
func (k keys) epochFloor() string          { return string(k) + "epoch-floor" }
func (k keys) status() string              { return string(k) + "status" }
func (k keys) history(number int64) string { return fmt.Sprintf("%shistory/%012d", string(k), number) }
func (k keys) histories() string           { return string(k) + "history/" }
func (k keys) leader() string              { return string(k) + "leader" }
func (k keys) term() string                { return string(k) + "term" }
func (k keys) publishing() string          { return string(k) + "publishing" }
func (k keys) trigger() string             { return string(k) + "trigger" }
func (k keys) replica(id string) string    { return string(k) + "replicas/" + id }

// bucketOf reads the XX of origins/XX.
func bucketOf(text string) (int, bool) {
	number, err := strconv.ParseUint(text, 16, 8)
	return int(number), err == nil && len(text) == 2 && text == strings.ToLower(text)
}

// maxHistoryNumber is below the largest number of twelve digits, so that a
// foreign key cannot use up the history's numbers.
const maxHistoryNumber = 999_999_000_000

// historyNumber reads the NNNNNNNNNNNN of history/NNNNNNNNNNNN.
func historyNumber(text string) (int64, bool) {
	number, err := strconv.ParseInt(text, 10, 64)
	return number, err == nil && len(text) == 12 && number >= 0 && number <= maxHistoryNumber
}

// formatVersion is the version of the records other than policies.
const formatVersion = 1

// termRecord is the value of the term key: the leader's ID, and the create
// revision of its key.
type termRecord struct {
	Format int    `json:"format"`
	Leader string `json:"leader"`
	Term   int64  `json:"term"`
}

func decodeTerm(value []byte) int64 {
	var record termRecord
	if json.Unmarshal(value, &record) != nil {
		return 0
	}
	return record.Term
}

// statusRecord is the value of the status key. Term and Number are 0 in those
// of leaders that did not write them.
type statusRecord struct {
	Format int `json:"format"`
	// Term is the create revision of the leader's key.
	Term int64 `json:"term"`
	// Number is one more than that of the report before in the same term.
	Number int64 `json:"number"`
	reconciler.LeaderReport
}

func decodeStatus(value []byte) (statusRecord, bool) {
	var record statusRecord
	if len(value) > maxValue || json.Unmarshal(value, &record) != nil || record.Term < 0 || record.Number < 0 {
		return statusRecord{}, false
	}
	record.completeFailures(value)
	return record, true
}

// completeFailures fills in what the failures in the reports of earlier
// versions do not say: whether they are retryable. Those leaders said so with
// their condition Stalled.
func (r *statusRecord) completeFailures(value []byte) {
	if r.Source.Error == nil && r.SyncError == nil {
		return
	}
	type failure struct {
		Retryable *bool `json:"retryable"`
	}
	var said struct {
		Source struct {
			Error failure `json:"error"`
		} `json:"source"`
		SyncError failure `json:"sync_error"`
	}
	_ = json.Unmarshal(value, &said) // It was decoded before.
	stalled := slices.ContainsFunc(r.Conditions, func(c api.Condition) bool { return c.Type == api.Stalled && c.Status == "True" })
	if r.Source.Error != nil && said.Source.Error.Retryable == nil {
		r.Source.Error.Retryable = !stalled
	}
	if r.SyncError != nil && said.SyncError.Retryable == nil {
		r.SyncError.Retryable = !stalled
	}
}

// maxEpochID bounds an epoch's ID, which is part of every revision. The leader
// makes IDs of 8 hexadecimal digits.
const maxEpochID = 64

// validEpochID reports whether an ID has only ASCII letters, digits and
// hyphens: it goes into headers, names of files and logs.
func validEpochID(id string) bool {
	other := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
	}
	return id != "" && len(id) <= maxEpochID && !strings.ContainsFunc(id, other)
}

// maxEpoch bounds an epoch's number. After that epoch come others with the same
// number: see epochTracker.adopt.
const maxEpoch = 1 << 53

// decodePolicy reads what a key under policies/ means. What is not a policy
// of that very name means nothing.
func decodePolicy(name string, value []byte) (*schema.Entry, bool) {
	policy, err := schema.Parse(value)
	if err != nil || policy.Metadata.Name != name {
		return nil, false
	}
	return schema.NewEntry(policy, schema.Origin{}), true
}

// originRecord is a schema.Origin in JSON. A path in git may be no UTF-8;
// then its bytes are in Raw, and File is for people.
type originRecord struct {
	File   string `json:"file"`
	Raw    []byte `json:"raw,omitempty"`
	Line   int    `json:"line"`
	Commit string `json:"commit"`
}

// originsOf are the origins of one bucket of a set, by name.
func originsOf(set *schema.Set, bucket int) map[string]schema.Origin {
	origins := map[string]schema.Origin{}
	for _, entry := range set.Bucket(bucket) {
		origins[entry.Name()] = entry.Origin
	}
	return origins
}

func encodeOrigins(origins map[string]schema.Origin) string {
	records := make(map[string]originRecord, len(origins))
	for name, origin := range origins {
		record := originRecord{File: origin.File, Line: origin.Line, Commit: origin.Commit}
		if !utf8.ValidString(origin.File) {
			record.File, record.Raw = strings.ToValidUTF8(origin.File, "\uFFFD"), []byte(origin.File)
		}
		records[name] = record
	}
	return encode(records)
}

func decodeOrigins(value []byte) (map[string]schema.Origin, bool) {
	var records map[string]originRecord
	if json.Unmarshal(value, &records) != nil {
		return nil, false
	}
	origins := make(map[string]schema.Origin, len(records))
	for name, record := range records {
		origin := schema.Origin{File: record.File, Line: record.Line, Commit: record.Commit}
		if record.Raw != nil {
			origin.File = string(record.Raw)
		}
		origins[name] = origin
	}
	return origins, true
}

// encode writes a record whose type cannot fail to be written.
func encode(record any) string {
	text, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("encoding a %T: %v", record, err))
	}
	return string(text)
}
