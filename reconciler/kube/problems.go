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

// problems are what the cluster denies, and what failed, by what was tried:
// "list pods", "create wasmplugins in namespace demo". What succeeds later is
// forgotten, and so is what need not be tried any more (see clear).
type problems struct {
	mu     sync.Mutex
	denied map[string]struct{}
	failed map[string]string
}

func newProblems() *problems {
	return &problems{denied: map[string]struct{}{}, failed: map[string]string{}}
}

// note takes down how it went, and says whether that is news.
func (p *problems) note(what string, err error) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, denied := p.denied[what]
	before, failed := p.failed[what]
	delete(p.denied, what)
	delete(p.failed, what)
	switch {
	case err == nil:
		return denied || failed
	case forbidden(err):
		p.denied[what] = struct{}{}
		return !denied
	default:
		text := what + ": " + reconciler.Cut(reasonOf(err), 300)
		p.failed[what] = text
		return before != text
	}
}

// about says whether any of it failed or was denied when it was last tried.
func (p *problems) about(tried ...string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(tried, func(what string) bool {
		_, denied := p.denied[what]
		_, failed := p.failed[what]
		return denied || failed
	})
}

// clear forgets what was tried and ends in suffix, but for some.
func (p *problems) clear(suffix string, but ...string) {
	p.forget(func(what string) bool { return strings.HasSuffix(what, suffix) && !slices.Contains(but, what) })
}

// rest forgets what only the leader tries: what is done in one namespace.
func (p *problems) rest() {
	p.forget(func(what string) bool { return strings.Contains(what, inNamespace("")) })
}

func (p *problems) forget(which func(what string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.denied, func(what string, _ struct{}) bool { return which(what) })
	maps.DeleteFunc(p.failed, func(what, _ string) bool { return which(what) })
}

// list is sorted; failure is empty if nothing failed.
func (p *problems) list() (denied []string, failure string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	denied = slices.AppendSeq([]string{}, maps.Keys(p.denied))
	slices.Sort(denied)
	return denied, strings.Join(slices.Sorted(maps.Values(p.failed)), "; ")
}

// namespaceTerminating is the cause in a refusal because the namespace is being deleted.
const namespaceTerminating metav1.CauseType = "NamespaceTerminating"

// forbidden says whether a permission is missing: a namespace that is going
// refuses too, and in the same words.
func forbidden(err error) bool {
	return apierrors.IsForbidden(err) && !apierrors.HasStatusCause(err, namespaceTerminating)
}

// reasonOf leaves out the URL, which has other parameters each time.
func reasonOf(err error) string {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err.Error()
	}
	return err.Error()
}
