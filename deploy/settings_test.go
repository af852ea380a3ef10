package deploy_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/hfidtest"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// The daemon refuses HFID_ variables without a flag, so there must be a flag for
// each of a pod's settings.
func TestTheDaemonKnowsEverySetting(t *testing.T) {
	help, err := exec.Command(hfidtest.Binary(t), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("hfid --help: %v\n%s", err, help)
	}
	for _, folder := range []string{"base", "overlays/etcd", "overlays/external-etcd", "example"} {
		checked := 0
		for name := range settings(t, built(t, folder)) {
			setting, ours := strings.CutPrefix(name, "HFID_")
			if !ours {
				continue
			}
			checked++
			flag := "--" + strings.ToLower(strings.ReplaceAll(setting, "_", "-"))
			if !strings.Contains(string(help), flag+" ") {
				t.Errorf("%s: %s has no flag %s", folder, name, flag)
			}
		}
		if checked == 0 {
			t.Errorf("%s has no settings", folder)
		}
	}
}
