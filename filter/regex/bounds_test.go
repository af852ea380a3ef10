package regex

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
)

// costly are expressions that take much memory or time for their length.
var costly = []string{
	`(.?){199}`, `(a*){166}`, `(?:a|b|cd){124}`, `((((a?)?)?)?){60}`, `(?i)(?:\pL|k){10}`, `\pL{1,11}`, `(?:\PL\pN?){8}`, `[^a]{1,400}`,
	strings.Repeat(`.*`, 240), strings.Repeat(`a`, 999), `([a-z]*[a-z]*[a-z]*x){60}`, `(.*.*.*.*.*.*.*.*.*.*=)*`, `(((((((.*)*)*)*)*)*)*)*`,
	strings.Repeat(`(a|b)`, 150), `(?i)` + strings.Repeat(`k`, 500), `x{2,}y{3,5}z{0}`, `.*a.{400}`, `(?s).*(a|b).{0,480}x`, `(.*a){60}.*[ab].{16}`,
	`(([a-z]|/|é)*x?){80}[ab].{12}`, `(\b.\B.?|a\b){60}b.{9}`, `(?m)(^a*$\n?){50}.*a.{20}`, `(x+x+)+y`, `([ab]?c?){120}`, `.*[ab]([ab]?c?){120}`, manyCharacters,
}

// manyCharacters tests more different characters than an automaton could have classes in
// a byte.
var manyCharacters = func() string {
	expression := ""
	for char := rune(0x4e00); char < 0x4e00+800; char++ {
		expression += string(char)
	}
	return ".*[" + expression[:900] + "]" + expression[900:]
}()

// TestMatchCostly checks that costly expressions match what Go's regexp matches.
func TestMatchCostly(t *testing.T) {
	values := []string{"", "a", "ab", "abcd", "k", "K\u212a", "é1é", "a/é", "xxxyyyzz", "a\na\n", manyCharacters, manyCharacters[5:],
		strings.Repeat("ab ", 20), strings.Repeat("a", 421), strings.Repeat("xa", 99), strings.Repeat("b", 150), strings.Repeat("k", 500), strings.Repeat("a", 999)}
	for _, expression := range costly {
		agrees(t, expression, values...)
	}
}

// TestSizes checks the memory that expressions take, and the length of the values that
// they are run on.
func TestSizes(t *testing.T) {
	const any = math.MaxInt
	for _, test := range []struct {
		expression string
		size       int
		longest    int
	}{
		{`/api/.*`, 500, any},
		{`/api/v[0-9]+/cart`, 500, any},
		{`.*session=[0-9a-f]+.*`, 700, any},
		{`^/item/\d+(/edit)?$`, 600, any},
		{`(?i).*(mobile|android).*`, 900, any},
		{`.*;\s*user=[^;]{1,64};.*`, 1500, maxHeaders},
		{`/[A-Za-z0-9_-]{1,64}/.*`, 1500, any},
		{`[^/]{1,255}`, 2500, any},
		{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, 1000, any},
		{strings.Repeat(`/some/path/of/many|`, 25), 700, any},
		{`/\pL{1,10}/.*`, 6000, any},
		{`[a-z]{1,63}(\.[a-z]{1,63}){1,4}`, 1500, maxHeaders},
		{`.*a.{400}`, 1500, maxHeaders},
		{`(?s).*(a|b).{0,480}x`, 1500, maxHeaders},
		{`(.*a){60}.*[ab].{16}`, 1500, maxHeaders},
		{`(([a-z]|/|é)*x?){80}[ab].{12}`, 8000, 4000},
	} {
		made := loaded(t, test.expression)
		if made.Size() > test.size {
			t.Errorf("%s takes %d bytes, want up to %d", test.expression, made.Size(), test.size)
		}
		if made.MaxValue() < test.longest {
			t.Errorf("%s is run on values of up to %d bytes, want %d", test.expression, made.MaxValue(), test.longest)
		}
	}
	for _, expression := range costly {
		made, err := Compile(expression)
		if err != nil {
			t.Errorf("%.50s: %v", expression, err)
			continue
		}
		if made.Size() > maxSize || made.MaxValue() < 2000 {
			t.Errorf("%.50s takes %d bytes, and is run on values of up to %d bytes", expression, made.Size(), made.MaxValue())
		}
		if data, _ := made.AppendBinary(nil); made.Size() < len(data) {
			t.Errorf("%.50s takes %d bytes, and %d when encoded", expression, made.Size(), len(data))
		}
	}
}

