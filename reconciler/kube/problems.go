package kube

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/boifi/hfi/reconciler"
)

// problems are the last denials and failures of what was tried, such as "list
// pods" or "create wasmplugins in namespace demo". A success removes the
// entry, and so does clear when it need not be tried any more.
type problems struct {
	mu     sync.Mutex
	denied map[string]struct{}
	failed map[string]string
}

func newProblems() *problems {
	return &problems{denied: map[string]struct{}{}, failed: map[string]string{}}
}

// record records a result, and says whether it differs from the one before.
func (p *problems) record(tried string, err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, denied := p.denied[tried]
	before, failed := p.failed[tried]
	delete(p.denied, tried)
	delete(p.failed, tried)
	switch {
	case err == nil:
		return denied || failed
	case forbidden(err):
		p.denied[tried] = struct{}{}
		return !denied
	default:
		text := tried + ": " + reconciler.Cut(reasonOf(err), 300)
		p.failed[tried] = text
		return before != text
	}
}

// any says whether one of these was denied or failed when it was last tried.
func (p *problems) any(tried ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(tried, func(what string) bool {
		_, denied := p.denied[what]
		_, failed := p.failed[what]
		return denied || failed
	})
}

// isDenied says whether this was denied when it was last tried.
func (p *problems) isDenied(tried string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, denied := p.denied[tried]
	return denied
}

// clear removes the entries with a suffix, except some.
func (p *problems) clear(suffix string, except ...string) {
	p.remove(func(tried string) bool { return strings.HasSuffix(tried, suffix) && !slices.Contains(except, tried) })
}

// forgetLeaders removes what only the leader tries: changes in a namespace.
func (p *problems) forgetLeaders() {
	p.remove(func(tried string) bool { return strings.Contains(tried, inNamespace("")) })
}

func (p *problems) remove(which func(tried string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.denied, func(tried string, _ struct{}) bool { return which(tried) })
	maps.DeleteFunc(p.failed, func(tried, _ string) bool { return which(tried) })
}

// list returns what was denied, sorted, and all failures in one text.
func (p *problems) list() (denied []string, failure string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	denied = slices.AppendSeq([]string{}, maps.Keys(p.denied))
	slices.Sort(denied)
	return denied, strings.Join(slices.Sorted(maps.Values(p.failed)), "; ")
}

// namespaceTerminating is the cause of a refusal because the namespace is being deleted.
const namespaceTerminating metav1.CauseType = "NamespaceTerminating"

// forbidden says whether a permission is missing. A namespace that is being
// deleted refuses with the same reason.
func forbidden(err error) bool {
	return apierrors.IsForbidden(err) && !apierrors.HasStatusCause(err, namespaceTerminating)
}

// reasonOf drops the URL from an error's text, because its parameters differ each time.
func reasonOf(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err.Error()
	}
	return err.Error()
}
