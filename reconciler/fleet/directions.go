package fleet

import (
	"strings"

	"github.com/boifi/hfi/internal/api"
)

// Directions are those of the requests that a VM's filters see. Zero is inbound alone,
// as for VMs that do not say it.
type Directions uint8

const (
	inboundOnly Directions = iota
	outboundOnly
	bothDirections
)

// DirectionsOf reads the header api.HeaderDirections. What it does not know it ignores.
func DirectionsOf(header string) Directions {
	var inbound, outbound bool
	for name := range strings.SplitSeq(header, ",") {
		switch strings.TrimSpace(name) {
		case api.DirectionInbound:
			inbound = true
		case api.DirectionOutbound:
			outbound = true
		}
	}
	switch {
	case inbound && outbound:
		return bothDirections
	case outbound:
		return outboundOnly
	}
	return inboundOnly
}

func (d Directions) inbound() bool  { return d != outboundOnly }
func (d Directions) outbound() bool { return d == outboundOnly || d == bothDirections }
