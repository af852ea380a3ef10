package settings

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// samples are configurations, and what looks like one.
var samples = []string{
	`{}`, ` { } `, `null`, "\t{\n\"a\"\r: 1 }", ``, ` `, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1}{`, `{"a":1}x`,
	`[]`, `[{}]`, `"a"`, `5`, `true`, `nul`, `nulll`, `x`, "\xef\xbb\xbf{}",
	`{"a":1,"b":"x","a":2}`, `{"a":1,"\u0061":2}`, `{"A":1,"a":2}`, `{"":0}`,
	`{"a":"\"\\\/\b\f\n\r\t"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\U0041"}`, "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", "{\"a\":\"\x7f\"}", `{"a":"`, `{"a":"\`, `{"a":"\"}`,
	`{"a":"\u00e9é\u20ac€"}`, `{"a":"\ud83d\ude00"}`, `{"a":"\uD83D\uDE00"}`, `{"a":"\ud83d"}`, `{"a":"\ude00"}`, `{"a":"\ud83dx"}`, `{"a":"\ud83d\n"}`, `{"a":"\ud83d\u0041"}`, `{"a":"\ud83d\ud83d\ude00"}`, `{"a":"\ud83d\u00"}`,
	"{\"a\":\"\xff\xc0\x80\xed\xa0\x80\xf0\x9f\x98\"}", "{\"\xff\":1}", "{\"a\":\xff}",
	`{"a":0}`, `{"a":-0}`, `{"a":00}`, `{"a":-}`, `{"a":+1}`, `{"a":.5}`, `{"a":5.}`, `{"a":0.5}`, `{"a":1e}`, `{"a":1e+}`, `{"a":1e5}`, `{"a":1E-5}`, `{"a":1e+05}`, `{"a":0x1}`, `{"a":1e999}`, `{"a":NaN}`, `{"a":1_0}`,
	`{"a":true,"b":false,"c":null}`, `{"a":tru}`, `{"a":True}`, `{"a":truee}`,
	`{"a":{"b":[1,{"c":"}"},[[]],{}]}}`, `{"a":[1,]}`, `{"a":[,]}`, `{"a":[1 2]}`, `{"a":{"b"}}`, `{"a":{"b":1,}}`, `{"a":[}`, `{"a":{]}`, `{"a":[1]]}`,
}

// TestAgreesWithEncodingJSON compares the package with the standard library's.
func TestAgreesWithEncodingJSON(t *testing.T) {
	for _, text := range samples {
		agree(t, text)
	}
	for _, depth := range []int{maxDepth - 2, maxDepth - 1, maxDepth, 2 * maxDepth} {
		agree(t, `{"a":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}`)
		agree(t, `{"a":`+strings.Repeat(`{"b":`, depth)+"1"+strings.Repeat("}", depth)+`}`)
		agree(t, strings.Repeat("[", depth)+strings.Repeat("]", depth))
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range samples {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { agree(t, text) })
}

func agree(t *testing.T, text string) {
	t.Helper()
	var want map[string]json.RawMessage
	wantErr := json.Unmarshal([]byte(text), &want)
	settings, err := Parse([]byte(text))
	shown := text[:min(len(text), 200)]
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%q: %v, encoding/json says %v", shown, err, wantErr)
	}
	if err != nil {
		if settings != nil {
			t.Errorf("%q: settings and an error", shown)
		}
		return
	}
	if len(settings) != len(want) {
		t.Errorf("%q: %d settings, encoding/json reads %d", shown, len(settings), len(want))
	}
	for _, s := range settings {
		if s.Value.JSON != string(want[s.Name]) {
			t.Errorf("%q: %q is %q, encoding/json reads %q", shown, s.Name, s.Value.JSON, want[s.Name])
		}
		if len(text) < 1000 {
			compare(t, shown, s.Value)
		}
	}
}

// compare compares a value's kind and text.
func compare(t *testing.T, text string, v Value) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(v.JSON))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	kinds := map[Kind]any{
		Null: nil, Bool: true, Number: json.Number(""), String: "", Array: []any{}, Object: map[string]any{},
	}
	if want := kinds[v.Kind]; reflect.TypeOf(want) != reflect.TypeOf(value) {
		t.Errorf("%q: kind %d of %s", text, v.Kind, v.JSON)
	}
	if decoded, ok := value.(string); ok && decoded != v.Text {
		t.Errorf("%q: %q, encoding/json reads %q", text, v.Text, decoded)
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		``:              "it ends too early",
		`{"a": 1`:       "it ends too early",
		`{"a": 1; }`:    "unexpected ';' at byte 8",
		"{\"a\": \x01}": "unexpected byte 1 at byte 7",
		`["a"]`:         "it begins with '['",
	} {
		if _, err := Parse([]byte(text)); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for json, want := range map[string]time.Duration{
		`"10m"`: 10 * time.Minute, `"1.5s"`: 1500 * time.Millisecond, `"1h2m3s4ms"`: time.Hour + 2*time.Minute + 3*time.Second + 4*time.Millisecond, `"-1s"`: -time.Second, `"0"`: 0,
		`600`: 10 * time.Minute, `0.25`: 250 * time.Millisecond, `-2`: -2 * time.Second, `0`: 0, `-0.0e9`: 0, `0e999999999999999999999`: 0,
		`1e2`: 100 * time.Second, `1.5E+1`: 15 * time.Second, `1500e-3`: 1500 * time.Millisecond, `0.0015e3`: 1500 * time.Millisecond,
		`0.000000001`: 1, `0.0000000019`: 1, `1e-9`: 1, `1e-10`: 0, `1e-99999999999999999999`: 0,
		`9223372036.854775807`: math.MaxInt64, `9223372036854775807e-9`: math.MaxInt64,
	} {
		if got, err := durationOf(t, json); got != want || err != nil {
			t.Errorf("%s is %d (%v), want %d", json, got, err, want)
		}
	}
	for json, want := range map[string]error{
		`"soon"`: errNoDuration, `""`: errNoDuration, `"10"`: errNoDuration, `true`: errNoDuration, `null`: errNoDuration, `[1]`: errNoDuration, `{}`: errNoDuration,
		`9223372036.854775808`: errTooLong, `1e10`: errTooLong, `-1e10`: errTooLong, `1e999999999999999999999`: errTooLong, `99999999999999999999`: errTooLong,
	} {
		if got, err := durationOf(t, json); !errors.Is(err, want) {
			t.Errorf("%s is %d (%v), want %q", json, got, err, want)
		}
	}
}

func durationOf(t *testing.T, json string) (time.Duration, error) {
	t.Helper()
	settings, err := Parse([]byte(`{"a":` + json + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return settings[0].Value.Duration()
}

// FuzzDuration compares numbers of seconds with exact fractions.
func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"0", "600", "0.5", "-1e3", "1.25e-7", "9223372036.854775807", "1e10"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := Parse([]byte(`{"a":` + text + `}`))
		if err != nil || len(settings) != 1 || settings[0].Value.Kind != Number || strings.ContainsAny(text, "\t\r\n ") || len(text) > 100 {
			return
		}
		if _, exponent, found := strings.Cut(strings.ToLower(text), "e"); found && len(strings.TrimLeft(exponent, "+-")) > 4 {
			return // big.Rat would need much memory
		}
		seconds, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("big.Rat rejects %q", text)
		}
		exact := seconds.Mul(seconds, big.NewRat(1e9, 1))
		want := new(big.Int).Quo(exact.Num(), exact.Denom())
		got, err := settings[0].Value.Duration()
		inRange := want.IsInt64() && want.Int64() != math.MinInt64
		if inRange != (err == nil) || inRange && int64(got) != want.Int64() {
			t.Errorf("%s is %d (%v), want %v", text, got, err, want)
		}
	})
}

// FuzzParseDuration compares texts with time.ParseDuration, which computes fractions with
// floating-point numbers.
func FuzzParseDuration(f *testing.F) {
	for _, seed := range []string{"0", "+0", "-0", "", "-", "10m", "1h2m3.5s", ".5s", "5.s", ".s", "1.", "1", "-1.5h", "+3us", "3µs", "3μs", "1ns1us1ms", "1m1ms", "1x", "1s ", "00s",
		"0.000000000000000000001h", "2540400h10m10.000000000s", "9223372036854775807ns", "9223372036854775808ns", "-9223372036854775808ns", "2562047h47m16.854775807s", "99999999999999999999s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, wantErr := time.ParseDuration(text)
		got, err := parseDuration(text)
		if want == math.MinInt64 {
			return // a negative duration that has no positive one
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q is %d (%v), time.ParseDuration says %d (%v)", text, got, err, want, wantErr)
		}
		if difference := (got - want).Abs(); difference > time.Duration(1+len(text)) {
			t.Errorf("%q is %d, time.ParseDuration says %d", text, got, want)
		}
	})
}
