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

// module is what a WasmPlugin asks sidecars to load.
type module struct{ url, sha256 string }

// check is what came of looking for a module.
type check struct {
	// busy: it is being looked for, for the first time or again.
	busy bool
	at   time.Time
	// reason is a word for a condition, or empty if the module is there; message a sentence.
	reason, message string
	// certain: sidecars meet the same. A network may keep the daemon alone away.
	certain bool
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

// checked is what is known of a plugin's module, and has it looked for if it
// never was, and again once the last look is old: if again is set, and as long
// as something is wrong with it. The daemon's own URLs need no looking, and
// what needs credentials is for Istio's agent to judge.
func (k *keeper) checked(ctx context.Context, one *plugin, again bool) check {
	if servedBy(one.url, k.home) {
		return k.ownModule(one)
	}
	if _, ofRegistry := artefact(one.url); ofRegistry && one.pullSecret || !ofRegistry && !ofHTTP(one.url) {
		return check{}
	}
	at := module{one.url, one.sha256}
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.checks[at]
	if known == nil {
		known = &check{}
		k.checks[at] = known
	}
	again = again || known.reason != ""
	if due := known.at.IsZero() || again && k.Now().Sub(known.at) >= k.CheckEvery; due && !known.busy {
		known.busy = true
		k.tasks.Go(func() {
			found := k.look(ctx, at)
			k.mu.Lock()
			*known = found
			k.mu.Unlock()
			k.notify()
		})
	}
	return *known
}

// ownModule judges a URL of the control plane's own.
func (k *keeper) ownModule(one *plugin) check {
	at, err := url.Parse(one.url)
	if err != nil {
		return check{}
	}
	_, name, byName := strings.Cut(at.Path, api.RouteFilterModules)
	switch {
	case k.SHA256 == "":
		return check{reason: reasonUnreachable, message: "the control plane has no filter to serve", certain: true}
	case byName && name != k.SHA256+".wasm":
		return check{reason: reasonUnreachable, certain: true,
			message: fmt.Sprintf("the url answers 404: the control plane's filter is %s", api.FilterModulePath(k.SHA256))}
	case one.sha256 != "" && one.sha256 != k.SHA256:
		return check{reason: reasonDigest, message: differs(one.sha256, k.SHA256), certain: true}
	}
	return check{}
}

func differs(wanted, found string) string {
	return fmt.Sprintf("sha256 differs: spec says %.12s…, and the module has %.12s…", wanted, found)
}

func ofHTTP(url string) bool {
	return strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")
}

// look looks for a module, within limits.
func (k *keeper) look(ctx context.Context, at module) (found check) {
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	if reference, ofRegistry := artefact(at.url); ofRegistry {
		found = k.lookInRegistry(limit, reference, at.sha256)
	} else {
		found = k.fetch(limit, at)
	}
	found.at = k.Now()
	return found
}

// fetch fetches a module over HTTP, and compares its digest.
func (k *keeper) fetch(ctx context.Context, at module) check {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url, nil)
	if err != nil {
		return check{reason: reasonUnreachable, message: "the url cannot be read: " + err.Error(), certain: true}
	}
	response, err := k.HTTP.Do(request)
	if err != nil {
		return check{reason: reasonUnreachable, message: "the url cannot be reached from the control plane: " + reconciler.Cut(reasonOf(err), 200)}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return check{reason: reasonUnreachable, message: "the url answers " + response.Status, certain: true}
	}
	sum := sha256.New()
	size, err := io.Copy(sum, io.LimitReader(response.Body, k.MaxModule+1))
	switch digest := hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return check{reason: reasonUnreachable, message: "the url's answer breaks off: " + reconciler.Cut(reasonOf(err), 200)}
	case size > k.MaxModule:
		return check{reason: reasonUnreachable, message: fmt.Sprintf("the url's answer has more than %d bytes", k.MaxModule)}
	case at.sha256 != "" && at.sha256 != digest:
		return check{reason: reasonDigest, message: differs(at.sha256, digest), certain: true}
	}
	return check{}
}
