package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/internal/version"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/etcd"
)

// options are the daemon's settings, one for each flag.
type options struct {
	repo, branch, path, listen, dataDir, replica string
	advertise, filter                            string
	interval, gitTimeout, terminationDelay       time.Duration
	drift, logLevel, logFormat, limits           string

	etcdPrefix, etcdListen string
	stateKeyFile           string
	etcd                   etcd.Access

	gitTokenFile, gitUsername, gitPasswordFile string
	gitSSHKeyFile, gitSSHPassphraseFile        string
	gitKnownHostsFile, gitCA                   string
	gitClientCertFile, gitClientKeyFile        string
	gitVerifySigners, gitVerifyKeyring         string
	gitVerify                                  string
	gitApprovers                               []string
	webhookSecretFile                          string
	allowedHosts                               []string

	kube kubeOptions
}

// noStateKey is the value of --state-key-file to do without a key.
const noStateKey = "none"

const environmentPrefix = "HFID_"

func newCommand() *cobra.Command {
	var o options
	command := &cobra.Command{
		Use:   "hfid",
		Short: "Serve HTTP fault policies from a git repository",
		Long: `hfid follows a branch of a git repository, validates every commit's fault
policies with CUE, publishes them to etcd, and serves them to filters.

Every flag can also be set in the environment: HFID_DATA_DIR sets --data-dir.
An empty variable counts as unset, and blanks around values are ignored.

The exit code is 0 after SIGTERM or SIGINT, 1 after a failure, and 2 if a flag or a
variable is wrong.`,
		Example: `  hfid --repo /srv/policies.git
  hfid --repo https://git.example.com/team/policies.git --git-token-file /run/secrets/token --interval 15s
  hfid --repo git@git.example.com:team/policies.git --git-ssh-key-file id --git-known-hosts-file known_hosts \
       --etcd-endpoints https://etcd-0:2379,https://etcd-1:2379 --etcd-ca-file ca.pem --state-key-file state-key`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Get().String(),
		PersistentPreRunE: func(command *cobra.Command, _ []string) error {
			return errors.Join(fromEnvironment(command.Flags()), trim(command.Flags()))
		},
		RunE: func(command *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			ctx, cancel := delayed(command.Context(), o.terminationDelay)
			defer cancel()
			if err := run(ctx, o); err != nil {
				return &runError{err}
			}
			return nil
		},
	}
	command.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	o.bind(command.Flags())
	return command
}