// TestLongValueDoesNotMatch checks that a costly expression is run on values of up to
// MaxValue bytes only.
func TestLongValueDoesNotMatch(t *testing.T) {
	made := loaded(t, `(([a-z]|/|é)*x?){80}[ab].{12}`)
	value := strings.Repeat("a", made.MaxValue())
	if !made.Match(value) {
		t.Errorf("a value of %d bytes does not match", len(value))
	}
	if made.Match(value + "a") {
		t.Errorf("a value of %d bytes matches", len(value)+1)
	}
}

func TestRefused(t *testing.T) {
	for expression, want := range map[string]string{
		`(`:                                   "regex \"(\": error parsing regexp: missing closing ): `(`",
		`a)(b`:                                "unexpected )",
		`a\`:                                  "trailing backslash",
		`(?=a)`:                               "invalid or unsupported Perl syntax",
		`(a)\1`:                               "invalid escape sequence",
		`a{1001}`:                             "invalid repeat count",
		"\xff":                                "invalid UTF-8",
		`(.?){999}`:                           "it has 4995 steps, with repetitions multiplied out; the limit is 1000",
		strings.Repeat(`a`, 1001):             "it has 1001 steps",
		tooLarge:                              "it compiles to more than the limit of 65536 bytes",
		`(.?){999}(.?){999}(.?){999}(.?){99}`: "steps",
	} {
		if _, err := Compile(expression); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50s: %v, want %s", expression, err, want)
		}
	}
}

// tooLarge has 900 classes in 15 words, and an automaton would have a million states.
var tooLarge = func() string {
	expression := `.*a.{20}`
	for i := range rune(900) {
		expression += string(0x4e00 + i)
	}
	return expression
}()

func TestMatchAllocatesOnce(t *testing.T) {
	for _, expression := range append(expressions, costly...) {
		for _, made := range []*Regex{loaded(t, expression), sets(t, expression)} {
			value := made.Prefix() + strings.Repeat("aé\xff.", 20)
			made.Match(value)
			if n := testing.AllocsPerRun(5, func() { made.Match(value) }); n != 0 {
				t.Errorf("%.50s allocates %v times", expression, n)
			}
		}
	}
}

// encoded returns the data of a Regex without a prefix and with one range for all
// characters, before what follows the classes.
func encoded(form, classes int, numbers ...uint64) []byte {
	data := []byte{}
	for _, n := range append([]uint64{uint64(form), 0, uint64(classes), 1, 0, 0}, numbers...) {
		data = binary.AppendUvarint(data, n)
	}
	return data
}

// encodedSets returns the data of a Regex with sets of one word, before its guards. It
// matches the empty value.
func encodedSets(numbers ...uint64) []byte {
	return encoded(formSets, 1, append([]uint64{1, 1, 1, 0, 0, 0, 1}, numbers...)...)
}

// TestInvalidData checks that data is refused that would lead out of bounds, or that
// AppendBinary has not returned in full.
func TestInvalidData(t *testing.T) {
	full := uint64(math.MaxUint64)
	for name, data := range map[string][]byte{
		"nothing":                     {},
		"no states":                   encoded(formRows, 1, 0),
		"no words":                    encoded(formSets, 1, 0, 0, 0),
		"no classes":                  encoded(formRows, 0, 1, 0, 0),
		"an unknown form":             encoded(formSets+1, 1, 1, 0, 0),
		"more states than data":       encoded(formRows, 1, 1<<27, 0, 0),
		"a state that is not there":   encoded(formRows, 1, 1, 0, 1),
		"a pair's state that is not":  encoded(formRows, 1, 1, 2, 0, 0, 1),
		"a pair's class that is not":  encoded(formRows, 1, 1, 2, 0, 1, 0),
		"too many pairs":              encoded(formRows, 1, 1, 2*(maxPairs+2), 0),
		"a dense row's state":         encoded(formRows, 1, 1, 2*(maxPairs+1), 1),
		"a number beyond 64 bits":     append(encoded(formRows, 1, 1, 0), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0),
		"more words than data":        encoded(formSets, 1, 500, full),
		"a jump from beyond the set":  encodedSets(0, 1, 1, 0, 0, 0),
		"a jump from too many words":  encodedSets(0, 3, 0, 2, 0, 0, 0, 0),
		"a jump to too many words":    encodedSets(0, 3, 0, 0, 0, 2, 0, 0),
		"jumps longer than announced": encodedSets(0, 2, 0, 1, 0, 0, 1, 0),
		"unknown conditions":          encodedSets(1, allConditions+1, 0, 0),
		"a class that is not there":   {formRows, 0, 1, 1, 0, 1, 1, 0, 0},
		"no ranges":                   {formRows, 0, 1, 0, 1, 0, 0},
		"an empty range":              {formRows, 0, 1, 2, 0, 0, 0, 0, 1, 0, 0},
		"a first range from U+0001":   {formRows, 0, 1, 1, 1, 0, 1, 0, 0},
		"a range beyond Unicode":      {formRows, 0, 1, 2, 0, 0, 0x80, 0x80, 0x44, 0, 1, 0, 0},
		"a prefix longer than data":   {formRows, 200, 1, 'a'},
	} {
		if made, err := Read(data); err == nil {
			t.Errorf("%s: read as %+v", name, *made)
		}
	}
	for _, data := range [][]byte{
		encoded(formRows, 1, 1, 1, 0),
		encoded(formRows, 1, 1, 2*(maxPairs+1)+1, 0),
		encodedSets(1, allConditions, 0, 3, 0, 1, 7, 0, 1, 7),
	} {
		made, err := Read(data)
		if err != nil || !made.Match("") {
			t.Errorf("%x: %v", data, err)
		}
	}
	for _, expression := range expressions {
		for _, made := range []*Regex{loaded(t, expression), sets(t, expression)} {
			data, _ := made.AppendBinary(nil)
			if _, err := Read(append(data[:len(data):len(data)], 0)); err == nil {
				t.Errorf("%s: data after the end is not refused", expression)
			}
			for n := 0; n < len(data); n += 1 + len(data)/100 {
				if _, err := Read(data[:n]); err == nil {
					t.Errorf("%s: %d of %d bytes are not refused", expression, n, len(data))
				}
			}
		}
	}
}

// TestHostileData checks that data made to cost much is bounded by its length.
func TestHostileData(t *testing.T) {
	// As many states, with as many pairs, as fit.
	rows := encoded(formRows, maxClasses, 900)
	for range 900 {
		rows = append(rows, 2*maxPairs, 0)
		for range maxPairs {
			rows = append(rows, 100, 1)
		}
	}
	// As many jumps as fit, all of which are taken.
	words := []uint64{200}
	for range 200 * (classSets + 1) {
		words = append(words, math.MaxUint64)
	}
	words = append(words, 0, 2_000*201)
	jumps := encoded(formSets, 1, words...)
	for range 2_000 {
		jumps = append(jumps, 0, 0, 0, 200, 1)
		jumps = append(jumps, make([]byte, 200)...)
	}
	for name, data := range map[string][]byte{"rows": rows, "jumps": jumps, "shortest": encodedSets(0, 0)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		made, err := Read(data)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(10_000+20*len(data)) {
			t.Errorf("%s: reading %d bytes allocates %d", name, len(data), took)
		}
		if made.rows == nil && made.work()*made.MaxValue() > maxWork {
			t.Errorf("%s: a match may take %d on %d bytes", name, made.work(), made.MaxValue())
		}
		made.Match(strings.Repeat("a", min(made.MaxValue(), maxHeaders)))
	}
}

// BenchmarkMatch compares a match with one of Go's regexp, which takes "times" as long.
func BenchmarkMatch(b *testing.B) {
	for _, test := range []struct{ name, expression, value string }{
		{"literal", `/api/v1/users`, "/api/v1/users"},
		{"path", `/api/v[0-9]+/users/[^/]+`, "/api/v12/users/0123456789abcdef"},
		{"search", `.*session=[0-9a-f]+.*`, strings.Repeat("user=somebody; ", 10) + "session=0123; theme=dark"},
		{"fold", `(?i).*(mobile|android).*`, "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"},
		{"letters", `/\pL+`, "/" + strings.Repeat("größe", 10)},
		{"sets", `.*[ab].{250}`, strings.Repeat("a", 1000)},
		{"jumps", `(([a-z]|/|é)*x?){80}[ab].{12}`, strings.Repeat("a", 1000)},
	} {
		ours, reference := loaded(b, test.expression), whole(b, test.expression)
		var took float64
		run := func(name string, match func(string) bool) {
			before := took
			b.Run(test.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(test.value)))
				for b.Loop() {
					match(test.value)
				}
				took = float64(b.Elapsed()) / float64(b.N)
				if before > 0 {
					b.ReportMetric(before/took, "times")
				}
			})
		}
		run("go", reference.MatchString)
		run("ours", ours.Match)
	}
}

func BenchmarkCompile(b *testing.B) {
	for i, expression := range costly {
		b.Run(fmt.Sprint(i), func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(expression); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
