// Package group is what the VMs of one Envoy write down for each other in its shared
// data, so that one of them asks the daemon for all.
//
// Whoever has the same vm_id can write to it, and a VM can stop at any moment. So
// reading is bounded and checks everything, and each VM judges by itself which of the
// others still live: see Watch.
package group

import "errors"

const (
	// IDSize is the length of a VM's ID.
	IDSize = 16
	// MaxMembers bounds the members of a group: the leader, and as many others as a
	// request can name. The rest ask by themselves.
	MaxMembers = 257
	// MaxText bounds an ETag and a revision, in bytes.
	MaxText = 253
	// maxSize bounds an encoded Record.
	maxSize = 4 + 12 + 2*(MaxText+1) + IDSize + 2 + MaxMembers*(IDSize+9+MaxText+1)
)

// version begins an encoded Record.
const version = "hfg1"

// Record is the state of a group.
type Record struct {
	// Leader is the ID of the VM that asks the daemon, or empty.
	Leader string
	// Confirmations counts the daemon's confirmations of the policies with ETag Tag,
	// of Revision. ConfirmedAt is the time of the last one, in Unix milliseconds. It is
	// for VMs that join: the clock may jump.
	Confirmations uint32
	ConfirmedAt   int64
	Tag, Revision string
	Members       []Member
}

// Member is a VM of a group.
type Member struct {
	ID string
	// Queue is the host's ID of the VM's queue.
	Queue uint32
	// Beat changes every few seconds while the VM lives.
	Beat uint32
	// Left reports that the VM has stopped.
	Left bool
	// Tag is the ETag of the policies that the VM has in force, or empty.
	Tag string
}

// Member returns the member with an ID, or nil. It is valid until the next Join.
func (r *Record) Member(id string) *Member {
	for i := range r.Members {
		if r.Members[i].ID == id {
			return &r.Members[i]
		}
	}
	return nil
}

// Join returns the member with an ID, which it adds if there is none. It returns nil
// if there is no room for it.
func (r *Record) Join(id string) *Member {
	if m := r.Member(id); m != nil {
		return m
	}
	if len(r.Members) >= MaxMembers {
		return nil
	}
	r.Members = append(r.Members, Member{ID: id})
	return &r.Members[len(r.Members)-1]
}

// Remove removes the members for which is returns true.
func (r *Record) Remove(is func(*Member) bool) {
	rest := r.Members[:0]
	for i := range r.Members {
		if !is(&r.Members[i]) {
			rest = append(rest, r.Members[i])
		}
	}
	r.Members = rest
}

// Encode encodes a record. Texts that are too long are left out.
func (r *Record) Encode() []byte {
	to := append(make([]byte, 0, 128+len(r.Members)*80), version...)
	to = appendUint32(to, r.Confirmations)
	to = appendUint32(to, uint32(r.ConfirmedAt>>32))
	to = appendUint32(to, uint32(r.ConfirmedAt))
	to = appendText(to, r.Tag)
	to = appendText(to, r.Revision)
	to = appendText(to, r.Leader)
	to = append(to, byte(len(r.Members)>>8), byte(len(r.Members)))
	for _, m := range r.Members {
		to = append(to, m.ID...)
		to = appendUint32(to, m.Queue)
		to = appendUint32(to, m.Beat)
		left := byte(0)
		if m.Left {
			left = 1
		}
		to = append(to, left)
		to = appendText(to, m.Tag)
	}
	return to
}

// The functions below are not inlined, which would make the module larger.

//go:noinline
func appendUint32(to []byte, n uint32) []byte {
	return append(to, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

//go:noinline
func appendText(to []byte, text string) []byte {
	if len(text) > MaxText {
		text = ""
	}
	return append(append(to, byte(len(text))), text...)
}

var errInvalid = errors.New("the record of the VMs in the shared data is invalid")

// Read decodes a record.
func Read(data []byte) (r Record, err error) {
	if len(data) > maxSize || len(data) < len(version) || string(data[:len(version)]) != version {
		return r, errInvalid
	}
	d := decoder{rest: string(data[len(version):])}
	r.Confirmations = d.uint32()
	r.ConfirmedAt = int64(d.uint32()) << 32
	r.ConfirmedAt |= int64(d.uint32())
	r.Tag, r.Revision, r.Leader = d.text(), d.text(), d.text()
	n := int(d.byte())<<8 | int(d.byte())
	if d.bad || n > MaxMembers || r.Leader != "" && !isID(r.Leader) {
		return Record{}, errInvalid
	}
	r.Members = make([]Member, 0, n)
	for range n {
		m := Member{ID: d.take(IDSize), Queue: d.uint32(), Beat: d.uint32(), Left: d.byte() == 1, Tag: d.text()}
		if d.bad || !isID(m.ID) || r.Member(m.ID) != nil {
			return Record{}, errInvalid
		}
		r.Members = append(r.Members, m)
	}
	if len(d.rest) > 0 {
		return Record{}, errInvalid
	}
	return r, nil
}

// isID reports whether a text is a VM's ID, which is in lower-case hex.
func isID(text string) bool {
	for _, b := range []byte(text) {
		if !('0' <= b && b <= '9' || 'a' <= b && b <= 'f') {
			return false
		}
	}
	return len(text) == IDSize
}

// decoder takes values from the start of a text. After the first that is not there,
// bad is true and all others are zero.
type decoder struct {
	rest string
	bad  bool
}

//go:noinline
func (d *decoder) take(n int) string {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return ""
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

//go:noinline
func (d *decoder) byte() byte {
	if taken := d.take(1); taken != "" {
		return taken[0]
	}
	return 0
}

//go:noinline
func (d *decoder) uint32() (n uint32) {
	for range 4 {
		n = n<<8 | uint32(d.byte())
	}
	return n
}

// text takes a text. It is one that a header can have.
func (d *decoder) text() string {
	text := d.take(int(d.byte()))
	for _, b := range []byte(text) {
		if b < ' ' || b >= 0x7f {
			d.bad = true
			return ""
		}
	}
	return text
}