func (o *options) bind(flags *pflag.FlagSet) {
	hostname, _ := os.Hostname()
	flags.StringVar(&o.repo, "repo", "", "the policy repository: a folder, or a URL (https, ssh, file); required")
	flags.StringVar(&o.branch, "branch", "main", "branch to follow, or a full reference such as refs/tags/v1")
	flags.StringVar(&o.path, "path", "policies", "folder of the policies in the repository; . is the whole repository")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "HOST:PORT to serve HTTP on")
	flags.StringVar(&o.dataDir, "data-dir", "hfid-data", "folder for the daemon's data; each daemon needs its own")
	flags.StringVar(&o.replica, "replica-id", hostname, "unique name of this replica")
	flags.StringVar(&o.advertise, "advertise", "", "base URL at which other replicas reach this one (default: that of --listen, if it has a host)")
	flags.StringVar(&o.filter, "filter", "", "file with the Wasm module of the filter to serve (default: filter.wasm in the folder of this program, if it exists)")
	flags.DurationVar(&o.interval, "interval", reconciler.DefaultInterval, "time between two fetches from git")
	flags.DurationVar(&o.gitTimeout, "git-timeout", time.Minute, "timeout of one git operation")
	flags.DurationVar(&o.terminationDelay, "termination-delay", 0, "time to continue to work after SIGTERM or SIGINT, until all proxies know that this replica ends")
	flags.StringVar(&o.drift, "drift", reconciler.ReportDrift, "what to do if etcd differs from the published policies: report or heal")
	flags.StringVar(&o.limits, "limits", "", "CUE file with limits for all policies, besides the repository's own limits.cue; read again when it changes (default: none)")
	flags.StringVar(&o.logLevel, "log-level", "info", "minimum level to log: debug, info, warn or error")
	flags.StringVar(&o.logFormat, "log-format", textLog, "format of the log on standard error: text or json")
	flags.StringVar(&o.etcdPrefix, "etcd-prefix", "/hfi", "prefix of all keys in etcd")
	flags.StringSliceVar(&o.etcd.Endpoints, "etcd-endpoints", nil, "comma-separated URLs of an etcd cluster (default: the embedded etcd)")
	flags.StringVar(&o.etcdListen, "etcd-listen", etcd.DefaultListen, "HOST:PORT on which the embedded etcd serves clients; port 0 is any free port")
	flags.StringVar(&o.etcd.CAFile, "etcd-ca-file", "", "PEM file with the CA certificates of the etcd cluster (default: those of the system)")
	flags.StringVar(&o.etcd.CertFile, "etcd-cert-file", "", "PEM file with the client certificate for etcd (default: none)")
	flags.StringVar(&o.etcd.KeyFile, "etcd-key-file", "", "PEM file with the private key of --etcd-cert-file (default: none)")
	flags.StringVar(&o.etcd.Username, "etcd-username", "", "user name for etcd (default: none)")
	flags.StringVar(&o.etcd.PasswordFile, "etcd-password-file", "", "file with the password of --etcd-username, read again when it changes (default: none)")
	flags.StringVar(&o.stateKeyFile, "state-key-file", "", "file with the key that signs what is kept in etcd and on disk, the same for all replicas, read again when it changes, or none to do without; required with --etcd-endpoints (default: one that is created in --data-dir)")
	flags.StringVar(&o.gitTokenFile, "git-token-file", "", "file with a bearer token for git over HTTPS (default: none)")
	flags.StringVar(&o.gitUsername, "git-username", "", "user name for git over HTTPS, used with --git-password-file (default: none)")
	flags.StringVar(&o.gitPasswordFile, "git-password-file", "", "file with the password of --git-username (default: none)")
	flags.StringVar(&o.gitSSHKeyFile, "git-ssh-key-file", "", "file with the private key for git over SSH, which requires it (default: none)")
	flags.StringVar(&o.gitSSHPassphraseFile, "git-ssh-passphrase-file", "", "file with the passphrase of --git-ssh-key-file, if that is encrypted (default: none)")
	flags.StringVar(&o.gitKnownHostsFile, "git-known-hosts-file", "", "file with the known hosts for git over SSH, which requires it (default: none)")
	flags.StringVar(&o.gitCA, "git-ca-file", "", "PEM file with the CA certificates of the git server (default: those of the system)")
	flags.StringVar(&o.gitClientCertFile, "git-client-cert-file", "", "PEM file with the client certificate for the git server (default: none)")
	flags.StringVar(&o.gitClientKeyFile, "git-client-key-file", "", "PEM file with the private key of --git-client-cert-file (default: that file)")
	flags.StringVar(&o.gitVerifySigners, "git-verify-signers", "", "file of allowed signers (see ssh-keygen(1)) who may sign commits with SSH keys; read again when it changes (default: none)")
	flags.StringVar(&o.gitVerifyKeyring, "git-verify-keyring", "", "file with the OpenPGP keys, armored or binary, that may sign commits; read again when it changes (default: none)")
	flags.StringVar(&o.gitVerify, "git-verify", string(reconciler.VerifyHead), "which commits must be signed, with --git-verify-signers or --git-verify-keyring: head or all (all commits since the last applied one)")
	flags.StringSliceVar(&o.gitApprovers, "git-approvers", nil, "comma-separated signers whose trailers lift the guard against pruning: principals of --git-verify-signers, e-mail addresses of --git-verify-keyring, or fingerprints of keys (default: everybody)")
	flags.StringVar(&o.webhookSecretFile, "webhook-secret-file", "", "file with the secret that authenticates POST /v1/webhook and POST /v1/reconcile (default: none)")
	flags.StringSliceVar(&o.allowedHosts, "allowed-hosts", nil, "comma-separated further host names of this daemon, for a --listen on a loopback address behind a proxy; * is any (default: those of this machine and of a cluster)")
	o.kube.bind(flags)
}

