package fleet

import (
	"slices"
	"testing"

	"github.com/boifi/hfi/internal/api"
)

func TestDirectionsOf(t *testing.T) {
	for header, want := range map[string]Directions{
		"": inboundOnly, "inbound": inboundOnly, "outbound": outboundOnly, "inbound,outbound": bothDirections, "outbound, inbound": bothDirections,
		"sideways": inboundOnly, "outbound,sideways": outboundOnly, ",": inboundOnly,
	} {
		if got := DirectionsOf(header); got != want {
			t.Errorf("%q: %d, want %d", header, got, want)
		}
	}
}

// A filter has the directions that all of its VMs have that ask.
func TestDirectionsOfAFilter(t *testing.T) {
	for _, test := range []struct {
		vms  []Directions
		want []string
	}{
		{[]Directions{inboundOnly}, []string{api.DirectionInbound}},
		{[]Directions{outboundOnly}, []string{api.DirectionOutbound}},
		{[]Directions{bothDirections, bothDirections}, []string{api.DirectionInbound, api.DirectionOutbound}},
		{[]Directions{bothDirections, inboundOnly}, []string{api.DirectionInbound}},
		{[]Directions{outboundOnly, inboundOnly}, nil},
	} {
		s := newStage(t)
		for i, directions := range test.vms {
			request := s.ask("a", string(rune('1'+i)), "new")
			request.Describe(Description{Directions: directions})
		}
		if items := s.status().Items; len(items) != 1 || !slices.Equal(items[0].Directions, test.want) {
			t.Errorf("VMs with %v: %+v, want %v", test.vms, items, test.want)
		}
	}
}
