package fleet

import (
	"bytes"
	"testing"
	"time"
)

// Reports name no VM as it names itself: who reads them cannot ask in a VM's name,
// and so hides no silent one.
func TestReportsTellNobodyHowToHideASilentVM(t *testing.T) {
	const secret = "1f0e3dad99908345"
	s := newStage(t)
	pod := s.client(podsAddress, 1)
	pod.starts("a", secret, "new").Answered("", 0)
	for range 3 {
		pod.round("a", secret, "new")
	}
	s.advance(DefaultGrace + time.Second)
	var report bytes.Buffer
	if err := s.fleet["a"].WriteReport(&report); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(report.Bytes(), []byte(secret)) {
		t.Errorf("the report has the VM's name: %s", &report)
	}
	read := s.fleet["a"].seen()[0].VMs[0].ID
	for connection, replica := range []string{"a", "b"} {
		for _, address := range []string{foreignAddress, podsAddress, "2001:db8::1"} {
			foreign := s.client(address, uint64(10+connection))
			foreign.starts(replica, read, "new").Answered("", 0)
			foreign.ask(replica, read, "new")
			if status := s.status(); status.Silent != 1 {
				t.Errorf("after requests to %s from %s: %+v", replica, address, status)
			}
		}
	}
	// The VM itself may ask any replica, from any address.
	s.client("10.0.0.2", 20).starts("b", secret, "new")
	for _, filter := range s.fleet["b"].seen() {
		for _, vm := range filter.VMs {
			if vm.ID == read && vm.Digest == "new" {
				return
			}
		}
	}
	t.Error("two replicas know one VM by two names")
}