// fromEnvironment sets flags that were not given, and returns an error for
// HFID_ names without a flag: they would otherwise be ignored silently.
func fromEnvironment(flags *pflag.FlagSet) error {
	known := map[string]*pflag.Flag{}
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "help" || flag.Name == "version" {
			return // cobra's own, which are no settings
		}
		known[environmentPrefix+strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))] = flag
	})
	var problems []error
	for _, setting := range os.Environ() {
		name, value, _ := strings.Cut(setting, "=")
		value = strings.TrimSpace(value)
		if !strings.HasPrefix(name, environmentPrefix) || value == "" {
			continue
		}
		flag, ok := known[name]
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("environment variable %s has no flag: see hfid --help", name))
		case !flag.Changed:
			if err := flags.Set(flag.Name, value); err != nil {
				problems = append(problems, fmt.Errorf("environment variable %s: %w", name, err))
			}
		}
	}
	return errors.Join(problems...)
}

// trim removes blanks around the values of flags, and empty elements of lists: a
// variable that is read from a file ends with a line end, and lists are written with
// a blank after each comma.
func trim(flags *pflag.FlagSet) error {
	var problems []error
	flags.VisitAll(func(flag *pflag.Flag) {
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			values := list.GetSlice()
			for i, value := range values {
				values[i] = strings.TrimSpace(value)
			}
			problems = append(problems, list.Replace(slices.DeleteFunc(values, func(value string) bool { return value == "" })))
			return
		}
		if flag.Value.Type() == "string" {
			problems = append(problems, flag.Value.Set(strings.TrimSpace(flag.Value.String())))
		}
	})
	return errors.Join(problems...)
}

// verifies reports whether signatures of commits are to be verified.
func (o *options) verifies() bool { return o.gitVerifySigners != "" || o.gitVerifyKeyring != "" }

func (o *options) check() error {
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.repo == "" {
		refuse("--repo is required: the folder or URL of the policy repository")
	}
	if o.branch == "" {
		refuse("--branch must not be empty")
	}
	if o.drift != reconciler.ReportDrift && o.drift != reconciler.HealDrift {
		refuse("--drift must be report or heal, not %q", o.drift)
	}
	if mode := reconciler.VerifyMode(o.gitVerify); mode != reconciler.VerifyHead && mode != reconciler.VerifyAll {
		refuse("--git-verify must be head or all, not %q", o.gitVerify)
	}
	if (o.gitVerify == string(reconciler.VerifyAll) || len(o.gitApprovers) > 0) && !o.verifies() {
		refuse("--git-verify=all and --git-approvers need the keys of signers: give --git-verify-signers or --git-verify-keyring")
	}
	if o.interval < 100*time.Millisecond {
		refuse("--interval must be 100ms or more, not %s", o.interval)
	}
	if o.gitTimeout <= 0 {
		refuse("--git-timeout must be positive, not %s", o.gitTimeout)
	}
	if o.terminationDelay < 0 {
		refuse("--termination-delay must not be negative, as %s is", o.terminationDelay)
	}
	if o.replica == "" {
		refuse("--replica-id must not be empty")
	}
	if address, err := url.Parse(o.advertise); o.advertise != "" &&
		(err != nil || address.Host == "" || address.Scheme != "http" && address.Scheme != "https" || address.RawQuery != "" || address.User != nil) {
		refuse("--advertise must be a base URL such as http://10.0.0.7:8080, not %q", o.advertise)
	}
	o.branch = strings.TrimPrefix(o.branch, "refs/heads/")
	o.path = filepath.ToSlash(filepath.Clean(o.path))
	if strings.HasPrefix(o.path, "/") || o.path == ".." || strings.HasPrefix(o.path, "../") {
		refuse("--path must be a folder in the repository, not %q", o.path)
	}
	if o.etcdPrefix = strings.TrimRight(o.etcdPrefix, "/"); o.etcdPrefix == "" {
		refuse("--etcd-prefix must not be empty: hfid could not tell its keys from those of other programs")
	}
	if len(o.etcd.Endpoints) > 0 && o.stateKeyFile == "" {
		refuse("--etcd-endpoints needs --state-key-file: a file with a key that all replicas share and etcd does not have, so that nobody else changes what is served; make it once with %q, or write none to trust everyone who can write to etcd", statekey.HowToMake)
	}
	if _, err := newLogger(io.Discard, o.logLevel, o.logFormat); err != nil {
		problems = append(problems, err)
	}
	problems = append(problems, o.kube.check()...)
	return errors.Join(problems...)
}
