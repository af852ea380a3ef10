package envoytest

import "encoding/binary"

// EmptyModule returns a proxy-wasm filter, assembled by hand, that does nothing: each exported
// function returns at once. Its cost is the minimum of any Wasm filter: Envoy creates and
// deletes its context, and calls it for every request. Benchmarks compare with it.
//
// It exports proxy_on_context_create, proxy_on_request_headers and proxy_on_delete, which a
// filter needs to keep data about a request. More callbacks can be added by name:
// proxy_on_request_body, proxy_on_response_headers, proxy_on_response_body, proxy_on_done and
// proxy_on_log.
//
// The source of the names and signatures is version 0.2.0 of
// https://github.com/proxy-wasm/spec; of the encoding, the WebAssembly
// specification, chapter 5.
func EmptyModule(more ...string) []byte {
	// Section 1: the types, by number.
	types := [][2]int{{0, 0}, {1, 0}, {1, 1}, {2, 0}, {2, 1}, {3, 1}} // parameters, results; all i32
	typeOf := map[[2]int]byte{}
	var typeSection [][]byte
	for i, signature := range types {
		typeOf[signature] = byte(i)
		typeSection = append(typeSection, concat([]byte{0x60}, i32s(signature[0]), i32s(signature[1])))
	}

	// Sections 3, 7 and 10: the functions' types, names and bodies.
	functions := []function{
		{"proxy_abi_version_0_2_0", 0, 0, 0},
		// Envoy writes data at this address. The module does not read it, so a constant is enough.
		{"proxy_on_memory_allocate", 1, 1, 1024},
		{"proxy_on_vm_start", 2, 1, 1},  // true: it may go on
		{"proxy_on_configure", 2, 1, 1}, // true
		{"proxy_on_context_create", 2, 0, 0},
		{"proxy_on_request_headers", 3, 1, 0}, // ActionContinue
		{"proxy_on_delete", 1, 0, 0},
	}
	for _, name := range more {
		f, ok := optional[name]
		if !ok {
			panic("an empty module cannot export " + name)
		}
		functions = append(functions, f)
	}
	var functionSection, exportSection, codeSection [][]byte
	for i, f := range functions {
		functionSection = append(functionSection, []byte{typeOf[[2]int{f.parameters, f.results}]})
		exportSection = append(exportSection, concat(text(f.name), []byte{0x00}, number(i)))
		body := []byte{0x00} // no locals
		if f.results == 1 {
			body = concat(body, []byte{0x41}, signed(f.answer)) // i32.const
		}
		body = append(body, 0x0b) // end
		codeSection = append(codeSection, concat(number(len(body)), body))
	}
	exportSection = append(exportSection, concat(text("memory"), []byte{0x02, 0x00}))

	return concat(
		[]byte("\x00asm\x01\x00\x00\x00"),
		section(1, typeSection),
		section(3, functionSection),
		section(5, [][]byte{{0x00, 0x01}}), // one memory of at least one page (64 KiB)
		section(7, exportSection),
		section(10, codeSection),
	)
}

// function is an exported function of i32 parameters and results that returns a constant.
type function struct {
	name                string
	parameters, results int
	answer              int
}

// optional has the other callbacks of a stream, by name. Each returns "continue".
var optional = map[string]function{
	"proxy_on_request_body":     {"proxy_on_request_body", 3, 1, 0},
	"proxy_on_response_headers": {"proxy_on_response_headers", 3, 1, 0},
	"proxy_on_response_body":    {"proxy_on_response_body", 3, 1, 0},
	"proxy_on_done":             {"proxy_on_done", 1, 1, 1},
	"proxy_on_log":              {"proxy_on_log", 1, 0, 0},
}

// section encodes a section of a module: its ID, its size and a vector.
func section(id byte, entries [][]byte) []byte {
	content := concat(append([][]byte{number(len(entries))}, entries...)...)
	return concat([]byte{id}, number(len(content)), content)
}

// i32s encodes a vector of the type i32.
func i32s(count int) []byte {
	types := number(count)
	for range count {
		types = append(types, 0x7f)
	}
	return types
}

// text encodes a name: its length and its bytes.
func text(s string) []byte { return concat(number(len(s)), []byte(s)) }

// number encodes an unsigned integer in LEB128.
func number(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

// signed encodes a signed integer in LEB128. n must be 0 or more.
func signed(n int) []byte {
	encoded := number(n)
	// The highest of seven bits is the sign, so one more byte may be needed.
	if last := len(encoded) - 1; encoded[last]&0x40 != 0 {
		encoded[last] |= 0x80
		encoded = append(encoded, 0x00)
	}
	return encoded
}

func concat(parts ...[]byte) []byte {
	var whole []byte
	for _, part := range parts {
		whole = append(whole, part...)
	}
	return whole
}
