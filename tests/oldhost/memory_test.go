package oldhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// bytes returns a copy of the module's memory.
func (h *host) bytes(address, size uint64) []byte {
	data, ok := h.memory.Read(uint32(address), uint32(size))
	if !ok {
		panic(fmt.Errorf("an argument is outside the memory: %d bytes at %d", size, address))
	}
	return bytes.Clone(data)
}

func (h *host) set32(address uint64, value uint32) {
	if !h.memory.WriteUint32Le(uint32(address), value) {
		panic(fmt.Errorf("a result is outside the memory: %d", address))
	}
}

// give writes data that the module receives, in memory that it allocates.
func (h *host) give(data []byte, pointer, size uint64) uint32 {
	var at uint32
	if len(data) > 0 {
		before := h.allowed
		h.allowed = duringAllocation
		at = h.call(0, "proxy_on_memory_allocate", uint64(len(data)))
		h.allowed = before
		if h.err != nil {
			panic(h.err)
		}
		if at == 0 || !h.memory.Write(at, data) {
			panic(errors.New("the module allocates no memory"))
		}
	}
	h.set32(pointer, at)
	h.set32(size, uint32(len(data)))
	return statusOK
}

// pairs decodes a list of headers, encode encodes one.
func pairs(data []byte) (list [][2]string) {
	if len(data) == 0 {
		return nil
	}
	n := binary.LittleEndian.Uint32(data)
	sizes, text := data[4:4+8*n], data[4+8*n:]
	for ; n > 0; n-- {
		name, value := binary.LittleEndian.Uint32(sizes), binary.LittleEndian.Uint32(sizes[4:])
		list = append(list, [2]string{string(text[:name]), string(text[name+1 : name+1+value])})
		sizes, text = sizes[8:], text[name+value+2:]
	}
	return list
}

func encode(list [][2]string) []byte {
	data := binary.LittleEndian.AppendUint32(nil, uint32(len(list)))
	for _, pair := range list {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(pair[0])))
		data = binary.LittleEndian.AppendUint32(data, uint32(len(pair[1])))
	}
	for _, pair := range list {
		data = append(append(append(append(data, pair[0]...), 0), pair[1]...), 0)
	}
	return data
}
