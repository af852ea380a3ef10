package fleet

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// CanBeReplica reports whether a replica can have that address: not a
// link-local one, at which clouds serve the credentials of a machine, nor one
// of many hosts or of none.
func CanBeReplica(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsGlobalUnicast() || ip.IsLoopback()
}

// NewDialer is a dialer for addresses that come from outside, such as those in
// the replicas' keys in etcd. It refuses those for which CanBeReplica is false,
// also when a name resolves to one.
func NewDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: 10 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err == nil && !CanBeReplica(to.Addr()) {
				err = fmt.Errorf("no connections are made to %s: it is a link-local, multicast or unspecified address", to.Addr())
			}
			return err
		},
	}
}
