package git

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sort"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
)

// packIndex says where a pack has its objects. It is go-git's index, whose own
// lookup notes each hash that it finds for the reverse, so that memory would grow
// with the objects read.
type packIndex struct{ *idxfile.MemoryIndex }

func readIndex(name string) (packIndex, error) {
	file, err := os.Open(name)
	if err != nil {
		return packIndex{}, err
	}
	defer file.Close()
	index := idxfile.NewMemoryIndex()
	return packIndex{index}, idxfile.NewDecoder(file).Decode(index)
}

// noNames is FanoutMapping's value for a first byte with which no name begins.
const noNames = -1

// offset returns where the pack has an object, or plumbing.ErrObjectNotFound.
func (x packIndex) offset(hash plumbing.Hash) (int64, error) {
	part := x.FanoutMapping[hash[0]]
	if part == noNames || part >= len(x.Names) || part >= len(x.Offset32) {
		return 0, plumbing.ErrObjectNotFound
	}
	names, offsets := x.Names[part], x.Offset32[part]
	name := func(i int) []byte { return names[i*len(hash):][:len(hash)] }
	count := min(len(names)/len(hash), len(offsets)/4)
	at := sort.Search(count, func(i int) bool { return bytes.Compare(name(i), hash[:]) >= 0 })
	if at == count || !bytes.Equal(name(at), hash[:]) {
		return 0, plumbing.ErrObjectNotFound
	}
	// With the first bit it is an index into the table of offsets from 2 GiB on.
	const large = 1 << 31
	offset := binary.BigEndian.Uint32(offsets[at*4:])
	if offset&large == 0 {
		return int64(offset), nil
	}
	at64 := int64(offset&^large) * 8
	if at64+8 > int64(len(x.Offset64)) {
		return 0, fmt.Errorf("%w: the offset of %s is out of range", idxfile.ErrMalformedIdxFile, hash)
	}
	return int64(binary.BigEndian.Uint64(x.Offset64[at64:])), nil
}
