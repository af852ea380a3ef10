package deploy_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// Kubernetes 1.28 knows every kind and field of the manifests and of the chart. (The
// other tests decode them with the newest version's API.)
func TestTheOldestKubernetesKnowsEveryField(t *testing.T) {
	check := func(t *testing.T, manifests string) (string, error) {
		t.Helper()
		command := exec.Command(testtool.Path(t, "kube-1.28"))
		command.Stdin = strings.NewReader(manifests)
		out, err := command.CombinedOutput()
		return string(out), err
	}
	manifests := map[string]string{}
	for _, folder := range kustomizations {
		manifests[folder] = string(bytes.Join(kustomizedText(t, filepath.Join("kubernetes", folder)), []byte("---\n")))
	}
	for files := range valuesOf {
		manifests["values "+files] = helm(t, template(valuesArguments(files)...)...)
	}
	for name, text := range manifests {
		t.Run(name, func(t *testing.T) {
			if out, err := check(t, text); err != nil || !regexp.MustCompile(`knows all fields of [1-9]\d* objects`).MatchString(out) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	// The check itself: a field that is newer, and a kind that is.
	for _, newer := range []string{
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, lifecycle: {preStop: {sleep: {seconds: 5}}}}]}\n",
		"apiVersion: resource.k8s.io/v1\nkind: ResourceClaim\nmetadata: {name: r}\n",
	} {
		if out, err := check(t, newer); err == nil {
			t.Errorf("%s of\n%s", out, newer)
		}
	}
}
