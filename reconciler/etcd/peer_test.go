package etcd

import (
	"strings"
	"testing"
)

// Only addresses that a replica can have are asked.
func TestPeersAtOtherAddressesAreNotAsked(t *testing.T) {
	for _, c := range []struct {
		address, own string
		asked        bool
	}{
		{"", "http://10.0.0.1:8080", true},
		{"http://10.0.0.7:8080", "http://10.0.0.1:8080", true},
		{"https://[fd00::7]:8080/", "http://10.0.0.1:8080", true},
		{"http://hfi-1.hfi.boifi.svc:8080/base", "http://10.0.0.1:8080", true},
		{"http://127.0.0.1:8081", "http://127.0.0.1:8080", true},
		{"http://localhost:8081", "http://[::1]:8080", true},

		{"http://127.0.0.1:2379", "http://10.0.0.1:8080", false},
		{"http://localhost:2379", "http://10.0.0.1:8080", false},
		{"http://x.localhost.:2379", "http://10.0.0.1:8080", false},
		{"http://[::ffff:127.0.0.1]:2379", "http://10.0.0.1:8080", false},
		{"http://127.0.0.1:2379", "", false},
		{"http://169.254.169.254/latest/meta-data", "http://127.0.0.1:8080", false},
		{"http://[::ffff:169.254.169.254]/", "http://127.0.0.1:8080", false},
		{"http://2852039166/", "http://127.0.0.1:8080", false},
		{"http://0xa9fea9fe/", "http://127.0.0.1:8080", false},
		{"http://169.254.43518/", "http://127.0.0.1:8080", false},
		{"http://[fe80::1%25eth0]/", "http://127.0.0.1:8080", false},
		{"http://0.0.0.0:8080", "http://127.0.0.1:8080", false},
		{"http://224.0.0.1:8080", "http://127.0.0.1:8080", false},
		{"http://user:secret@10.0.0.7:8080", "http://127.0.0.1:8080", false},
		{"http://10.0.0.7:8080?x=y", "http://127.0.0.1:8080", false},
		{"http://10.0.0.7:8080#x", "http://127.0.0.1:8080", false},
		{"file:///etc/passwd", "http://127.0.0.1:8080", false},
		{"unix:///run/docker.sock", "http://127.0.0.1:8080", false},
		{"10.0.0.7:8080", "http://127.0.0.1:8080", false},
		{"http://", "http://127.0.0.1:8080", false},
		{"http://x/" + strings.Repeat("x", maxAdvertise), "http://127.0.0.1:8080", false},
		{"http://10.0.0.7:8080/\n", "http://127.0.0.1:8080", false},
	} {
		if problem := peerProblem(c.address, c.own); (problem == "") != c.asked {
			t.Errorf("%q, asked by a replica at %q: %q", c.address, c.own, problem)
		}
	}
}
