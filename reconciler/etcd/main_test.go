package etcd

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	RunServer()
	os.Exit(m.Run())
}
