package deploy_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	yamlv3 "go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/boifi/hfi/internal/hfidtest"
)

// valuesFile writes values into a file, for --values.
func valuesFile(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// effects are values that are not the default, and for each what the chart
// renders because of it; with "!" before it, what it no longer renders.
var effects = []struct {
	values string
	want   map[string]string
}{
	{
		values: `
replicas: 5
stateKey: {secret: my-state-key, key: k-state}
image: {repository: registry.example.com/hfid, tag: v9, pullPolicy: Always}
imagePullSecrets: [{name: pull-secret}]
git:
  url: https://git.example.com/other.git
  branch: trunk
  path: faults
  interval: 45s
  timeout: 2m30s
  username: robot
  secret: {name: my-git, keys: {token: k-token, password: k-password, sshKey: k-ssh, sshPassphrase: k-phrase, knownHosts: k-hosts, ca: k-ca, clientCert: k-cert, clientKey: k-key, webhook: k-hook}}
drift: heal
limits: |
  package schema

  #Policy: spec: expires_at!: _
logLevel: debug
wasmPlugins: {namespaces: [shop, "42"], linger: 1h, delivery: wasmplugin}
etcd:
  endpoints: ["https://etcd.example.com:12379", "https://etcd.example.org:12379"]
  prefix: /ours
  username: daemon
  secret: {name: my-etcd, keys: {ca: k-etcd-ca, cert: k-etcd-cert, key: k-etcd-key, password: k-etcd-password}}
settings: {HFID_KUBE: "on"}
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy.example.com:3128"}]
advertise: http://[$(POD_IP)]:8080
dataSize: 7Gi
resources: {limits: {memory: 1777Mi}}
nodeSelector: {disk: ssd}
tolerations: [{key: dedicated, operator: Exists}]
affinity:
  nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: arch, operator: Exists}]}]}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]
priorityClassName: urgent
podLabels: {team: chaos, app.kubernetes.io/name: is-not-changed}
podAnnotations: {prometheus.io/scrape: "no"}
serviceAccount: {name: my-account, annotations: {role: arn}}
networkPolicy: {egressPorts: [8443], dnsPorts: [5353]}
`,
		want: map[string]string{
			"replicas":                      "replicas: 5",
			"image.repository":              `"registry.example.com/hfid:`,
			"image.tag":                     `hfid:v9"`,
			"image.pullPolicy":              "imagePullPolicy: Always",
			"imagePullSecrets":              "- name: pull-secret",
			"git.url":                       "HFID_REPO: https://git.example.com/other.git",
			"git.branch":                    "HFID_BRANCH: trunk",
			"git.path":                      "HFID_PATH: faults",
			"git.interval":                  "HFID_INTERVAL: 45s",
			"git.timeout":                   "HFID_GIT_TIMEOUT: 2m30s",
			"git.username":                  "HFID_GIT_USERNAME: robot",
			"git.secret.name":               `secretName: "my-git"`,
			"git.secret.keys.token":         "HFID_GIT_TOKEN_FILE: /etc/hfid/git/k-token",
			"git.secret.keys.password":      "HFID_GIT_PASSWORD_FILE: /etc/hfid/git/k-password",
			"git.secret.keys.sshKey":        "HFID_GIT_SSH_KEY_FILE: /etc/hfid/git/k-ssh",
			"git.secret.keys.knownHosts":    "HFID_GIT_KNOWN_HOSTS_FILE: /etc/hfid/git/k-hosts",
			"git.secret.keys.ca":            "HFID_GIT_CA_FILE: /etc/hfid/git/k-ca",
			"git.secret.keys.sshPassphrase": "HFID_GIT_SSH_PASSPHRASE_FILE: /etc/hfid/git/k-phrase",
			"git.secret.keys.clientCert":    "HFID_GIT_CLIENT_CERT_FILE: /etc/hfid/git/k-cert",
			"git.secret.keys.clientKey":     "HFID_GIT_CLIENT_KEY_FILE: /etc/hfid/git/k-key",
			"git.secret.keys.webhook":       "HFID_WEBHOOK_SECRET_FILE: /etc/hfid/git/k-hook",
			"stateKey.secret":               `secretName: "my-state-key"`,
			"stateKey.key":                  "HFID_STATE_KEY_FILE: /etc/hfid/state-key/k-state",
			"drift":                         "HFID_DRIFT: heal",
			"limits":                        "#Policy: spec: expires_at!: _",
			"logLevel":                      "HFID_LOG_LEVEL: debug",
			"wasmPlugins.namespaces":        "HFID_KUBE_NAMESPACES: shop,42",
			"wasmPlugins.linger":            "HFID_KUBE_LINGER: 1h",
			"wasmPlugins.delivery":          "HFID_KUBE_DELIVERY: wasmplugin",
			"etcd.endpoints":                "HFID_ETCD_ENDPOINTS: https://etcd.example.com:12379,https://etcd.example.org:12379",
			"etcd.prefix":                   "HFID_ETCD_PREFIX: /ours",
			"etcd.username":                 "HFID_ETCD_USERNAME: daemon",
			"etcd.secret.name":              `secretName: "my-etcd"`,
			"etcd.secret.keys.ca":           "HFID_ETCD_CA_FILE: /etc/hfid/etcd/k-etcd-ca",
			"etcd.secret.keys.cert":         "HFID_ETCD_CERT_FILE: /etc/hfid/etcd/k-etcd-cert",
			"etcd.secret.keys.key":          "HFID_ETCD_KEY_FILE: /etc/hfid/etcd/k-etcd-key",
			"etcd.secret.keys.password":     "HFID_ETCD_PASSWORD_FILE: /etc/hfid/etcd/k-etcd-password",
			"settings":                      `HFID_KUBE: "on"`,
			"extraEnv":                      "- name: HTTPS_PROXY",
			"advertise":                     `value: "http://[$(POD_IP)]:8080"`,
			"dataSize":                      `sizeLimit: "7Gi"`,
			"resources":                     "memory: 1777Mi",
			"nodeSelector":                  "disk: ssd",
			"tolerations":                   "key: dedicated",
			"affinity":                      "key: arch",
			"topologySpreadConstraints":     "topologyKey: topology.kubernetes.io/zone",
			"priorityClassName":             `priorityClassName: "urgent"`,
			"podLabels":                     "team: chaos",
			"podAnnotations":                `prometheus.io/scrape: "no"`,
			"serviceAccount.name":           `serviceAccountName: "my-account"`,
			"serviceAccount.annotations":    "role: arn",
			"networkPolicy.egressPorts":     "- port: 8443",
			"networkPolicy.dnsPorts":        "- port: 5353\n          protocol: UDP",
		},
	},
	{
		values: `
image: {digest: "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
etcdCluster:
  enabled: true
  image: {repository: registry.example.com/mirror/etcd, tag: v3.9.9, pullPolicy: Never}
  storage: {size: 9Gi, className: fast}
  resources: {limits: {memory: 1999Mi}}
  nodeSelector: {disk: nvme}
  tolerations: [{key: storage, operator: Exists}]
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: Exists}]}]}}
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
`,
		want: map[string]string{
			"image.digest":                          `"hfi-control-plane@sha256:aaaaaaaa`,
			"etcdCluster.enabled":                   "kind: StatefulSet",
			"etcdCluster.image.repository":          `"registry.example.com/mirror/etcd:`,
			"etcdCluster.image.tag":                 `etcd:v3.9.9"`,
			"etcdCluster.image.pullPolicy":          "imagePullPolicy: Never",
			"etcdCluster.storage.size":              `storage: "9Gi"`,
			"etcdCluster.storage.className":         `storageClassName: "fast"`,
			"etcdCluster.resources":                 "memory: 1999Mi",
			"etcdCluster.nodeSelector":              "disk: nvme",
			"etcdCluster.tolerations":               "key: storage",
			"etcdCluster.affinity":                  "key: zone",
			"etcdCluster.topologySpreadConstraints": "topologyKey: rack",
		},
	},
	{
		values: `
replicas: 1
serviceAccount: {create: false}
networkPolicy: {enabled: false}
namespace: {create: false}
etcdCluster:
  enabled: true
  image: {tag: "", digest: "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}
`,
		want: map[string]string{
			"replicas":                 "!minAvailable:",
			"serviceAccount.create":    "!\nkind: ServiceAccount\n",
			"networkPolicy.enabled":    "!kind: NetworkPolicy",
			"namespace.create":         "!kind: Namespace\n",
			"etcdCluster.image.digest": `etcd@sha256:bbbbbbbb`,
		},
	},
}

// Every value does what it is for, and the objects have known fields only.
func TestEveryValueOfTheChartHasItsEffect(t *testing.T) {
	usual := helm(t, template()...)
	help, err := exec.CommandContext(t.Context(), hfidtest.Binary(t), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("hfid --help: %v\n%s", err, help)
	}
	covered := map[string]bool{}
	for _, effect := range effects {
		changed := helm(t, template("--values", valuesFile(t, effect.values))...)
		for value, want := range effect.want {
			covered[value] = true
			with, without := changed, usual
			text, gone := strings.CutPrefix(want, "!")
			if gone {
				with, without = usual, changed
			}
			if !strings.Contains(with, text) || strings.Contains(without, text) {
				t.Errorf("%s has no effect, or another one than %q", value, want)
			}
		}
		objects := rendered(t, changed)
		for name := range settings(t, objects) {
			setting, ours := strings.CutPrefix(name, "HFID_")
			if flag := "--" + strings.ToLower(strings.ReplaceAll(setting, "_", "-")); ours && !strings.Contains(string(help), flag+" ") {
				t.Errorf("%s belongs to no flag: %s", name, flag)
			}
		}
		deployment := only[*appsv1.Deployment](t, objects, "hfi-control-plane")
		restricted(t, deployment.Spec.Template.Spec)
		if selector := deployment.Spec.Selector.MatchLabels; !selects(selector, deployment.Spec.Template.Labels) {
			t.Errorf("the selector %v misses the pod's labels %v", selector, deployment.Spec.Template.Labels)
		}
	}
	for _, leaf := range leavesOfValues(t) {
		if !covered[leaf] {
			t.Errorf("no test says what %s is for", leaf)
		}
		delete(covered, leaf)
	}
	for value := range covered {
		t.Errorf("there is no value %s", value)
	}
}

// schemaNode is the part of a JSON Schema that this test uses.
type schemaNode struct {
	Ref        string                `json:"$ref"`
	Required   []string              `json:"required"`
	Properties map[string]schemaNode `json:"properties"`
	// A nested schema, or a boolean.
	Additional  json.RawMessage       `json:"additionalProperties"`
	Definitions map[string]schemaNode `json:"definitions"`
}

// walkValues visits every value in values.yaml with its path: groups, whose
// keys the schema all requires, and leaves. A group is given with its schema.
func walkValues(t *testing.T, group func(path string, schema schemaNode), leaf func(path string, key, value *yamlv3.Node)) {
	t.Helper()
	var whole schemaNode
	if err := json.Unmarshal([]byte(guide(t, chart+"/values.schema.json")), &whole); err != nil {
		t.Fatal(err)
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal([]byte(guide(t, chart+"/values.yaml")), &document); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, mapping *yamlv3.Node, schema schemaNode)
	walk = func(path string, mapping *yamlv3.Node, schema schemaNode) {
		group(path, schema)
		inSchema := slices.Collect(maps.Keys(schema.Properties))
		for i := 0; i < len(mapping.Content); i += 2 {
			key, value := mapping.Content[i], mapping.Content[i+1]
			name, below := strings.TrimPrefix(path+"."+key.Value, "."), schema.Properties[key.Value]
			if definition, ok := strings.CutPrefix(below.Ref, "#/definitions/"); ok {
				below = whole.Definitions[definition]
			}
			if len(below.Required) > 0 {
				walk(name, value, below)
			} else {
				leaf(name, key, value)
			}
			inSchema = slices.DeleteFunc(inSchema, func(property string) bool { return property == key.Value })
		}
		if len(inSchema) > 0 && !slices.Equal(inSchema, []string{"global"}) {
			t.Errorf("the schema has %v in %q, and values.yaml does not", inSchema, path)
		}
	}
	walk("", document.Content[0], whole)
}

func leavesOfValues(t *testing.T) (leaves []string) {
	t.Helper()
	walkValues(t, func(string, schemaNode) {}, func(path string, _, _ *yamlv3.Node) { leaves = append(leaves, path) })
	return leaves
}

func TestEveryValueOfTheChartIsDescribed(t *testing.T) {
	walkValues(t, func(string, schemaNode) {}, func(path string, key, _ *yamlv3.Node) {
		if len(strings.Fields(key.HeadComment)) < 3 {
			t.Errorf("values.yaml does not say what %s is for", path)
		}
	})
}

// The schema refuses an unknown key in each group, a wrong type for each value,
// and none at all.
func TestTheChartRefusesWrongTypesAndUnknownKeys(t *testing.T) {
	wrong, missing := map[string]any{}, map[string]any{}
	put := func(in map[string]any, path string, value any) {
		keys := strings.Split(path, ".")
		for _, key := range keys[:len(keys)-1] {
			if in[key] == nil {
				in[key] = map[string]any{}
			}
			in = in[key].(map[string]any)
		}
		in[keys[len(keys)-1]] = value
	}
	var groups, leaves []string
	walkValues(t, func(path string, schema schemaNode) {
		if string(schema.Additional) != "false" {
			t.Errorf("the schema lets %q have keys that it does not know", path)
		}
		put(wrong, strings.TrimPrefix(path+".unknown", "."), 1)
		groups = append(groups, path)
	}, func(path string, _, value *yamlv3.Node) {
		// Helm itself ignores a number in place of a mapping.
		put(wrong, path, 1.5)
		if value.Kind == yamlv3.MappingNode {
			put(wrong, path, map[string]any{"unknown": []int{1}})
		}
		put(missing, path, nil)
		leaves = append(leaves, path)
	})
	refusal := func(values map[string]any) string {
		text, err := yaml.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		_, err = helmIn(t, ".", append([]string{"helm"}, template("--values", valuesFile(t, string(text)))...)...)
		if err == nil {
			t.Fatalf("the chart was rendered with\n%s", text)
		}
		return err.Error()
	}
	said := refusal(wrong)
	for _, group := range groups {
		at := regexp.QuoteMeta("/" + strings.ReplaceAll(group, ".", "/"))
		if group == "" {
			at = ""
		}
		if !regexp.MustCompile(`at '` + at + `': additional properties '?unknown`).MatchString(said) {
			t.Errorf("an unknown key in %q was not refused", group)
		}
	}
	for _, leaf := range leaves {
		if at := "at '/" + strings.ReplaceAll(leaf, ".", "/"); !strings.Contains(said, at+"'") && !strings.Contains(said, at+"/") {
			t.Errorf("a wrong type of %s was not refused", leaf)
		}
	}
	said = refusal(missing)
	for _, leaf := range leaves {
		if key := leaf[strings.LastIndex(leaf, ".")+1:]; !strings.Contains(said, "'"+key+"'") {
			t.Errorf("a null for %s was not refused", leaf)
		}
	}
}

func TestTheChartRefusesWhatCannotWork(t *testing.T) {
	for values, reason := range map[string]string{
		"replicas: 0":                                                     "/replicas",
		"replicas: two":                                                   "/replicas",
		"image: {tag: 1.0}":                                               "/image/tag",
		"image: {digest: sha256:abc}":                                     "/image/digest",
		"drift: repair":                                                   "/drift",
		"git: {interval: 30}":                                             "/git/interval",
		"git: {interval: 30 seconds}":                                     "/git/interval",
		"git: {secret: {keys: {token: ../token}}}":                        "/git/secret/keys/token",
		"etcd: {endpoints: [https://etcd.example.com]}":                   "/etcd/endpoints/0",
		"wasmPlugins: {namespaces: [Demo]}":                               "/wasmPlugins/namespaces/0",
		"wasmPlugins: {delivery: lua}":                                    "/wasmPlugins/delivery",
		"networkPolicy: {egressPorts: []}":                                "/networkPolicy/egressPorts",
		"networkPolicy: {dnsPorts: [70000]}":                              "/networkPolicy/dnsPorts/0",
		"tolerations: [{keys: dedicated}]":                                "/tolerations/0",
		"settings: {HFID_KUBE: off}":                                      "/settings/HFID_KUBE",
		"settings: {KUBE: \"off\"}":                                       "invalid propertyName 'KUBE'",
		"settings: {HFID_REPO: https://git.example.com}":                  "settings.HFID_REPO is set by another value",
		"settings: {HFID_LISTEN: \":80\"}":                                "settings.HFID_LISTEN is set by another value",
		"extraEnv: [{name: HFID_LISTEN, value: \":80\"}]":                 "/extraEnv/0/name",
		"etcd: {secret: {name: hfi-etcd-client}}":                         "etcd.endpoints, which is empty",
		"etcdCluster: {enabled: true, image: {tag: \"\"}}":                "needs a tag or a digest",
		"{etcd: {endpoints: [http://e:1]}, etcdCluster: {enabled: true}}": "use one of them",
	} {
		_, err := helmIn(t, ".", append([]string{"helm"}, template("--values", valuesFile(t, values))...)...)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s was refused with %v, want %s", values, err, reason)
		}
	}
}
