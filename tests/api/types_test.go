package api

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// described has the Go types of the responses, which have the same names in the document.
var described = []any{
	api.Status{}, api.SourceStatus{}, api.CommitRef{}, api.Failure{}, api.EtcdStatus{}, api.SyncStatus{}, api.AppliedRevision{},
	api.Drift{}, api.DriftItem{}, api.HealStatus{}, api.HistoryEntry{}, api.Condition{}, api.ReplicaStatus{},
	api.FiltersStatus{}, api.FilterStatus{}, api.VMCounts{}, api.Replica{},
	api.KubernetesStatus{}, api.PolicyPods{}, api.PodProblem{}, api.WasmPluginStatus{},
	schema.Policy{}, schema.Metadata{}, schema.Spec{}, schema.Selector{}, schema.Rule{}, schema.Match{}, schema.StringMatch{},
	schema.HeaderMatch{}, schema.Fault{}, schema.Abort{}, schema.Origin{}, schema.Problem{},
}

// The document has exactly the fields of the Go types of the responses. Those that
// are always present are required.
func TestDocumentHasTheFieldsOfTheTypes(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testtool.Root(), "docs", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	model, err := parsed.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range described {
		of := reflect.TypeOf(value)
		proxy, found := model.Model.Components.Schemas.Get(of.Name())
		if !found {
			t.Errorf("the document has no schema %s", of.Name())
			continue
		}
		var properties []string
		for name := range proxy.Schema().Properties.FromOldest() {
			properties = append(properties, name)
		}
		all, required := fields(of, true)
		want(t, of.Name()+"'s properties", properties, all)
		want(t, of.Name()+"'s required properties", proxy.Schema().Required, required)
	}
}

// fields returns the JSON names of a struct's fields, and those that are always written.
func fields(of reflect.Type, always bool) (all, required []string) {
	for i := range of.NumField() {
		field := of.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case field.Anonymous && name == "":
			embedded, there := field.Type, always
			if embedded.Kind() == reflect.Pointer {
				embedded, there = embedded.Elem(), false
			}
			inner, needed := fields(embedded, there)
			all, required = append(all, inner...), append(required, needed...)
			continue
		}
		all = append(all, name)
		if always && !strings.Contains(options, "omitempty") {
			required = append(required, name)
		}
	}
	return all, required
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s are %v in the document and %v in Go", what, got, want)
	}
}
