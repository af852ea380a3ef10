package deploy_test

import (
	"bufio"
	"bytes"
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
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

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

// difference describes how two sets of objects differ, regardless of their order.
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

// valuesOf has the values files that the guide names, and what replaces each of
// them among the kustomizations.
var valuesOf = map[string]func(t *testing.T) []object{
	"":              func(t *testing.T) []object { return built(t, "base") },
	"etcd":          func(t *testing.T) []object { return built(t, "overlays/etcd") },
	"external-etcd": func(t *testing.T) []object { return built(t, "overlays/external-etcd") },
	"example":       func(t *testing.T) []object { return built(t, "example") },
	// The guide's own kustomization has the setting beside the overlay.
	"etcd wasmplugin-manager": func(t *testing.T) []object {
		return kustomize(t, copied(t, block(t, "README.md", "policies target pods. In your kustomization:\n\n```yaml", "```")))
	},
	"etcd envoyfilter-manager": func(t *testing.T) []object {
		text := block(t, "README.md", "policies target pods. In your kustomization:\n\n```yaml", "```")
		text = strings.Replace(text, "overlays/wasmplugin-manager", "overlays/envoyfilter-manager", 1)
		return kustomize(t, copied(t, text+"  - HFID_KUBE_DELIVERY=envoyfilter\n"))
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
