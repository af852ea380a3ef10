package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gobuild"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// Two programs that share a module.
func some() []program {
	shared := gobuild.Module{Path: "go.etcd.io/etcd/server/v3", Version: "v3.7.3", Sum: "h1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
	alone := gobuild.Module{Path: "github.com/Microsoft/old", Version: "v2.0.0+incompatible", Sum: shared.Sum}
	return []program{
		{name: "cmd/hfid", target: gobuild.Target{OS: "linux", Arch: "amd64"}, sum: strings.Repeat("ab", 32), modules: []gobuild.Module{shared}},
		{name: "cmd/hfid", target: gobuild.Target{OS: "darwin", Arch: "arm64"}, sum: strings.Repeat("cd", 32), modules: []gobuild.Module{alone, shared}},
	}
}

// encoded returns a bill of materials as it is written to its file.
func encoded(t *testing.T, programs []program) []byte {
	t.Helper()
	bom, err := bill("v1.2.3", commit, at, programs)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := encodeBill(&text, bom); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func TestBillOfMaterials(t *testing.T) {
	text := encoded(t, some())
	programs := some()
	slices.Reverse(programs)
	if again := encoded(t, programs); !bytes.Equal(text, again) {
		t.Errorf("the bill depends on the order of the programs:\n%s\n%s", text, again)
	}
	// What a reader of the format sees, without the library that wrote it.
	var bom struct {
		BOMFormat    string `json:"bomFormat"`
		SpecVersion  string `json:"specVersion"`
		SerialNumber string `json:"serialNumber"`
		Metadata     struct {
			Timestamp string `json:"timestamp"`
			Component struct {
				Name, Version string
			} `json:"component"`
		} `json:"metadata"`
		Components []struct {
			Ref     string `json:"bom-ref"`
			Purl    string `json:"purl"`
			Version string `json:"version"`
			Hashes  []struct {
				Algorithm string `json:"alg"`
				Content   string `json:"content"`
			} `json:"hashes"`
		} `json:"components"`
		Dependencies []struct {
			Ref       string   `json:"ref"`
			DependsOn []string `json:"dependsOn"`
		} `json:"dependencies"`
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.6" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") || bom.Metadata.Timestamp != "2026-11-25T13:00:04Z" ||
		bom.Metadata.Component.Name != "github.com/boifi/hfi" || bom.Metadata.Component.Version != "v1.2.3" {
		t.Errorf("the bill begins with %+v", bom)
	}
	sums := map[string]string{}
	for _, component := range bom.Components {
		if _, twice := sums[component.Ref]; twice || component.Purl != component.Ref {
			t.Errorf("%s is there twice, or is called %s too", component.Ref, component.Purl)
		}
		sums[component.Ref] = ""
		for _, hash := range component.Hashes {
			sums[component.Ref] = hash.Algorithm + " " + hash.Content
		}
	}
	std := "pkg:golang/std@" + goRelease()
	for reference, sum := range map[string]string{
		"pkg:golang/github.com/boifi/hfi@v1.2.3?goarch=amd64&goos=linux#cmd/hfid":  "SHA-256 " + strings.Repeat("ab", 32),
		"pkg:golang/github.com/boifi/hfi@v1.2.3?goarch=arm64&goos=darwin#cmd/hfid": "SHA-256 " + strings.Repeat("cd", 32),
		"pkg:golang/go.etcd.io/etcd/server/v3@v3.7.3":                              "SHA-256 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		"pkg:golang/github.com/microsoft/old@v2.0.0%2Bincompatible":                "SHA-256 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		std: "",
	} {
		if got, listed := sums[reference]; !listed || got != sum {
			t.Errorf("%s is listed: %t, with %q, want %q", reference, listed, got, sum)
		}
	}
	if len(sums) != 5 {
		t.Errorf("%d components are listed, want 5", len(sums))
	}
	needs := map[string][]string{}
	for _, dependency := range bom.Dependencies {
		needs[dependency.Ref] = dependency.DependsOn
		for _, reference := range dependency.DependsOn {
			if _, listed := sums[reference]; !listed {
				t.Errorf("%s needs %s, which is not listed", dependency.Ref, reference)
			}
		}
	}
	linux := needs["pkg:golang/github.com/boifi/hfi@v1.2.3?goarch=amd64&goos=linux#cmd/hfid"]
	if want := []string{"pkg:golang/go.etcd.io/etcd/server/v3@v3.7.3", std}; !slices.Equal(linux, want) {
		t.Errorf("hfid on Linux needs %q, want %q", linux, want)
	}
	if got := needs["pkg:golang/github.com/boifi/hfi@v1.2.3"]; len(got) != 2 {
		t.Errorf("the release consists of %q", got)
	}
}

// A module without a checksum would be listed as if it had been verified.
func TestBillNeedsChecksums(t *testing.T) {
	for _, sum := range []string{"", "h2:AAEC", "h1:%"} {
		programs := some()
		programs[0].modules[0].Sum = sum
		if _, err := bill("v1.2.3", commit, at, programs); err == nil || !strings.Contains(err.Error(), "is not a checksum") {
			t.Errorf("with the checksum %q: %v", sum, err)
		}
	}
}
