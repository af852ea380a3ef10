package cue

import "strings"

// sample is a file and the verdict that stock cue and a Workspace must give.
type sample struct {
	name string
	// file is the file's name. Its extension is the format.
	file  string
	text  string
	valid bool
}

func (s sample) isCUE() bool { return strings.HasSuffix(s.file, ".cue") }

const (
	ok  = true
	bad = false
)

// yamlSample is a complete YAML file.
func yamlSample(valid bool, name, text string) sample {
	return sample{name: "yaml " + name, file: "p.yaml", text: text, valid: valid}
}

func jsonSample(valid bool, name, text string) sample {
	return sample{name: "json " + name, file: "p.json", text: text, valid: valid}
}

// fault is a policy in JSON with the given fault.
func fault(valid bool, text string) sample {
	return jsonSample(valid, "fault "+short(text), `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":`+text+`}]}}`)
}

// match is a policy in JSON with the given match.
func match(valid bool, text string) sample {
	return jsonSample(valid, "match "+short(text), `{"metadata":{"name":"p"},"spec":{"rules":[{"match":`+text+`,"fault":{"delay_ms":1}}]}}`)
}

// spec is a policy in JSON with the given fields in its spec, in addition to rules.
func spec(valid bool, text string) sample {
	return jsonSample(valid, "spec "+short(text), `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}],`+text+`}}`)
}

// sends is an outbound policy in JSON with the given destination.
func sends(valid bool, to string) sample {
	return jsonSample(valid, "to "+short(to), `{"metadata":{"name":"p"},"spec":{"direction":"outbound","rules":[{"match":{"to":`+to+`},"fault":{"delay_ms":1}}]}}`)
}

func policyNamed(valid bool, name string) sample {
	return jsonSample(valid, "name "+short(name), `{"metadata":{"name":"`+name+`"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`)
}

func top(valid bool, text string) sample {
	return jsonSample(valid, "top "+short(text), `{`+text+`"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`)
}

func pkg(valid bool, name, text string) sample {
	return sample{name: "cue " + name, file: "team/p.cue", text: "package team\n\n" + text, valid: valid}
}

func short(s string) string {
	if len(s) > 60 {
		return s[:60]
	}
	return s
}

func rep(s string, n int) string { return strings.Repeat(s, n) }

func list(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }

// headers returns n distinct headers of an abort.
func headers(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`"h` + rep("i", i) + `":"",`)
	}
	return strings.TrimSuffix(b.String(), ",")
}

const (
	imports   = "import \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\n"
	usersOwn  = "metadata:\n  name: frontend-delay\nspec:\n  selector:\n    service: frontend\n    namespace: demo\n  rules:\n    - fault:\n        delay_ms: 500\n        percentage: 50\n"
	minimal   = "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"
	otherName = "{metadata: {name: q}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"
)

