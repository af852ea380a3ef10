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

// block returns a guide's text from a line that begins with from to the text to.
func block(t *testing.T, file, from, to string) string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^" + regexp.QuoteMeta(from) + "[^\n]*\n(.*?)^" + to + "$").FindStringSubmatch(guide(t, file))
	if found == nil {
		t.Fatalf("%s has nothing between %q and %q", file, from, to)
	}
	return found[1]
}

// kustomize builds the kustomizations in the guides, and their settings reach the daemon.
func TestKustomizationsInTheGuidesBuild(t *testing.T) {
	keeper := kustomize(t, copied(t, block(t, "README.md", "policies target pods. In your kustomization:\n\n```yaml", "```")))
	if got := settings(t, keeper)["HFID_KUBE_NAMESPACES"]; got != "demo" {
		t.Errorf("with README.md the daemon keeps the WasmPlugins of %q", got)
	}
	if binding := only[*rbacv1.RoleBinding](t, keeper, "hfi-wasmplugin-manager"); binding.Namespace != "demo" {
		t.Errorf("with README.md it has the right in %s", binding.Namespace)
	}
	text := block(t, "quickstart.md", "cat >my-hfi/kustomization.yaml", "END")
	text = strings.NewReplacer("$REGISTRY", "registry.example.com", "$POLICIES", "https://git.example.com/policies.git", "../deploy/kubernetes/", "../").Replace(text)
	if got := settings(t, kustomize(t, copied(t, text)))["HFID_REPO"]; got != "https://git.example.com/policies.git" {
		t.Errorf("with quickstart.md the daemon reads %q", got)
	}
}

// The daemon has every setting that a guide names.
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
