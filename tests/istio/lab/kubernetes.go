//go:build linux

package lab

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	adminToken = "lab-administrator"
	apiPort    = "6443"
)

// startKubernetes starts etcd, kube-apiserver and kube-controller-manager, with the
// usual settings: RBAC, the admission plugins, service accounts.
func (l *Lab) startKubernetes(ctx context.Context) error {
	folder := filepath.Join(l.folder, "kubernetes")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	key := filepath.Join(folder, "accounts.key")
	if err := writeKey(key); err != nil {
		return err
	}
	tokens := filepath.Join(folder, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(adminToken+",admin,admin,system:masters\n"), 0o600); err != nil {
		return err
	}
	if _, err := l.startServer("kubernetes-etcd", l.command("etcd", "--data-dir", filepath.Join(folder, "etcd"), "--log-level", "error", "--unsafe-no-fsync")); err != nil {
		return err
	}
	certificates := filepath.Join(folder, "certificates")
	if err := l.startAPIServer(ctx, certificates, key, tokens); err != nil {
		return err
	}
	// The server's certificate is signed by its own CA.
	authority := filepath.Join(certificates, "apiserver.crt")
	if err := l.writeKubeconfig(authority); err != nil {
		return err
	}
	// Its node controllers are disabled: they require a real kubelet's leases.
	controllers := "deployment-controller,replicaset-controller,statefulset-controller,endpoints-controller,endpointslice-controller,serviceaccount-controller," +
		"root-ca-certificate-publisher-controller,namespace-controller,garbage-collector-controller,disruption-controller," +
		"persistentvolumeclaim-protection-controller"
	_, err := l.startServer("kube-controller-manager", l.command("kube-controller-manager", "--kubeconfig", l.Kubeconfig(),
		"--service-account-private-key-file", key, "--root-ca-file", authority, "--controllers", controllers,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--kube-api-qps=500", "--kube-api-burst=500"))
	if err != nil {
		return err
	}
	return await(ctx, "the service account of namespace default", time.Minute, l.servers["kube-controller-manager"], func() error {
		return l.api.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
}

func (l *Lab) startAPIServer(ctx context.Context, certificates, key, tokens string) error {
	server, err := l.startServer("kube-apiserver", l.command("kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379", "--cert-dir", certificates,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file", key, "--service-account-key-file", key,
		"--authorization-mode=RBAC", "--token-auth-file", tokens, "--service-cluster-ip-range", serviceRange,
		"--bind-address=0.0.0.0", "--advertise-address", host, "--secure-port", apiPort, "--allow-privileged=true"))
	if err != nil {
		return err
	}
	l.api = newClient("https://127.0.0.1:"+apiPort, adminToken)
	return await(ctx, "kube-apiserver", 2*time.Minute, server, func() error { return l.api.get(ctx, "/readyz", nil) })
}

// RestartAPIServer stops kube-apiserver for a while and starts it again.
func (l *Lab) RestartAPIServer(ctx context.Context, away time.Duration) error {
	l.servers["kube-apiserver"].stop(10 * time.Second)
	pause(ctx, away)
	folder := filepath.Join(l.folder, "kubernetes")
	return l.startAPIServer(ctx, filepath.Join(folder, "certificates"), filepath.Join(folder, "accounts.key"), filepath.Join(folder, "tokens.csv"))
}

func (l *Lab) writeKubeconfig(authority string) error {
	return os.WriteFile(l.Kubeconfig(), []byte(strings.NewReplacer("HOST", host, "AUTHORITY", authority, "PORT", apiPort, "TOKEN", adminToken).Replace(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://HOST:PORT", certificate-authority: "AUTHORITY"}}]
users: [{name: admin, user: {token: TOKEN}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
`)), 0o600)
}

// writeKey generates the key that signs the tokens of service accounts.
func writeKey(path string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making a key for service accounts: %w", err)
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}
