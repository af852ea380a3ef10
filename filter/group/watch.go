package group

// missesUntilDead is how many times in a row a VM must find another one's beat
// unchanged to consider that one dead.
const missesUntilDead = 3

// Watch is what one VM has seen of the others. It counts its own looks and not the
// time, so that neither a jump of the clock nor an Envoy that was frozen makes all
// others look dead.
type Watch struct{ seen []sight }

type sight struct {
	id     string
	beat   uint32
	misses int
	// lives is the result of the last look, and looked whether the member was there.
	lives, looked bool
	// beats reports that the beat has changed.
	beats bool
}

// find returns what was seen of a member, or nil. (A map would make the module larger.)
func (w *Watch) find(id string) *sight {
	for i := range w.seen {
		if w.seen[i].id == id {
			return &w.seen[i]
		}
	}
	return nil
}

// Look compares the members other than self with those at the last look. It returns
// whether any has joined, left, died or revived since.
func (w *Watch) Look(r *Record, self string) (changed bool) {
	for i := range r.Members {
		m := &r.Members[i]
		if m.ID == self {
			continue
		}
		s := w.find(m.ID)
		switch {
		case s == nil:
			w.seen = append(w.seen, sight{id: m.ID, beat: m.Beat})
			s = &w.seen[len(w.seen)-1]
		case s.beat == m.Beat:
			s.misses++
		default:
			s.beat, s.misses, s.beats = m.Beat, 0, true
		}
		lives := w.Lives(m)
		changed = changed || lives != s.lives
		s.lives, s.looked = lives, true
	}
	rest := w.seen[:0]
	for _, s := range w.seen {
		if s.looked {
			s.looked = false
			rest = append(rest, s)
		}
	}
	w.seen = rest
	return changed
}

// Misses is how many looks ago a member's beat last changed.
func (w *Watch) Misses(id string) int {
	if s := w.find(id); s != nil {
		return s.misses
	}
	return 0
}

// Beats reports whether a member lives and its beat was seen to change.
func (w *Watch) Beats(id string) bool {
	s := w.find(id)
	return s != nil && s.lives && s.beats
}

// Lives reports whether a member has neither left nor died.
func (w *Watch) Lives(m *Member) bool { return !m.Left && w.Misses(m.ID) < missesUntilDead }
