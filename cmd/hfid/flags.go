package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/boifi/hfi/internal/version"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/etcd"
)

// options are the daemon's settings, one for each flag.
type options struct {
	repo, branch, path, listen, dataDir, replica string
	advertise, filter                            string
	interval, gitTimeout                         time.Duration
	drift, logLevel                              string

	etcdPrefix, etcdListen string
	etcd                   etcd.Access

	gitTokenFile, gitUsername, gitPasswordFile string
	gitSSHKeyFile, gitSSHPassphraseFile        string
	gitKnownHostsFile, gitCA                   string
	gitClientCertFile, gitClientKeyFile        string
	webhookSecretFile                          string

	kube kubeOptions
}

const environmentPrefix = "HFID_"

func newCommand() *cobra.Command {
	var o options
	command := &cobra.Command{
		Use:   "hfid",
		Short: "Serve HTTP fault policies from a git repository",
		Long: `hfid follows a branch of a git repository, validates every commit's fault
policies with CUE, publishes them to etcd, and serves them to filters.

Every flag may also be given in the environment: --data-dir is HFID_DATA_DIR.`,
		Example: `  hfid --repo /srv/policies.git
  hfid --repo https://git.example.com/team/policies.git --git-token-file /run/secrets/token --interval 15s
  hfid --repo git@git.example.com:team/policies.git --git-ssh-key-file id --git-known-hosts-file known_hosts \
       --etcd-endpoints https://etcd-0:2379,https://etcd-1:2379 --etcd-ca-file ca.pem`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Get().String(),
		PersistentPreRunE: func(command *cobra.Command, _ []string) error {
			return fromEnvironment(command.Flags())
		},
		RunE: func(command *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return run(command.Context(), o)
		},
	}
	command.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	o.bind(command.Flags())
	return command
}

func (o *options) bind(flags *pflag.FlagSet) {
	hostname, _ := os.Hostname()
	flags.StringVar(&o.repo, "repo", "", "the policy repository: a folder, or a URL (https, ssh, file)")
	flags.StringVar(&o.branch, "branch", "main", "the branch to follow")
	flags.StringVar(&o.path, "path", "policies", "the folder of policies in the repository; . is all of it")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "HOST:PORT to serve HTTP on")
	flags.StringVar(&o.dataDir, "data-dir", "hfid-data", "the folder for the daemon's own data; one daemon each")
	flags.StringVar(&o.replica, "replica-id", hostname, "this replica's unique name among the replicas")
	flags.StringVar(&o.advertise, "advertise", "", "this replica's base URL for the other replicas; by default that of --listen, if it names a host")
	flags.StringVar(&o.filter, "filter", "", "file with the filter's Wasm module to serve; by default filter.wasm beside this program, if it exists")
	flags.DurationVar(&o.interval, "interval", reconciler.DefaultInterval, "the time between two fetches from git")
	flags.DurationVar(&o.gitTimeout, "git-timeout", time.Minute, "the time limit for one git operation")
	flags.StringVar(&o.drift, "drift", reconciler.ReportDrift, "what to do if etcd differs from the published policies: report or heal")
	flags.StringVar(&o.logLevel, "log-level", "info", "the least level to log: debug, info, warn or error")
	flags.StringVar(&o.etcdPrefix, "etcd-prefix", "/hfi", "the prefix of all keys in etcd")
	flags.StringSliceVar(&o.etcd.Endpoints, "etcd-endpoints", nil, "URLs of an etcd cluster; without any, this process runs an embedded etcd")
	flags.StringVar(&o.etcdListen, "etcd-listen", etcd.DefaultListen, "HOST:PORT for clients of the embedded etcd; port 0 is any free port")
	flags.StringVar(&o.etcd.CAFile, "etcd-ca-file", "", "PEM file with the certificate authority of the etcd cluster")
	flags.StringVar(&o.etcd.CertFile, "etcd-cert-file", "", "PEM file with this client's certificate for etcd")
	flags.StringVar(&o.etcd.KeyFile, "etcd-key-file", "", "PEM file with the key of --etcd-cert-file")
	flags.StringVar(&o.etcd.Username, "etcd-username", "", "the user for etcd")
	flags.StringVar(&o.etcd.PasswordFile, "etcd-password-file", "", "file with the password of --etcd-username")
	flags.StringVar(&o.gitTokenFile, "git-token-file", "", "file with a bearer token for HTTPS")
	flags.StringVar(&o.gitUsername, "git-username", "", "the user for HTTPS, with --git-password-file")
	flags.StringVar(&o.gitPasswordFile, "git-password-file", "", "file with the password of --git-username")
	flags.StringVar(&o.gitSSHKeyFile, "git-ssh-key-file", "", "file with the private key for SSH")
	flags.StringVar(&o.gitSSHPassphraseFile, "git-ssh-passphrase-file", "", "file with the passphrase of --git-ssh-key-file, if that is encrypted")
	flags.StringVar(&o.gitKnownHostsFile, "git-known-hosts-file", "", "file with the known hosts for SSH")
	flags.StringVar(&o.gitCA, "git-ca-file", "", "PEM file with the certificate authority of the git server")
	flags.StringVar(&o.gitClientCertFile, "git-client-cert-file", "", "PEM file with this client's certificate for the git server")
	flags.StringVar(&o.gitClientKeyFile, "git-client-key-file", "", "PEM file with the key of --git-client-cert-file; by default that file")
	flags.StringVar(&o.webhookSecretFile, "webhook-secret-file", "", "file with the secret that authenticates requests of POST /v1/webhook")
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
		if !strings.HasPrefix(name, environmentPrefix) {
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

func (o *options) check() error {
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.repo == "" {
		refuse("--repo is missing: give the policy repository's folder or URL")
	}
	if o.branch == "" {
		refuse("--branch must not be empty")
	}
	if o.drift != reconciler.ReportDrift && o.drift != reconciler.HealDrift {
		refuse("--drift must be report or heal, not %q", o.drift)
	}
	if o.interval < 100*time.Millisecond {
		refuse("--interval must be 100ms or more, not %s", o.interval)
	}
	if o.gitTimeout <= 0 {
		refuse("--git-timeout must be positive, not %s", o.gitTimeout)
	}
	if o.replica == "" {
		refuse("--replica-id must not be empty")
	}
	if address, err := url.Parse(o.advertise); o.advertise != "" &&
		(err != nil || address.Host == "" || address.Scheme != "http" && address.Scheme != "https" || address.RawQuery != "" || address.User != nil) {
		refuse("--advertise must be a base URL such as http://10.0.0.7:8080, not %q", o.advertise)
	}
	o.path = filepath.ToSlash(filepath.Clean(o.path))
	if strings.HasPrefix(o.path, "/") || o.path == ".." || strings.HasPrefix(o.path, "../") {
		refuse("--path must be a folder in the repository, not %q", o.path)
	}
	if o.etcdPrefix = strings.TrimRight(o.etcdPrefix, "/"); o.etcdPrefix == "" {
		refuse("--etcd-prefix must not be empty: keys of other programs in that etcd could be taken for those of hfid")
	}
	problems = append(problems, o.kube.check()...)
	return errors.Join(problems...)
}
