package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// TestPoliciesOfAnAbandonedGroup checks that nothing comes back into force that no VM has
// had confirmed lately: meanwhile, the policies may have been deleted.
func TestPoliciesOfAnAbandonedGroup(t *testing.T) {
	for name, end := range map[string]func(*crew){
		"stopped": func(c *crew) {
			for _, thread := range c.threads {
				c.stop(thread)
			}
		},
		"stopped after a trap": func(c *crew) {
			c.trap(c.threads[0])
			c.pass(2 * missesUntilLed * signPeriod)
			c.stop(c.threads[1])
		},
		"trapped": func(c *crew) {
			c.trapAll()
			c.pass(recentTime + time.Second)
		},
		"trapped and stale": func(c *crew) {
			c.trapAll()
			c.pass(defaultStaleAfter + time.Minute)
		},
		"trapped, and the clock was set back": func(c *crew) {
			c.trapAll()
			c.at = c.at.Add(-time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t, 2, frontendConfig)
			c.pass(100 * time.Millisecond)
			c.update(418)
			c.settle()
			end(c)
			c.join()
			c.pass(10 * time.Millisecond)
			c.inForce(0)
			c.pass(2 * missesUntilLed * signPeriod)
			c.inForce(0)
			if tag, given := c.asking().headers["if-none-match"]; given {
				t.Errorf("the request has the tag %s", tag)
			}
			c.update(418)
			c.inForce(418)
		})
	}
}

// TestForeignSharedData checks that whatever is in the shared data, the VMs survive it, and have
// the daemon's policies in force soon after.
func TestForeignSharedData(t *testing.T) {
	alien := group.Record{Leader: "00000000000000aa", Confirmations: 5, ConfirmedAt: 1, Tag: `"v1:x"`}
	alien.Join(alien.Leader)
	odd := group.Record{Leader: alien.Leader}
	for i, tag := range []string{`"v1:x`, `x"`, `"`, `"a,b"`, "gone", `"a"="b"`} {
		odd.Join(fmt.Sprintf("%016x", i)).Tag = tag
	}
	forged := group.Program{Tag: `"v1:x"`, Encoded: []byte("hfi")}
	for name, contents := range map[string]map[string][]byte{
		"empty":               {"group": {}, "program": {}},
		"garbage":             {"group": []byte("hfg1 garbage"), "program": []byte("hfp1 garbage")},
		"long":                {"group": make([]byte, 1<<20), "program": make([]byte, 1<<20)},
		"another leader":      {"group": alien.Encode()},
		"odd ETags":           {"group": odd.Encode()},
		"an invalid program":  {"group": alien.Encode(), "program": forged.Encode()},
		"a truncated program": {"program": []byte("hfp1\x05abc")},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrew(t, 3, frontendConfig)
			c.pass(100 * time.Millisecond)
			c.update(418)
			c.settle()
			share := &c.threads[0].vm.plugins[0].poll.share
			for kind, data := range contents {
				_, cas, _ := proxywasm.GetSharedData(share.name(kind))
				if err := proxywasm.SetSharedData(share.name(kind), data, cas); err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				c.pass(time.Second)
				for _, thread := range c.threads {
					if thread.call >= 0 {
						for named := range strings.SplitSeq(thread.headers[api.HeaderVMs], ",") {
							if named != "" && !regexp.MustCompile(`^[0-9a-f]{16}(=none|=gone|="[^"]*")?$`).MatchString(named) {
								t.Errorf("a request names %q", named)
							}
						}
						c.answer(thread, "304", nil, "")
					}
				}
			}
			c.inForce(418)
			c.pass(maxBackoff)
			c.update(419)
			c.inForce(419)
			c.join()
			c.pass(5 * time.Second)
			c.inForce(419)
			if errors := c.GetErrorLogs(); len(errors) > 0 {
				t.Errorf("errors: %v", errors)
			}
		})
	}
}

// TestManyNotes checks that a VM looks at the record once for all notes that are there: anyone
// with the same vm_id can send them.
func TestManyNotes(t *testing.T) {
	c := newCrew(t, 3, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	share := &c.asking().vm.plugins[0].poll.share
	before, _, err := share.load()
	if err != nil || len(before.Members) != 3 {
		t.Fatalf("%d members: %v", len(before.Members), err)
	}
	c.run(c.threads[0], func() {
		for range maxNotes / 2 {
			share.record = before
			share.wakeAll()
		}
	})
	after, _, _ := share.load()
	for i, m := range after.Members {
		want := before.Members[i].Beat + 1
		if m.ID == share.poll.vm.id {
			want--
		}
		if m.Beat != want {
			t.Errorf("VM %s has signed %d times", m.ID, m.Beat-before.Members[i].Beat)
		}
	}
	c.update(419) // They still get notes.
	c.inForce(419)
}

// TestARecordFullOfDeadVMs checks that a VM takes the place of dead ones that nobody has removed.
func TestARecordFullOfDeadVMs(t *testing.T) {
	c := newCrew(t, 1, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.trap(c.threads[0])
	c.fill()
	joined := c.join()
	c.pass((looksForRoom + missesUntilLed) * signPeriod)
	if share := &joined.vm.plugins[0].poll.share; share.alone || !share.leads {
		t.Fatalf("the VM is alone: %v, leads: %v", share.alone, share.leads)
	}
	c.update(419)
	c.inForce(419)
}

// TestARecordFullOfVMs checks that a VM asks by itself if there is no room for it.
func TestARecordFullOfVMs(t *testing.T) {
	c := newCrew(t, 1, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.fill()
	joined := c.join()
	for range looksForRoom * signPeriod / time.Second {
		c.beat()
		c.pass(time.Second)
	}
	if !joined.vm.plugins[0].poll.share.alone || joined.call < 0 {
		t.Fatal("the VM does not ask by itself")
	}
	if others, given := joined.headers[api.HeaderVMs]; given {
		t.Errorf("it asks for %s too", others)
	}
}

// TestALaterRevisionOfTheSamePolicies checks that a VM that has missed a change and its revert
// does not ask with the old revision when it leads.
func TestALaterRevisionOfTheSamePolicies(t *testing.T) {
	c := newCrew(t, 2, frontendConfig)
	c.pass(100 * time.Millisecond)
	c.update(418)
	c.settle()
	leader, slow := c.asking(), c.threads[0]
	if slow == leader {
		slow = c.threads[1]
	}
	slow.gone = true
	c.update(419)
	c.pass(2 * gatherLimit)
	body := compile(t, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":418}}}]}}]}`)
	c.answer(leader, "200", map[string]string{"etag": tagOf(418), "x-hfi-commit": "c", "x-hfi-revision": "r-reverted"}, body)
	slow.gone = false
	c.pass(2 * signPeriod)
	c.trap(leader)
	c.pass(2 * missesUntilLed * signPeriod)
	if headers := c.asking().headers; headers["if-none-match"] != tagOf(418) || headers[api.HeaderRevision] != "r-reverted" {
		t.Errorf("the next leader asks with %v", headers)
	}
}