// samples is the table of files and verdicts.
var samples = []sample{
	// Whole YAML files.
	yamlSample(ok, "the user's own policy", usersOwn),
	yamlSample(ok, "flow style", minimal),
	yamlSample(ok, "windows line ends", strings.ReplaceAll(usersOwn, "\n", "\r\n")),
	yamlSample(ok, "byte order mark", "\ufeff"+usersOwn),
	yamlSample(ok, "comments round it", "# before\n---\n"+usersOwn+"# after\n"),
	yamlSample(ok, "a stream of two", minimal+"---\n"+otherName),
	yamlSample(ok, "document end marks", minimal+"...\n"),
	yamlSample(bad, "a stream with one bad", minimal+"---\n{metadata: {name: Q}}\n"),
	yamlSample(bad, "a separator at the end", minimal+"---\n"),
	yamlSample(bad, "a null document between", minimal+"---\nnull\n---\n"+otherName),
	yamlSample(bad, "empty", ""),
	yamlSample(bad, "blank", "\n\n"),
	yamlSample(bad, "comments only", "# nothing yet\n"),
	yamlSample(bad, "null", "null\n"),
	yamlSample(bad, "a list", "- "+minimal),
	yamlSample(bad, "a scalar", "policy\n"),
	yamlSample(bad, "a number", "5\n"),
	yamlSample(bad, "tabs as indentation", "metadata:\n\tname: p\n"),
	yamlSample(bad, "unclosed flow", "{metadata: {name: p}"),
	yamlSample(bad, "unclosed quote", "metadata: {name: \"p}\n"),
	yamlSample(bad, "unknown alias", "metadata: *nowhere\n"),
	yamlSample(bad, "alias to itself", "metadata: &a\n  name: *a\n"),
	yamlSample(ok, "equal duplicate keys", "{metadata: {name: p, name: p}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "different duplicate keys", "{metadata: {name: p, name: q}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "anchor and alias", "metadata: {name: p}\nspec:\n  rules:\n  - fault: &f {delay_ms: 1}\n  - fault: *f\n"),
	yamlSample(ok, "merge key", "metadata: {name: p}\nspec:\n  rules:\n  - fault: &f {delay_ms: 1}\n  - fault: {<<: *f, percentage: 5}\n"),
	yamlSample(bad, "a name that YAML reads as a number", "{metadata: {name: 123}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "a name that YAML reads as a bool", "{metadata: {name: true}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "a name that only YAML 1.1 reads as a bool", "{metadata: {name: no}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "yes for true", "{metadata: {name: p}, spec: {dry_run: yes, rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "True for true", "{metadata: {name: p}, spec: {dry_run: True, rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "an unquoted timestamp", "{metadata: {name: p}, spec: {expires_at: 2027-01-31T12:00:00Z, rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "a date only", "{metadata: {name: p}, spec: {expires_at: 2027-01-31, rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "a hexadecimal number", "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 0x10}}]}}\n"),
	yamlSample(ok, "an octal number", "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 010}}]}}\n"),
	yamlSample(ok, "a number with underscores", "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 1_000}}]}}\n"),
	yamlSample(bad, "infinity", "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 1, percentage: .inf}}]}}\n"),
	yamlSample(bad, "not a number", "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 1, percentage: .nan}}]}}\n"),
	yamlSample(bad, "binary", "{metadata: {name: !!binary cA==}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "an unknown tag", "{metadata: {name: !mine p}, spec: {rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(bad, "null selector", "{metadata: {name: p}, spec: {selector: , rules: [{fault: {delay_ms: 1}}]}}\n"),
	yamlSample(ok, "a block of text", "metadata: {name: p}\nspec:\n  rules:\n  - fault:\n      abort:\n        status: 503\n        body: |\n          sorry,\n          come back\n"),
	yamlSample(bad, "a list as a key", "? [a]\n: b\n"),
	{name: "yml", file: "p.yml", text: usersOwn, valid: ok},
	{name: "yml bad", file: "p.yml", text: "metadata: {}\n", valid: bad},

	// Whole JSON files.
	jsonSample(ok, "with white space", "\n{\"metadata\": {\"name\": \"p\"},\n\t\"spec\": {\"rules\": [{\"fault\": {\"delay_ms\": 1}}]}}\n"),
	jsonSample(ok, "byte order mark", "\ufeff{\"metadata\":{\"name\":\"p\"},\"spec\":{\"rules\":[{\"fault\":{\"delay_ms\":1}}]}}"),
	jsonSample(bad, "empty", ""),
	jsonSample(bad, "null", "null"),
	jsonSample(bad, "an array of policies", `[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}]`),
	jsonSample(bad, "two values", `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}} {}`),
	jsonSample(bad, "a trailing comma", `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}},]}}`),
	jsonSample(bad, "a comment", "// no\n{}"),
	jsonSample(bad, "single quotes", `{'metadata':{}}`),
	jsonSample(bad, "cue in it", `{metadata: name: "p", spec: rules: [{fault: delay_ms: 1}]}`),
	jsonSample(bad, "unclosed", `{"metadata":{"name":"p"}`),
	jsonSample(ok, "equal duplicate keys", `{"metadata":{"name":"p","name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "different duplicate keys", `{"metadata":{"name":"p","name":"q"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "half a surrogate pair", `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":503,"body":"\ud800"}}}]}}`),
	jsonSample(ok, "an escaped letter", `{"metadata":{"name":"\u0070"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "no metadata", `{"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "no name", `{"metadata":{},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "no spec", `{"metadata":{"name":"p"}}`),
	jsonSample(bad, "no rules", `{"metadata":{"name":"p"},"spec":{}}`),
	jsonSample(bad, "no rule", `{"metadata":{"name":"p"},"spec":{"rules":[]}}`),
	jsonSample(bad, "null rules", `{"metadata":{"name":"p"},"spec":{"rules":null}}`),
	jsonSample(bad, "rules as a mapping", `{"metadata":{"name":"p"},"spec":{"rules":{"fault":{"delay_ms":1}}}}`),
	jsonSample(bad, "a rule without a fault", `{"metadata":{"name":"p"},"spec":{"rules":[{}]}}`),
	jsonSample(bad, "a null rule", `{"metadata":{"name":"p"},"spec":{"rules":[null]}}`),
	jsonSample(bad, "a rule with an unknown field", `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1},"when":1}]}}`),
	jsonSample(ok, "64 rules", `{"metadata":{"name":"p"},"spec":{"rules":[`+list(`{"fault":{"delay_ms":1}}`, 64)+`]}}`),
	jsonSample(bad, "65 rules", `{"metadata":{"name":"p"},"spec":{"rules":[`+list(`{"fault":{"delay_ms":1}}`, 65)+`]}}`),
	jsonSample(bad, "labels in metadata", `{"metadata":{"name":"p","labels":{}},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`),

	top(ok, `"apiVersion":"hfi/v1","kind":"Policy",`),
	top(ok, `"kind":"`+rep("k", 253)+`",`),
	top(bad, `"kind":"`+rep("k", 254)+`",`),
	top(ok, `"apiVersion":"`+rep("v", 253)+`",`),
	top(bad, `"apiVersion":"`+rep("v", 254)+`",`),
	top(bad, `"apiVersion":1,`),
	top(bad, `"kind":null,`),
	top(bad, `"status":{},`),
	top(bad, `"#Policy":{},`),
	top(bad, `"_hidden":{},`),
	top(bad, `"$schema":"x",`),

	policyNamed(ok, "a"), policyNamed(ok, "a-b"), policyNamed(ok, "0"), policyNamed(ok, rep("n", 63)), policyNamed(ok, "status-1"),
	policyNamed(bad, ""), policyNamed(bad, "A"), policyNamed(bad, "-a"), policyNamed(bad, "a-"), policyNamed(bad, "a.b"), policyNamed(bad, "a_b"), policyNamed(bad, "a/b"),
	policyNamed(bad, rep("n", 64)), policyNamed(bad, "status"), policyNamed(bad, "é"), policyNamed(bad, `a\nb`), policyNamed(bad, `a\n`),

	spec(ok, `"selector":{}`),
	spec(ok, `"selector":{"service":"frontend"}`),
	spec(ok, `"selector":{"service":"*","namespace":"*"}`),
	spec(ok, `"selector":{"service":"","namespace":""}`),
	spec(ok, `"selector":{"service":"`+rep("s", 253)+`"}`),
	spec(bad, `"selector":{"service":"`+rep("s", 254)+`"}`),
	spec(bad, `"selector":{"namespace":"`+rep("s", 254)+`"}`),
	spec(bad, `"selector":{"service":"front*"}`),
	spec(bad, `"selector":{"namespace":"de mo"}`),
	spec(bad, `"selector":{"service":5}`),
	spec(bad, `"selector":{"service":["frontend"]}`),
	spec(bad, `"selector":{"servce":"frontend"}`),
	spec(ok, `"selector":{"gateway":"ingress"}`),
	spec(ok, `"selector":{"gateway":"ingress","namespace":"istio-system"}`),
	spec(ok, `"selector":{"gateway":"*"}`),
	spec(ok, `"selector":{"gateway":"*","service":"*"}`),
	spec(ok, `"selector":{"gateway":"a","service":""}`),
	spec(bad, `"selector":{"gateway":""}`),
	spec(bad, `"selector":{"gateway":"","service":"frontend"}`),
	spec(bad, `"selector":{"gateway":"ingress","service":"frontend"}`),
	spec(ok, `"selector":{"gateway":"ingress"},"direction":"inbound"`),
	spec(bad, `"selector":{"gateway":"ingress"},"direction":"outbound"`),
	spec(bad, `"selector":{"gateway":""},"direction":"outbound"`),
	jsonSample(ok, "to by "+`gateway:ingress`, `{"metadata":{"name":"p"},"spec":{"selector":{"gateway":"ingress"},"rules":[{"match":{"to":{"service":"cart"}},"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "to by "+`gateway:`, `{"metadata":{"name":"p"},"spec":{"selector":{"gateway":""},"rules":[{"match":{"to":{"service":"cart"}},"fault":{"delay_ms":1}}]}}`),
	jsonSample(bad, "to by "+`gateway:5`, `{"metadata":{"name":"p"},"spec":{"selector":{"gateway":5},"rules":[{"match":{"to":{"service":"cart"}},"fault":{"delay_ms":1}}]}}`),
	spec(bad, `"selector":{"gateway":"*","service":"frontend"}`),
	spec(bad, `"selector":{"gateway":"in*"}`),
	spec(bad, `"selector":{"gateway":"`+rep("s", 254)+`"}`),
	spec(bad, `"selector":{"gateway":5}`),
	spec(bad, `"selector":{"gateway":5,"service":"frontend"}`),
	spec(bad, `"selector":{"gateway":null}`),
	spec(bad, `"selector":"frontend"`),
	spec(bad, `"selector":null`),
	spec(ok, `"dry_run":true`), spec(ok, `"dry_run":false`), spec(bad, `"dry_run":"true"`), spec(bad, `"dry_run":1`), spec(bad, `"dry_run":null`),
	spec(ok, `"expires_at":"2027-01-31T12:00:00Z"`),
	spec(ok, `"expires_at":"2027-01-31T12:00:00.123456789Z"`),
	spec(ok, `"expires_at":"2027-01-31T12:00:00+23:59"`),
	spec(bad, `"expires_at":"2000-01-01T00:00:00+14:00"`),
	spec(bad, `"expires_at":"2999-12-31T23:59:59-12:00"`),
	spec(ok, `"expires_at":"2000-01-01T00:00:00-14:00"`),
	spec(ok, `"expires_at":"2999-12-31T23:59:59+12:00"`),
	spec(bad, `"expires_at":"2027-02-30T12:00:00Z"`),
	spec(bad, `"expires_at":"2027-01-31T12:00:00"`),
	spec(bad, `"expires_at":"2027-01-31T12:00:00+24:00"`),
	spec(bad, `"expires_at":"2027-01-31T12:00:00.1234567890Z"`),
	spec(bad, `"expires_at":"2027-01-31T12:00:00,5Z"`),
	spec(bad, `"expires_at":"2027-01-31T1:00:00Z"`),
	spec(bad, `"expires_at":"1999-12-31T12:00:00Z"`),
	spec(bad, `"expires_at":"9999-12-31T23:59:59-12:00"`),
	spec(bad, `"expires_at":"tomorrow"`),
	spec(bad, `"expires_at":1801396800`),
	spec(bad, `"unknown":1`),
	spec(bad, `"DRY_RUN":true`),

	match(ok, `{}`), match(bad, `null`), match(bad, `[]`), match(bad, `{"method":"GET"}`),
	match(ok, `{"methods":["GET","POST","M-SEARCH"]}`),
	match(ok, `{"methods":["`+rep("M", 32)+`"]}`),
	match(bad, `{"methods":["`+rep("M", 33)+`"]}`),
	match(ok, `{"methods":[`+list(`"GET"`, 32)+`]}`),
	match(bad, `{"methods":[`+list(`"GET"`, 33)+`]}`),
	match(bad, `{"methods":[]}`), match(bad, `{"methods":"GET"}`), match(bad, `{"methods":["get"]}`), match(bad, `{"methods":[""]}`),
	match(bad, `{"methods":["GE T"]}`), match(bad, `{"methods":[1]}`),
	match(ok, `{"path":{"exact":"/a"}}`), match(ok, `{"path":{"prefix":"/a"}}`), match(ok, `{"path":{"regex":"/a.*|/b"}}`),
	match(ok, `{"path":{"exact":""}}`),
	match(ok, `{"path":{"exact":"`+rep("x", 1024)+`"}}`),
	match(bad, `{"path":{"exact":"`+rep("x", 1025)+`"}}`),
	match(bad, `{"path":{"prefix":"`+rep("x", 1025)+`"}}`),
	match(ok, `{"path":{"regex":"`+rep("x", 512)+`"}}`),
	match(bad, `{"path":{"regex":"`+rep("x", 513)+`"}}`),
	match(bad, `{"path":{}}`), match(bad, `{"path":"/a"}`), match(bad, `{"path":{"suffix":"/a"}}`), match(bad, `{"path":{"exact":1}}`),
	match(bad, `{"path":{"prefix":1}}`), match(bad, `{"path":{"regex":1}}`),
	match(bad, `{"path":{"exact":"/a","prefix":"/a"}}`), match(bad, `{"path":{"exact":"/a","regex":"/a"}}`),
	match(bad, `{"path":{"regex":"("}}`), match(bad, `{"path":{"regex":"(?=a)"}}`), match(bad, `{"path":{"regex":"a{1001}"}}`),
	match(bad, `{"path":{"regex":"\\1"}}`),
	spec(ok, `"direction":"inbound"`), spec(ok, `"direction":"outbound"`), spec(bad, `"direction":"both"`), spec(bad, `"direction":""`),
	spec(bad, `"direction":1`), spec(bad, `"direction":null`),
	sends(ok, `{"service":"cart"}`), sends(ok, `{"namespace":"demo"}`), sends(ok, `{"service":"cart","namespace":"demo"}`), sends(ok, `{"host":"api.example.com"}`),
	sends(bad, `{}`), sends(bad, `null`), sends(bad, `"cart"`), sends(bad, `{"service":"cart","host":"a"}`), sends(bad, `{"namespace":"demo","host":"a"}`),
	sends(bad, `{"port":80}`), sends(bad, `{"service":"cart","port":80}`),
	sends(bad, `{"service":"*"}`), sends(bad, `{"service":""}`), sends(bad, `{"service":"cart.demo"}`), sends(bad, `{"namespace":"de mo"}`), sends(bad, `{"service":1}`), sends(bad, `{"namespace":1}`),
	sends(ok, `{"service":"`+rep("s", 253)+`"}`), sends(bad, `{"service":"`+rep("s", 254)+`"}`),
	sends(ok, `{"host":"`+rep("h", 253)+`"}`), sends(bad, `{"host":"`+rep("h", 254)+`"}`),
	sends(ok, `{"host":"a_b.c-d.e1"}`), sends(bad, `{"host":"https://api.example.com/x"}`), sends(bad, `{"host":"api.example.com:443"}`), sends(bad, `{"host":"*.example.com"}`),
	sends(bad, `{"host":"API.example.com"}`), sends(bad, `{"host":"api..example.com"}`), sends(bad, `{"host":"api.example.com."}`), sends(bad, `{"host":1}`), sends(bad, `{"host":""}`),
	match(bad, `{"to":{"service":"cart"}}`),
	jsonSample(bad, "a destination of an inbound policy", `{"metadata":{"name":"p"},"spec":{"direction":"inbound","rules":[{"fault":{"delay_ms":1}},{"match":{"to":{"host":"a"}},"fault":{"delay_ms":1}}]}}`),
	jsonSample(ok, "other matches of an inbound policy", `{"metadata":{"name":"p"},"spec":{"direction":"inbound","rules":[{"match":{"methods":["GET"]},"fault":{"delay_ms":1}}]}}`),
	match(ok, `{"headers":[]}`),
	match(ok, `{"headers":[{"name":"X-User","exact":"me"}]}`),
	match(ok, `{"headers":[{"name":"x","prefix":"m"},{"name":"x","regex":"m.*"},{"name":"y","present":false}]}`),
	match(bad, `{"headers":[{"name":"x"}]}`), match(bad, `{"headers":[{"exact":"x"}]}`), match(bad, `{"headers":[{}]}`),
	match(bad, `{"headers":[{"name":"x","exact":"a","present":true}]}`),
	match(bad, `{"headers":[{"exact":"a","present":true}]}`),
	match(bad, `{"headers":[{"name":"x","foo":"a"}]}`),
	match(bad, `{"headers":[{"name":"x","present":"yes"}]}`),
	match(bad, `{"headers":[{"name":"x","exact":1}]}`), match(bad, `{"headers":[{"name":"x","prefix":1}]}`), match(bad, `{"headers":[{"name":"x","regex":"("}]}`),
	match(bad, `{"headers":[{"name":"x y","present":true}]}`), match(bad, `{"headers":[{"name":":path","present":true}]}`), match(bad, `{"headers":[{"name":"","present":true}]}`),
	match(ok, `{"headers":[{"name":"`+rep("x", 128)+`","present":true}]}`),
	match(bad, `{"headers":[{"name":"`+rep("x", 129)+`","present":true}]}`),
	match(ok, `{"headers":[`+list(`{"name":"x","present":true}`, 32)+`]}`),
	match(bad, `{"headers":[`+list(`{"name":"x","present":true}`, 33)+`]}`),
	match(bad, `{"headers":{"name":"x","present":true}}`),

	fault(ok, `{"delay_ms":1}`), fault(ok, `{"delay_ms":3600000}`), fault(bad, `{"delay_ms":3600001}`), fault(bad, `{"delay_ms":0}`), fault(bad, `{"delay_ms":-1}`),
	fault(bad, `{"delay_ms":5.0}`), fault(bad, `{"delay_ms":1e2}`), fault(bad, `{"delay_ms":"5s"}`), fault(bad, `{"delay_ms":"5"}`), fault(bad, `{"delay_ms":null}`),
	fault(bad, `{"delay_ms":99999999999999999999}`),
	fault(bad, `{}`), fault(bad, `{"percentage":50}`), fault(bad, `{"delay":5}`), fault(bad, `{"delay_ms":5,"delay":5}`), fault(bad, `"delay"`), fault(bad, `null`),
	fault(ok, `{"percentage":0,"delay_ms":1}`), fault(ok, `{"percentage":100,"delay_ms":1}`), fault(ok, `{"percentage":0.0001,"delay_ms":1}`), fault(ok, `{"percentage":99.9999,"delay_ms":1}`),
	fault(ok, `{"percentage":5.0,"delay_ms":1}`), fault(ok, `{"percentage":1e1,"delay_ms":1}`), fault(ok, `{"percentage":33.3333,"delay_ms":1}`),
	fault(bad, `{"percentage":100.0001,"delay_ms":1}`), fault(bad, `{"percentage":-0.0001,"delay_ms":1}`), fault(bad, `{"percentage":0.00001,"delay_ms":1}`), fault(bad, `{"percentage":150,"delay_ms":1}`),
	fault(bad, `{"percentage":33.33333,"delay_ms":1}`), fault(bad, `{"percentage":"50","delay_ms":1}`), fault(bad, `{"percentage":"50%","delay_ms":1}`), fault(bad, `{"percentage":null,"delay_ms":1}`), fault(bad, `{"percentage":true,"delay_ms":1}`),
	fault(ok, `{"abort":{"status":200}}`), fault(ok, `{"abort":{"status":599}}`), fault(bad, `{"abort":{"status":199}}`), fault(bad, `{"abort":{"status":600}}`), fault(bad, `{"abort":{"status":503.0}}`), fault(bad, `{"abort":{"status":"503"}}`),
	fault(ok, `{"abort":{"grpc_status":0}}`), fault(ok, `{"abort":{"grpc_status":16}}`), fault(bad, `{"abort":{"grpc_status":-1}}`), fault(bad, `{"abort":{"grpc_status":17}}`), fault(bad, `{"abort":{"grpc_status":14.0}}`), fault(bad, `{"abort":{"grpc_status":"UNAVAILABLE"}}`),
	fault(bad, `{"abort":{}}`), fault(bad, `{"abort":{"status":503,"grpc_status":14}}`), fault(bad, `{"abort":{"body":"x"}}`), fault(bad, `{"abort":503}`), fault(bad, `{"abort":null}`), fault(bad, `{"abort":{"status":503,"code":1}}`),
	fault(ok, `{"delay_ms":1,"abort":{"status":503}}`), fault(bad, `{"delay_ms":1,"abort":{}}`),
	fault(ok, `{"abort":{"status":503,"body":"`+rep("é", 4096)+`"}}`), fault(bad, `{"abort":{"status":503,"body":"`+rep("é", 4097)+`"}}`), fault(bad, `{"abort":{"status":503,"body":{"error":1}}}`),
	fault(ok, `{"abort":{"status":503,"headers":{"Retry-After":"5","x_y.z":""}}}`), fault(ok, `{"abort":{"status":503,"headers":{}}}`),
	fault(bad, `{"abort":{"status":503,"headers":{"a b":"x"}}}`), fault(bad, `{"abort":{"status":503,"headers":{":status":"200"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"":"x"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"é":"x"}}}`),
	fault(bad, `{"abort":{"status":503,"headers":{"a":5}}}`), fault(bad, `{"abort":{"status":503,"headers":{"a":"x\ny"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"a":"x\u0000"}}}`), fault(ok, `{"abort":{"status":503,"headers":{"a":"x\ty é"}}}`),
	fault(bad, `{"abort":{"status":503,"headers":{"X-A":"1","x-a":"1"}}}`), fault(bad, `{"abort":{"status":503,"headers":["a"]}}`), fault(bad, `{"abort":{"status":503,"headers":null}}`),
	fault(bad, `{"abort":{"status":503,"headers":{"te":"trailers"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"Keep-Alive":"timeout=5"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"CONNECTION":"close"}}}`),
	fault(bad, `{"abort":{"status":503,"headers":{"proxy-connection":"close"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"transfer-encoding":"chunked"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"upgrade":"h2c"}}}`),
	fault(ok, `{"abort":{"status":503,"headers":{"content-length":"5","x-te":"1","trailer":"x","upgrade-insecure-requests":"1"}}}`), match(ok, `{"headers":[{"name":"te","exact":"trailers"}]}`),
	pkg(bad, "a header of the connection", imports+`policies: p: spec: rules: [{fault: abort: {status: 503, headers: te: "trailers"}}]`+"\n"),
	fault(ok, `{"abort":{"status":503,"headers":{"`+rep("h", 128)+`":"`+rep("v", 1024)+`"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"`+rep("h", 129)+`":"v"}}}`), fault(bad, `{"abort":{"status":503,"headers":{"h":"`+rep("v", 1025)+`"}}}`),
	fault(ok, `{"abort":{"status":503,"headers":{`+headers(32)+`}}}`), fault(bad, `{"abort":{"status":503,"headers":{`+headers(33)+`}}}`),

	// CUE packages.
	pkg(ok, "one policy", imports+"policies: p: spec: rules: [{fault: delay_ms: 1}]\n"),
	pkg(ok, "no policies", "x: 1\n"),
	pkg(ok, "empty policies", imports),
	pkg(ok, "a comprehension", imports+"policies: {for i in [\"a\", \"b\"] {\"svc-\\(i)\": spec: rules: [{fault: delay_ms: 1}]}}\n"),
	pkg(ok, "a definition of its own", imports+"#Slow: {delay_ms: 5, percentage: number}\npolicies: p: spec: rules: [{fault: #Slow & {percentage: 1}}]\n"),
	pkg(ok, "defaults", imports+"#d: *5 | int\npolicies: p: spec: rules: [{fault: delay_ms: #d}]\n"),
	pkg(ok, "hidden fields beside", imports+"_n: 5\npolicies: p: spec: rules: [{fault: delay_ms: _n}]\n"),
	pkg(bad, "a tab in an import", "import \"github.com/boifi/hfi/\tschema\"\n\npolicies: schema.#Policies\n"),
	pkg(bad, "a percentage of 150", imports+"policies: p: spec: rules: [{fault: {percentage: 150, delay_ms: 1}}]\n"),
	pkg(bad, "an unknown field", imports+"policies: p: spec: rules: [{fault: {delay: 1, delay_ms: 1}}]\n"),
	pkg(bad, "not concrete", imports+"policies: p: spec: rules: [{fault: delay_ms: int}]\n"),
	pkg(bad, "no rules", imports+"policies: p: {}\n"),
	pkg(bad, "another name than its key", imports+"policies: p: {metadata: name: \"q\", spec: rules: [{fault: delay_ms: 1}]}\n"),
	pkg(bad, "a key that is not a valid name", imports+"policies: P: spec: rules: [{fault: delay_ms: 1}]\n"),
	pkg(bad, "a syntax error", imports+"policies: p: spec: rules: [{fault: delay_ms: 1}\n"),
	pkg(bad, "an unknown reference", imports+"policies: p: spec: rules: [{fault: delay_ms: nowhere}]\n"),
	pkg(bad, "an unused import", "import \"strings\"\nx: 1\n"),
	pkg(bad, "a missing import", "import \"example.com/policies/nowhere\"\nx: nowhere.x\n"),
	pkg(bad, "a conflict beside the policies", imports+"x: 1 & 2\n"),
	pkg(bad, "a cycle", "x: y + 1\ny: x + 1\nx: int\n"),
	pkg(bad, "incomplete beside the policies", "x: int\n"),
	pkg(bad, "an if with an error", imports+"if true {x: 1, x: 2}\n"),
	pkg(bad, "division by zero", "x: 1/0\n"),
}
