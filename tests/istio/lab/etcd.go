//go:build linux

package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Etcd is an etcd server with TLS that asks for client certificates.
type Etcd struct {
	// Endpoint is its URL for clients.
	Endpoint string
	// CA, Certificate and Key are the paths of a client's PEM files.
	CA, Certificate, Key string
}

// Arguments are etcdctl's arguments for this server.
func (e Etcd) Arguments() []string {
	return []string{"--endpoints", e.Endpoint, "--cacert", e.CA, "--cert", e.Certificate, "--key", e.Key}
}

// startEtcd starts an etcd outside of the cluster, for the daemon.
func (l *Lab) startEtcd(ctx context.Context) error {
	folder := filepath.Join(l.folder, "etcd")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	l.Etcd = Etcd{
		Endpoint: "https://" + host + ":2479",
		CA:       filepath.Join(folder, "ca.crt"), Certificate: filepath.Join(folder, "tls.crt"), Key: filepath.Join(folder, "tls.key"),
	}
	if err := l.Etcd.writeCertificates(); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	server, err := l.startServer("etcd", l.command("etcd", "--data-dir", filepath.Join(folder, "data"), "--log-level", "error",
		"--listen-client-urls", l.Etcd.Endpoint, "--advertise-client-urls", l.Etcd.Endpoint,
		"--listen-peer-urls", "http://127.0.0.1:2480", "--initial-advertise-peer-urls", "http://127.0.0.1:2480", "--initial-cluster", "default=http://127.0.0.1:2480",
		"--client-cert-auth", "--trusted-ca-file", l.Etcd.CA, "--cert-file", l.Etcd.Certificate, "--key-file", l.Etcd.Key))
	if err != nil {
		return err
	}
	return await(ctx, "etcd", time.Minute, server, func() error {
		_, err := run(ctx, l.command("etcdctl", append(l.Etcd.Arguments(), "endpoint", "health")...))
		return err
	})
}

// Etcdctl runs etcdctl on the daemon's etcd.
func (l *Lab) Etcdctl(ctx context.Context, arguments ...string) (string, error) {
	return run(ctx, l.command("etcdctl", append(l.Etcd.Arguments(), arguments...)...))
}

// writeCertificates creates a CA and one certificate for server and clients.
func (e Etcd) writeCertificates() error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.ParseIP(host)},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	certificate, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for path, block := range map[string]*pem.Block{
		e.CA:          {Type: "CERTIFICATE", Bytes: signed},
		e.Certificate: {Type: "CERTIFICATE", Bytes: certificate},
		e.Key:         {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
