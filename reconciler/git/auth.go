package git

import (
	"cmp"
	"encoding/base64"
	"errors"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/boifi/hfi/reconciler"
)

// auth reads the credentials. It is called for each operation, so that files may be replaced.
func (s *Source) auth() (transport.AuthMethod, error) {
	if s.address.ssh != nil {
		return s.sshAuth()
	}
	if s.TokenFile != "" {
		token, err := s.readSecret(s.TokenFile)
		if err != nil {
			return nil, err
		}
		if s.credentials.tokenAsPassword.Load() {
			return s.basicAuth(cmp.Or(s.Username, tokenUser), token), nil
		}
		return &githttp.TokenAuth{Token: token}, nil
	}
	user, password := s.address.user, s.address.password
	if s.Username != "" {
		user = s.Username
	}
	if s.PasswordFile != "" {
		var err error
		if password, err = s.readSecret(s.PasswordFile); err != nil {
			return nil, err
		}
	}
	if user == "" && password == "" {
		return nil, nil
	}
	return s.basicAuth(user, password), nil
}

// basicAuth returns basic authentication, and adds its encoded form to the secrets.
func (s *Source) basicAuth(user, password string) *githttp.BasicAuth {
	s.credentials.remember(base64.StdEncoding.EncodeToString([]byte(user + ":" + password)))
	return &githttp.BasicAuth{Username: user, Password: password}
}

func (s *Source) sshAuth() (transport.AuthMethod, error) {
	if s.KnownHostsFile == "" {
		return nil, fail("HostKeyUnknown", reconciler.Stalled, "SSH needs the server's key: give --git-known-hosts-file")
	}
	if s.SSHKeyFile == "" {
		return nil, fail("AuthenticationFailed", reconciler.Stalled, "SSH needs a private key: give --git-ssh-key-file")
	}
	keys, err := s.sshKeys()
	if err != nil {
		return nil, err
	}
	known, err := s.knownHostsNow()
	var unwritable *reconciler.SourceError
	switch {
	case errors.As(err, &unwritable):
		return nil, unwritable
	case err != nil:
		return nil, fail("HostKeyUnknown", reconciler.Stalled, "reading the known hosts in %s: %w", s.KnownHostsFile, err)
	}
	keys.HostKeyCallback = known.HostKeyCallback()
	// A server with several keys must present one that is in the known hosts.
	keys.HostKeyAlgorithms = known.HostKeyAlgorithms(s.address.ssh.hostPort())
	return &timedKeys{PublicKeys: keys, source: s}, nil
}

// sshKeys reads the private key.
func (s *Source) sshKeys() (*gitssh.PublicKeys, error) {
	key, err := os.ReadFile(s.SSHKeyFile)
	if err != nil {
		return nil, fail("AuthenticationFailed", reconciler.Stalled, "reading the SSH key: %w", err)
	}
	passphrase := s.address.password
	if s.SSHPassphraseFile != "" {
		if passphrase, err = s.readSecret(s.SSHPassphraseFile); err != nil {
			return nil, err
		}
	}
	keys, err := gitssh.NewPublicKeys(s.address.ssh.user, key, passphrase)
	if err == nil {
		return keys, nil
	}
	encrypted := (*ssh.PassphraseMissingError)(nil)
	if _, plain := ssh.ParseRawPrivateKey(key); !errors.As(plain, &encrypted) {
		return nil, fail("AuthenticationFailed", reconciler.Stalled, "the SSH key in %s cannot be used: %w", s.SSHKeyFile, err)
	}
	if passphrase == "" {
		return nil, fail("AuthenticationFailed", reconciler.Stalled, "the SSH key in %s is encrypted: give its passphrase by --git-ssh-passphrase-file", s.SSHKeyFile)
	}
	return nil, fail("AuthenticationFailed", reconciler.Stalled, "the passphrase does not decrypt the SSH key in %s: %w", s.SSHKeyFile, err)
}

// timedKeys limit the time to connect: go-git does not pass the context to SSH.
type timedKeys struct {
	*gitssh.PublicKeys
	source *Source
}

func (k *timedKeys) ClientConfig() (*ssh.ClientConfig, error) {
	config, err := k.PublicKeys.ClientConfig()
	if err == nil {
		config.Timeout = k.source.Timeout
	}
	return config, err
}

func (s *Source) readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fail("AuthenticationFailed", reconciler.Stalled, "reading the credentials: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fail("AuthenticationFailed", reconciler.Stalled, "the credentials file %s is empty", file)
	}
	s.credentials.remember(secret)
	return secret, nil
}

// secrets returns the texts that must not appear in a message.
func (s *Source) secrets() []string {
	secrets := s.credentials.secrets()
	if s.address.password != "" {
		secrets = append(secrets, s.address.password)
	}
	return secrets
}

// readFile returns a file's content, and nothing for no file.
func readFile(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	return os.ReadFile(name)
}
