//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const clusterDomain = ".svc.cluster.local."

// serveNames is the cluster's DNS server, at the host's address.
func (s *services) serveNames(ctx context.Context) error {
	socket, err := net.ListenPacket("udp4", host+":53")
	if err != nil {
		return fmt.Errorf("listening for DNS: %w", err)
	}
	context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		question := make([]byte, 1500)
		for {
			length, from, err := socket.ReadFrom(question)
			if err != nil {
				return
			}
			if answer, err := s.answer(question[:length]); err == nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
	return nil
}

// answer resolves names in the cluster to IPv4 addresses. All other names do not exist.
func (s *services) answer(packet []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(packet); err != nil {
		return nil, err
	}
	if len(message.Questions) != 1 {
		return nil, fmt.Errorf("%d questions", len(message.Questions))
	}
	question := message.Questions[0]
	message.Response, message.Authoritative, message.RecursionAvailable = true, true, true
	message.Answers, message.Authorities, message.Additionals = nil, nil, nil
	name, inside := strings.CutSuffix(strings.ToLower(question.Name.String()), clusterDomain)
	addresses := s.lookup(name)
	if !inside || len(addresses) == 0 {
		message.RCode = dnsmessage.RCodeNameError
		return message.Pack()
	}
	if question.Type == dnsmessage.TypeA {
		for _, address := range addresses {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: address.As4()},
			})
		}
	}
	return message.Pack()
}
