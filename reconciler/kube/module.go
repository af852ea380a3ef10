package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// module is what a plugin asks sidecars to load.
type module struct{ url, sha256 string }

// moduleCheck is the result of the last check of a module.
type moduleCheck struct {
	// running is set while a check runs, the first or a later one.
	running bool
	at      time.Time
	// reason is a condition's reason, or empty if nothing is wrong; message is a sentence.
	reason, message string
	// conclusive is set if sidecars get the same result. Otherwise the network
	// may be at fault, and the daemon's path to the module is not a sidecar's.
	conclusive bool
}

// Reasons of the condition Loaded.
const (
	reasonLoaded      = "Loaded"
	reasonLoading     = "Loading"
	reasonNoPods      = "NoPods"
	reasonPodsUnknown = "PodsUnknown"
	reasonNoContact   = "NoContact"
	reasonUnreachable = "UnreachableURL"
	reasonDigest      = "WrongDigest"
)

// checkModule returns what is known of a plugin's module, and starts a check
// in the background if there was none yet. It repeats a check that is older
// than CheckEvery if repeat is set or something was wrong. URLs of this
// control plane need no request; modules that need credentials are not
// checked, because only Istio's agent has those.
func (k *keeper) checkModule(ctx context.Context, plugin *filterPlugin, repeat bool) moduleCheck {
	if servedBy(plugin.url, k.baseURL) {
		return k.checkOwnModule(plugin)
	}
	if _, isImage := imageReference(plugin.url); isImage && plugin.pullSecret || !isImage && !isHTTP(plugin.url) {
		return moduleCheck{}
	}
	at := module{plugin.url, plugin.sha256}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.checks[at]
	if known == nil {
		known = &moduleCheck{}
		k.checks[at] = known
	}
	repeat = repeat || known.reason != ""
	if due := known.at.IsZero() || repeat && k.Now().Sub(known.at) >= k.CheckEvery; due && !known.running {
		known.running = true
		k.tasks.Go(func() {
			found := k.downloadOrResolve(ctx, at)
			k.mu.Lock()
			*known = found
			k.mu.Unlock()
			k.notify()
		})
	}
	return *known
}

// checkOwnModule checks a URL of this control plane without a request.
func (k *keeper) checkOwnModule(plugin *filterPlugin) moduleCheck {
	at, err := url.Parse(plugin.url)
	if err != nil {
		return moduleCheck{}
	}
	_, name, byName := strings.Cut(at.Path, api.RouteFilterModules)
	switch {
	case k.SHA256 == "":
		return moduleCheck{reason: reasonUnreachable, message: "the control plane has no filter to serve", conclusive: true}
	case byName && name != k.SHA256+".wasm":
		return moduleCheck{reason: reasonUnreachable, conclusive: true,
			message: fmt.Sprintf("the url returns 404: the control plane's filter is %s", api.FilterModulePath(k.SHA256))}
	case plugin.sha256 != "" && plugin.sha256 != k.SHA256:
		return moduleCheck{reason: reasonDigest, message: digestMismatch(plugin.sha256, k.SHA256), conclusive: true}
	}
	return moduleCheck{}
}

func digestMismatch(wanted, found string) string {
	return fmt.Sprintf("sha256 differs: spec says %.12s…, and the module has %.12s…", wanted, found)
}

func isHTTP(url string) bool {
	return strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")
}

// downloadOrResolve checks a module within CallTimeout.
func (k *keeper) downloadOrResolve(ctx context.Context, at module) (found moduleCheck) {
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	if reference, isImage := imageReference(at.url); isImage {
		found = k.resolve(limit, reference, at.sha256)
	} else {
		found = k.download(limit, at)
	}
	found.at = k.Now()
	return found
}

// download reads a module over HTTP and compares its digest.
func (k *keeper) download(ctx context.Context, at module) moduleCheck {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url, nil)
	if err != nil {
		return moduleCheck{reason: reasonUnreachable, message: "the url is invalid: " + err.Error(), conclusive: true}
	}
	response, err := k.HTTP.Do(request)
	if err != nil {
		return moduleCheck{reason: reasonUnreachable, message: "the url cannot be reached from the control plane: " + reconciler.Cut(reasonOf(err), 200)}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return moduleCheck{reason: reasonUnreachable, message: "the url returned " + response.Status, conclusive: true}
	}
	sum := sha256.New()
	size, err := io.Copy(sum, io.LimitReader(response.Body, k.MaxModule+1))
	switch digest := hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return moduleCheck{reason: reasonUnreachable, message: "the url's response is incomplete: " + reconciler.Cut(reasonOf(err), 200)}
	case size > k.MaxModule:
		return moduleCheck{reason: reasonUnreachable, message: fmt.Sprintf("the url's response has more than %d bytes", k.MaxModule)}
	case at.sha256 != "" && at.sha256 != digest:
		return moduleCheck{reason: reasonDigest, message: digestMismatch(at.sha256, digest), conclusive: true}
	}
	return moduleCheck{}
}
