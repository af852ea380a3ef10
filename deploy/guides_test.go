package deploy_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/boifi/hfi/internal/hfidtest"
)

func guide(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block is what a guide has between two lines, the first of which begins with from.
func block(t *testing.T, file, from, to string) string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^" + regexp.QuoteMeta(from) + "[^\n]*\n(.*?)^" + to + "$").FindStringSubmatch(guide(t, file))
	if found == nil {
		t.Fatalf("%s has nothing between %q and %q", file, from, to)
	}
	return found[1]
}

// What the guides tell users to write is built by kustomize, and reaches the
// daemon, in the namespace that it runs in.
func TestKustomizationsInTheGuidesBuild(t *testing.T) {
	keeper := kustomize(t, copied(t, block(t, "README.md", "policies target there. In your kustomization:\n\n```yaml", "```")))
	if got := settings(t, keeper)["HFID_KUBE_NAMESPACES"]; got != "demo" {
		t.Errorf("by README.md the daemon keeps the WasmPlugins of %q", got)
	}
	if binding := only[*rbacv1.RoleBinding](t, keeper, "hfi-wasmplugin-manager"); binding.Namespace != "demo" {
		t.Errorf("by README.md it may do so in %s", binding.Namespace)
	}
	text := block(t, "quickstart.md", "cat >my-hfi/kustomization.yaml", "END")
	text = strings.NewReplacer("$REGISTRY", "registry.example.com", "$POLICIES", "https://git.example.com/policies.git", "../deploy/kubernetes/", "../").Replace(text)
	if got := settings(t, kustomize(t, copied(t, text)))["HFID_REPO"]; got != "https://git.example.com/policies.git" {
		t.Errorf("by quickstart.md the daemon follows %q", got)
	}
}

// A setting that a guide names is one that the daemon has.
func TestTheGuidesNameSettingsThatThereAre(t *testing.T) {
	help, err := exec.Command(hfidtest.Binary(t), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("hfid --help: %v\n%s", err, help)
	}
	for _, file := range []string{"README.md", "quickstart.md"} {
		names := regexp.MustCompile(`HFID_[A-Z_]+`).FindAllString(guide(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s names no setting", file)
		}
		for _, name := range names {
			flag := "--" + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "HFID_"), "_", "-"))
			if !strings.Contains(string(help), flag+" ") {
				t.Errorf("%s names %s, and there is no flag %s", file, name, flag)
			}
		}
	}
}
