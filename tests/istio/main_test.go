//go:build linux

package istio

import (
	"os"
	"testing"

	"github.com/boifi/hfi/tests/istio/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
