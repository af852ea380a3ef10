package group

// Program is a compiled program that one VM has got from the daemon for all. Package
// program checks the encoded policies themselves.
type Program struct {
	Tag, Revision, Commit string
	// Encoded is the body of the daemon's response.
	Encoded []byte
}

// programVersion begins an encoded Program.
const programVersion = "hfp1"

// Encode encodes a program.
func (p *Program) Encode() []byte {
	to := append(make([]byte, 0, len(programVersion)+3*(MaxText+1)+len(p.Encoded)), programVersion...)
	for _, text := range []string{p.Tag, p.Revision, p.Commit} {
		to = appendText(to, text)
	}
	return append(to, p.Encoded...)
}

// ReadProgram decodes a program, which keeps data.
func ReadProgram(data []byte) (p Program, valid bool) {
	const head = len(programVersion) + 3*(MaxText+1)
	d := decoder{rest: string(data[:min(len(data), head)])}
	if d.take(len(programVersion)) != programVersion {
		return p, false
	}
	p.Tag, p.Revision, p.Commit = d.text(), d.text(), d.text()
	p.Encoded = data[min(len(data), head)-len(d.rest):]
	return p, !d.bad
}

// Shareable reports whether all members can read a text: an ETag or a revision.
func Shareable(text string) bool {
	d := decoder{rest: string(appendText(nil, text))}
	return len(text) <= MaxText && d.text() == text && !d.bad
}
