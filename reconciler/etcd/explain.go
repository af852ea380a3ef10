package etcd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// diagnose explains an error. If the client only reports a timeout, it connects
// to the endpoints to find the reason.
func (s *Store) diagnose(config clientv3.Config, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Unavailable {
		return explain(err)
	}
	for _, endpoint := range config.Endpoints {
		ctx, cancel := context.WithTimeout(s.ctx, time.Second)
		reason := probeTLS(ctx, endpoint, config.TLS)
		cancel()
		if reason != nil {
			return explain(fmt.Errorf("%s: %w", endpoint, reason))
		}
	}
	return explain(err)
}

// probeTLS connects to an endpoint and returns what is wrong with the connection
// or its encryption, or nil if it finds nothing.
func probeTLS(ctx context.Context, endpoint string, settings *tls.Config) error {
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		scheme, address = "", endpoint
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimRight(address, "/"))
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return fmt.Errorf("connecting: %w", err)
	}
	defer connection.Close()
	deadline := time.Now().Add(500 * time.Millisecond)
	_ = connection.SetDeadline(deadline)
	encrypted := scheme == "https" || scheme == "" && settings != nil
	if settings == nil || !encrypted {
		settings = &tls.Config{InsecureSkipVerify: !encrypted}
	}
	settings = settings.Clone()
	if settings.ServerName == "" {
		settings.ServerName, _, _ = net.SplitHostPort(address)
	}
	settings.NextProtos = []string{"h2"}
	channel := tls.Client(connection, settings)
	err = channel.HandshakeContext(ctx)
	if !encrypted {
		if err == nil {
			return errExpectsTLS
		}
		return nil
	}
	if err != nil && answersPlainly(ctx, address) {
		return errNoTLS
	}
	if err == nil {
		// A server rejects a client's certificate only after the handshake.
		_, err = channel.Read(make([]byte, 1))
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("tls: %w", err)
	}
	return nil
}

// answersPlainly reports whether a server that does not finish a TLS handshake
// answers HTTP without TLS, as an etcd does that has no certificate.
func answersPlainly(ctx context.Context, address string) bool {
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimRight(address, "/"))
	if err != nil {
		return false
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := io.WriteString(connection, "GET /version HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(connection, 16<<10)), nil)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	// A server with TLS may say in plain text that it has it.
	return answer.StatusCode != http.StatusBadRequest
}

var (
	errExpectsTLS = errors.New("the endpoint expects TLS")
	errNoTLS      = errors.New("the endpoint has no TLS")
)

const (
	adviceNoSpace = "etcd's database is full and refuses writes: compact and defragment it, or raise its quota, then run etcdctl alarm disarm"
	adviceCorrupt = "the data of etcd's members differ, so etcd refuses requests: restore the member that differs, then run etcdctl alarm disarm"
)

// transient reports whether a request may succeed if it is made again: it took
// too long, or the member that was asked cannot be reached, has no leader, or
// was left out.
func transient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errLeftOut) {
		return true
	}
	code := status.Code(err)
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code = known.Code()
	}
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// explain adds to an error from etcd what it means and what to do.
func explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	advice := ""
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		advice = adviceNoSpace
	case errors.Is(err, rpctypes.ErrCorrupt):
		advice = adviceCorrupt
	case errors.Is(err, rpctypes.ErrAuthFailed):
		advice = "etcd refused the user name or password: check both"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		advice = "etcd asks for a user: give a user name and a password file"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		advice = "etcd's user may not read and write the keys under the prefix: grant it a role that may"
	case errors.Is(err, rpctypes.ErrTooManyOps):
		advice = "etcd allows too few operations in a transaction: start it with --max-txn-ops 16 or more"
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		advice = "etcd refuses a request of this size: its --max-request-bytes is below the default"
	case errors.Is(err, errNoTLS):
		advice = "etcd has no TLS there: give http:// endpoints, or etcd a certificate"
	case strings.Contains(text, "x509:"), strings.Contains(text, "tls:"), strings.Contains(text, "authentication handshake failed"):
		advice = "the TLS handshake with etcd failed: check the CA, certificate and key files and the https:// of the endpoints"
	case strings.Contains(text, "connection refused"):
		advice = "nothing listens at etcd's endpoints: check that etcd runs, and its address"
	case errors.Is(err, errExpectsTLS):
		advice = "etcd expects TLS: give https:// endpoints and a CA file"
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "DeadlineExceeded"), errors.Is(err, rpctypes.ErrTimeout):
		advice = "etcd did not answer in time: it is unreachable, hangs, or has no leader"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", advice, err)
}
