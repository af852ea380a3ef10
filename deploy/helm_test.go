package deploy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yamlv3 "go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

const chart = "helm/hfi"

// helmIn runs a command line of stock Helm, or of a shell that finds it, in a
// folder. It has no cluster, and nothing of the user's own configuration.
func helmIn(t *testing.T, folder string, command ...string) (stdout string, err error) {
	t.Helper()
	helm := testtool.Path(t, "helm")
	testtool.NoteSources(t)
	home := t.TempDir()
	run := exec.CommandContext(t.Context(), command[0], command[1:]...)
	if command[0] == "helm" {
		run.Path, run.Err = helm, nil
	}
	run.Dir = folder
	path := filepath.Dir(helm) + string(filepath.ListSeparator) + os.Getenv("PATH")
	run.Env = []string{"PATH=" + path, "HOME=" + home, "KUBECONFIG=" + filepath.Join(home, "none")}
	var out, problems bytes.Buffer
	run.Stdout, run.Stderr = &out, &problems
	if err := run.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(command, " "), err, out.String(), problems.String())
	}
	return out.String(), nil
}

func helm(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := helmIn(t, ".", append([]string{"helm"}, arguments...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// template is the command line that renders the chart into namespace boifi.
func template(arguments ...string) []string {
	return append([]string{"template", "hfi", chart, "--namespace", "boifi"}, arguments...)
}

// rendered are the objects of "helm template", decoded with every field known.
func rendered(t *testing.T, text string) []object {
	t.Helper()
	var objects []object
	for reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := yaml.UnmarshalStrict(document, &fields); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if len(fields) > 0 {
			objects = append(objects, decode(t, document))
		}
	}
}

// valuesFile writes values into a file, for --values.
func valuesFile(t *testing.T, values string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// difference says what differs between two sets of objects, in whatever order.
// It ignores the annotation that only Helm reads.
func difference(kustomized, charted []object) string {
	index := func(objects []object) map[string]object {
		indexed := map[string]object{}
		for _, o := range objects {
			if namespace, ok := o.(*corev1.Namespace); ok {
				delete(namespace.Annotations, "helm.sh/resource-policy")
				if len(namespace.Annotations) == 0 {
					namespace.Annotations = nil
				}
			}
			key := fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
			if _, twice := indexed[key]; twice {
				key += ", once more"
			}
			indexed[key] = o
		}
		return indexed
	}
	return cmp.Diff(index(kustomized), index(charted))
}

// valuesOf are the values files that the guide names, and what stands for each
// of them among the kustomizations.
var valuesOf = map[string]func(t *testing.T) []object{
	"":              func(t *testing.T) []object { return built(t, "base") },
	"etcd":          func(t *testing.T) []object { return built(t, "overlays/etcd") },
	"external-etcd": func(t *testing.T) []object { return built(t, "overlays/external-etcd") },
	"example":       func(t *testing.T) []object { return built(t, "example") },
	// The guide's own kustomization has the setting beside the overlay.
	"etcd wasmplugin-manager": func(t *testing.T) []object {
		return kustomize(t, copied(t, block(t, "README.md", "policies target there. In your kustomization:\n\n```yaml", "```")))
	},
}

func valuesArguments(files string) (arguments []string) {
	for _, name := range strings.Fields(files) {
		arguments = append(arguments, "--values", "helm/values/"+name+".yaml")
	}
	return arguments
}

// The chart installs what kustomize does, to the last field and name.
func TestTheChartInstallsWhatKustomizeDoes(t *testing.T) {
	for files, kustomized := range valuesOf {
		t.Run(files, func(t *testing.T) {
			charted := rendered(t, helm(t, template(valuesArguments(files)...)...))
			if unlike := difference(kustomized(t), charted); unlike != "" {
				t.Errorf("kustomize (-) and Helm (+) differ:\n%s", unlike)
			}
		})
	}
	names, err := filepath.Glob("helm/values/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	compared := strings.Fields(strings.Join(slices.Collect(maps.Keys(valuesOf)), " "))
	for _, name := range names {
		if !slices.Contains(compared, strings.TrimSuffix(filepath.Base(name), ".yaml")) {
			t.Errorf("%s is compared to no kustomization", name)
		}
	}
	// The comparison itself sees a changed field, and a missing and an added object.
	base := built(t, "base")
	for _, change := range []string{"resources.limits.memory=1Gi", "networkPolicy.enabled=false", "wasmPlugins.namespaces={demo}"} {
		if difference(base, rendered(t, helm(t, template("--set", change)...))) == "" {
			t.Errorf("%s was not seen", change)
		}
	}
}

func TestHelmLintsThePackagedChart(t *testing.T) {
	folder := t.TempDir()
	helm(t, "package", chart, "--version", "1.2.3", "--app-version", "1.2.3", "--destination", folder)
	archive := filepath.Join(folder, "hfi-1.2.3.tgz")
	for files := range valuesOf {
		for _, from := range []string{chart, archive} {
			helm(t, append([]string{"lint", "--strict", "--namespace", "boifi", from}, valuesArguments(files)...)...)
		}
	}
	packaged := rendered(t, helm(t, "template", "hfi", archive, "--namespace", "boifi"))
	pod := only[*appsv1.Deployment](t, packaged, "hfi-control-plane").Spec.Template.Spec
	if image := pod.Containers[0].Image; image != "hfi-control-plane:1.2.3" {
		t.Errorf("the chart of version 1.2.3 runs %s", image)
	}
	if unlike := difference(rendered(t, helm(t, template("--set", "image.tag=1.2.3")...)), packaged); unlike != "" {
		t.Errorf("the folder (-) and the package (+) differ:\n%s", unlike)
	}
	// The check itself sees an error.
	if _, err := helmIn(t, ".", "helm", "lint", "--strict", chart, "--set", "unknown=1"); err == nil {
		t.Error("an unknown value was not seen")
	}
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
image: {repository: registry.example.com/hfid, tag: v9, pullPolicy: Always}
imagePullSecrets: [{name: pull-secret}]
git:
  url: https://git.example.com/other.git
  branch: trunk
  path: faults
  interval: 45s
  timeout: 2m30s
  username: robot
  secret: {name: my-git, keys: {token: k-token, password: k-password, sshKey: k-ssh, knownHosts: k-hosts, ca: k-ca, webhook: k-hook}}
drift: heal
logLevel: debug
wasmPlugins: {namespaces: [shop, "42"]}
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
			"replicas":                   "replicas: 5",
			"image.repository":           `"registry.example.com/hfid:`,
			"image.tag":                  `hfid:v9"`,
			"image.pullPolicy":           "imagePullPolicy: Always",
			"imagePullSecrets":           "- name: pull-secret",
			"git.url":                    "HFID_REPO: https://git.example.com/other.git",
			"git.branch":                 "HFID_BRANCH: trunk",
			"git.path":                   "HFID_PATH: faults",
			"git.interval":               "HFID_INTERVAL: 45s",
			"git.timeout":                "HFID_GIT_TIMEOUT: 2m30s",
			"git.username":               "HFID_GIT_USERNAME: robot",
			"git.secret.name":            `secretName: "my-git"`,
			"git.secret.keys.token":      "HFID_GIT_TOKEN_FILE: /etc/hfid/git/k-token",
			"git.secret.keys.password":   "HFID_GIT_PASSWORD_FILE: /etc/hfid/git/k-password",
			"git.secret.keys.sshKey":     "HFID_GIT_SSH_KEY_FILE: /etc/hfid/git/k-ssh",
			"git.secret.keys.knownHosts": "HFID_GIT_KNOWN_HOSTS_FILE: /etc/hfid/git/k-hosts",
			"git.secret.keys.ca":         "HFID_GIT_CA_FILE: /etc/hfid/git/k-ca",
			"git.secret.keys.webhook":    "HFID_WEBHOOK_SECRET_FILE: /etc/hfid/git/k-hook",
			"drift":                      "HFID_DRIFT: heal",
			"logLevel":                   "HFID_LOG_LEVEL: debug",
			"wasmPlugins.namespaces":     "HFID_KUBE_NAMESPACES: shop,42",
			"etcd.endpoints":             "HFID_ETCD_ENDPOINTS: https://etcd.example.com:12379,https://etcd.example.org:12379",
			"etcd.prefix":                "HFID_ETCD_PREFIX: /ours",
			"etcd.username":              "HFID_ETCD_USERNAME: daemon",
			"etcd.secret.name":           `secretName: "my-etcd"`,
			"etcd.secret.keys.ca":        "HFID_ETCD_CA_FILE: /etc/hfid/etcd/k-etcd-ca",
			"etcd.secret.keys.cert":      "HFID_ETCD_CERT_FILE: /etc/hfid/etcd/k-etcd-cert",
			"etcd.secret.keys.key":       "HFID_ETCD_KEY_FILE: /etc/hfid/etcd/k-etcd-key",
			"etcd.secret.keys.password":  "HFID_ETCD_PASSWORD_FILE: /etc/hfid/etcd/k-etcd-password",
			"settings":                   `HFID_KUBE: "on"`,
			"extraEnv":                   "- name: HTTPS_PROXY",
			"advertise":                  `value: "http://[$(POD_IP)]:8080"`,
			"dataSize":                   `sizeLimit: "7Gi"`,
			"resources":                  "memory: 1777Mi",
			"nodeSelector":               "disk: ssd",
			"tolerations":                "key: dedicated",
			"affinity":                   "key: arch",
			"topologySpreadConstraints":  "topologyKey: topology.kubernetes.io/zone",
			"priorityClassName":          `priorityClassName: "urgent"`,
			"podLabels":                  "team: chaos",
			"podAnnotations":             `prometheus.io/scrape: "no"`,
			"serviceAccount.name":        `serviceAccountName: "my-account"`,
			"serviceAccount.annotations": "role: arn",
			"networkPolicy.egressPorts":  "- port: 8443",
			"networkPolicy.dnsPorts":     "- port: 5353\n          protocol: UDP",
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

// schemaNode is the part of a JSON Schema that this test looks at.
type schemaNode struct {
	Ref        string                `json:"$ref"`
	Required   []string              `json:"required"`
	Properties map[string]schemaNode `json:"properties"`
	// A schema of its own, or a boolean.
	Additional  json.RawMessage       `json:"additionalProperties"`
	Definitions map[string]schemaNode `json:"definitions"`
}

// walkValues visits every value in values.yaml with its path: groups, whose
// keys the schema all requires, and leaves. The mapping of a group is given.
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

// In another namespace all objects are there, and WasmPlugins name the Service there.
func TestTheChartMayStandInAnotherNamespace(t *testing.T) {
	elsewhere := []string{"template", "hfi", chart, "--namespace", "chaos", "--set", "etcdCluster.enabled=true,wasmPlugins.namespaces={demo,shop}"}
	objects := rendered(t, helm(t, elsewhere...))
	if got := settings(t, objects)["HFID_KUBE_CONTROL_PLANE"]; got != "http://hfi-control-plane.chaos:8080" {
		t.Errorf("sidecars are sent to %q", got)
	}
	own := rendered(t, helm(t, append(elsewhere, "--set", "settings.HFID_KUBE_CONTROL_PLANE=http://hfi.example.com")...))
	if got := settings(t, own)["HFID_KUBE_CONTROL_PLANE"]; got != "http://hfi.example.com" {
		t.Errorf("sidecars are sent to %q, in spite of the setting", got)
	}
	only[*corev1.Namespace](t, objects, "chaos")
	var bound []string
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Namespace, *rbacv1.ClusterRole:
		case *rbacv1.ClusterRoleBinding:
			if o.Subjects[0].Namespace != "chaos" {
				t.Errorf("the daemon's rights go to %+v", o.Subjects)
			}
		case *rbacv1.RoleBinding:
			bound = append(bound, o.Namespace)
			if o.Subjects[0].Namespace != "chaos" {
				t.Errorf("the rights in %s go to %+v", o.Namespace, o.Subjects)
			}
		default:
			if o.GetNamespace() != "chaos" {
				t.Errorf("%T %s is in namespace %q", o, o.GetName(), o.GetNamespace())
			}
		}
	}
	if !slices.Equal(bound, []string{"demo", "shop"}) {
		t.Errorf("the daemon may keep WasmPlugins in %v", bound)
	}
}

// With etcd.endpoints, the NetworkPolicies let the daemon reach each of their ports.
func TestTheChartOpensThePortsOfAnExternalEtcd(t *testing.T) {
	const endpoints = "https://a.example.com:2379,https://b.example.com:12379,https://c.example.com:2379"
	objects := rendered(t, helm(t, template("--set", "etcd.endpoints={"+endpoints+"}")...))
	var policies []*networkingv1.NetworkPolicy
	for _, o := range objects {
		if policy, ok := o.(*networkingv1.NetworkPolicy); ok {
			policies = append(policies, policy)
		}
	}
	for port, want := range map[int32]bool{2379: true, 12379: true, 12380: false} {
		if got := allowed(t, policies, ours("hfi-control-plane"), peer{}, port, corev1.ProtocolTCP); got != want {
			t.Errorf("the daemon may reach port %d outside: %v, want %v", port, got, want)
		}
	}
}

// The notes after an installation warn of what was not set.
func TestTheNotesOfTheChartWarn(t *testing.T) {
	notes := func(arguments ...string) string {
		command := append([]string{"install", "hfi", chart, "--namespace", "boifi", "--dry-run=client"}, arguments...)
		_, after, found := strings.Cut(helm(t, command...), "NOTES:")
		if !found {
			t.Fatal("there are no notes")
		}
		return after
	}
	if said := notes(); !strings.Contains(said, "no etcd") || !strings.Contains(said, "git.url") {
		t.Errorf("with nothing set the notes are:\n%s", said)
	}
	if said := notes("--set", "etcdCluster.enabled=true,networkPolicy.enabled=false"); !strings.Contains(said, "no password") {
		t.Errorf("with an open etcd the notes are:\n%s", said)
	}
	if said := notes("--set", "etcdCluster.enabled=true,git.url=https://git.example.com/mine.git"); strings.Contains(said, "WARNING") {
		t.Errorf("with all set the notes are:\n%s", said)
	}
}

// The guides' commands of Helm run as they stand, from the repository's root.
// Those that want a cluster are rendered instead, with the same arguments.
func TestHelmCommandsInTheGuidesRun(t *testing.T) {
	deploy, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"README.md", chart + "/README.md"} {
		root := t.TempDir()
		if err := os.Symlink(deploy, filepath.Join(root, "deploy")); err != nil {
			t.Fatal(err)
		}
		ran := 0
		for _, shell := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(guide(t, file), -1) {
			if !strings.Contains(shell[1], "helm ") {
				continue
			}
			for line := range strings.Lines(strings.ReplaceAll(shell[1], "\\\n", " ")) {
				words := strings.Fields(line)
				switch {
				case len(words) == 0 || words[0] == "kubectl":
					continue
				case words[0] == "helm" && (words[1] == "install" || words[1] == "upgrade"):
					line = "helm template " + strings.Join(words[2:], " ")
				case words[0] == "helm" && words[1] == "uninstall":
					continue
				}
				ran++
				if out, err := helmIn(t, root, "bash", "-c", line); err != nil {
					t.Errorf("%s: %v", file, err)
				} else if strings.HasPrefix(line, "helm template") && len(rendered(t, out)) == 0 {
					t.Errorf("%s: %s renders nothing", file, line)
				}
			}
		}
		if ran == 0 {
			t.Errorf("%s has no command of Helm", file)
		}
	}
}
