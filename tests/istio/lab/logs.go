//go:build linux

package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// serveLogs serves "kubectl logs" for the containers of the node, and returns the
// port for the API server. The log of a container has the output of all its
// processes, one after the other.
func (l *Lab) serveLogs(ctx context.Context) (int32, error) {
	certificate, err := ownCertificate()
	if err != nil {
		return 0, fmt.Errorf("making the node's certificate: %w", err)
	}
	listener, err := tls.Listen("tcp", host+":0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return 0, fmt.Errorf("listening for requests for logs: %w", err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		text, err := os.ReadFile(l.logFile(r.PathValue("namespace") + "_" + r.PathValue("pod") + "_" + r.PathValue("container")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		if count, err := strconv.Atoi(r.URL.Query().Get("tailLines")); err == nil {
			lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
			text = []byte(strings.Join(lines[max(len(lines)-count, 0):], "") + "\n")
		}
		_, _ = w.Write(text)
	})
	server := &http.Server{Handler: routes, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	context.AfterFunc(ctx, func() { server.Close() })
	return int32(listener.Addr().(*net.TCPAddr).Port), nil
}

func ownCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.ParseIP(host)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}, err
}
