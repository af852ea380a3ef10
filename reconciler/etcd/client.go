package etcd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Access is how to reach an external cluster.
type Access struct {
	// Endpoints are URLs or HOST:PORT.
	Endpoints []string
	// CAFile, CertFile and KeyFile are PEM files for TLS; CertFile and KeyFile go together.
	CAFile, CertFile, KeyFile string
	// Username and PasswordFile go together. The password is the file's content without surrounding white space.
	Username, PasswordFile string
}

// config reads the files that a names.
func (a Access) config() (clientv3.Config, error) {
	config := clientv3.Config{Endpoints: a.Endpoints, Username: a.Username}
	if len(a.Endpoints) == 0 {
		return config, errors.New("no etcd endpoint is given")
	}
	if (a.CertFile == "") != (a.KeyFile == "") {
		return config, errors.New("a client certificate for etcd needs both its certificate file and its key file")
	}
	if (a.Username == "") != (a.PasswordFile == "") {
		return config, errors.New("a user for etcd needs both the user's name and a password file")
	}
	if a.PasswordFile != "" {
		password, err := os.ReadFile(a.PasswordFile)
		if err != nil {
			return config, fmt.Errorf("reading the password for etcd: %w", err)
		}
		config.Password = strings.TrimSpace(string(password))
		if config.Password == "" {
			return config, fmt.Errorf("the password file for etcd, %s, is empty", a.PasswordFile)
		}
	}
	if a.CAFile != "" || a.CertFile != "" {
		settings, err := a.tls()
		if err != nil {
			return config, err
		}
		config.TLS = settings
	}
	return config, nil
}

// files are those that are read for access.
func (a Access) files() []string { return []string{a.CAFile, a.CertFile, a.KeyFile, a.PasswordFile} }

func (a Access) hasFiles() bool {
	return slices.ContainsFunc(a.files(), func(path string) bool { return path != "" })
}

// fingerprint identifies the content of the files.
func (a Access) fingerprint() [32]byte {
	sum := sha256.New()
	for _, path := range a.files() {
		var content []byte
		if path != "" {
			content, _ = os.ReadFile(path) // A file that cannot be read is one that has changed.
		}
		fmt.Fprintf(sum, "%d:", len(content))
		sum.Write(content)
	}
	return [32]byte(sum.Sum(nil))
}

func (a Access) tls() (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		text, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA file for etcd: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("the CA file for etcd, %s, contains no PEM certificate", a.CAFile)
		}
	}
	if a.CertFile != "" {
		// Read again at each handshake, so that certificates can be renewed in place.
		load := func() (*tls.Certificate, error) {
			certificate, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
			return &certificate, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("reading the client certificate for etcd: %w", err)
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return settings, nil
}

// maxMessage bounds one message of etcd's. The largest page that hfi asks for
// is far smaller, unless the values suddenly are larger.
const maxMessage = 16 << 20

// connect creates a client. It waits for etcd only if there is a password, to exchange it for a token.
func (s *Store) connect(ctx context.Context, config clientv3.Config) (*clientv3.Client, error) {
	config.Context = ctx
	config.DialTimeout = s.RequestTimeout
	// 10 s is the shortest that gRPC allows. The probe notices an etcd that hangs sooner.
	config.DialKeepAliveTime, config.DialKeepAliveTimeout = 10*time.Second, 3*time.Second
	config.MaxCallRecvMsgSize = maxMessage
	config.Logger = zap.NewNop()
	// gRPC's own back-off goes up to two minutes.
	config.DialOptions = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 3 * time.Second,
	})}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, s.diagnose(config, err)
	}
	return client, nil
}
