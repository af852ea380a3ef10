package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"

	"github.com/boifi/hfi/internal/gobuild"
)

// modulePath is hfi's own module.
const modulePath = "github.com/boifi/hfi"

// program is one of a release's programs, for its bill of materials.
type program struct {
	// name is that of the folder with its source, below the module: cmd/hfid.
	name   string
	target gobuild.Target
	// sum is the SHA-256 of the program's file, in hexadecimal.
	sum     string
	modules []gobuild.Module
}

// reference is the program's package URL, which names it in the bill of materials.
func (p program) reference(version string) string {
	return fmt.Sprintf("%s?goarch=%s&goos=%s#%s", packageURL(modulePath, version), p.target.Arch, p.target.OS, p.name)
}

// bill is the release's software bill of materials: the programs, and the
// modules that each is compiled from, the standard library among them.
func bill(version, commit string, at time.Time, programs []program) (*cdx.BOM, error) {
	main := cdx.Component{
		BOMRef: packageURL(modulePath, version), PackageURL: packageURL(modulePath, version),
		Type: cdx.ComponentTypeApplication, Name: modulePath, Version: version,
	}
	library := cdx.Component{
		BOMRef: packageURL("std", goRelease()), PackageURL: packageURL("std", goRelease()),
		Type: cdx.ComponentTypeLibrary, Name: "std", Version: goRelease(), Description: "Go's standard library and runtime",
	}
	components := map[string]cdx.Component{library.BOMRef: library}
	all := cdx.Dependency{Ref: main.BOMRef, Dependencies: &[]string{}}
	dependencies := []cdx.Dependency{}
	for _, each := range programs {
		reference := each.reference(version)
		components[reference] = cdx.Component{
			BOMRef: reference, PackageURL: reference, Type: cdx.ComponentTypeApplication, Name: each.name, Version: version,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: each.sum}},
		}
		*all.Dependencies = append(*all.Dependencies, reference)
		needs := []string{library.BOMRef}
		for _, module := range each.modules {
			component, err := moduleComponent(module)
			if err != nil {
				return nil, err
			}
			components[component.BOMRef] = component
			needs = append(needs, component.BOMRef)
		}
		slices.Sort(needs)
		dependencies = append(dependencies, cdx.Dependency{Ref: reference, Dependencies: &needs})
	}
	sorted := make([]cdx.Component, 0, len(components))
	for _, component := range components {
		sorted = append(sorted, component)
	}
	slices.SortFunc(sorted, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	slices.Sort(*all.Dependencies)
	slices.SortFunc(dependencies, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })
	dependencies = append([]cdx.Dependency{all}, dependencies...)

	bom := cdx.NewBOM()
	// The number has to differ between documents; the same release has the same.
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, []byte(main.PackageURL+"#"+commit)).URN()
	bom.Metadata = &cdx.Metadata{
		Timestamp: at.Format(time.RFC3339), Component: &main,
		Properties: &[]cdx.Property{{Name: "hfi:commit", Value: commit}},
	}
	bom.Components, bom.Dependencies = &sorted, &dependencies
	return bom, nil
}

// moduleComponent is a module with its checksum, which is a SHA-256 in base64
// behind the number of the method.
func moduleComponent(module gobuild.Module) (cdx.Component, error) {
	text, found := strings.CutPrefix(module.Sum, "h1:")
	sum, err := base64.StdEncoding.DecodeString(text)
	if !found || err != nil {
		return cdx.Component{}, fmt.Errorf("listing %s %s: %q is not a checksum in the form of go.sum", module.Path, module.Version, module.Sum)
	}
	reference := packageURL(module.Path, module.Version)
	return cdx.Component{
		BOMRef: reference, PackageURL: reference, Type: cdx.ComponentTypeLibrary, Name: module.Path, Version: module.Version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}},
	}, nil
}

// packageURL names a Go module by the specification of package URLs, by which
// paths are in lower case.
func packageURL(path, version string) string {
	return "pkg:golang/" + strings.ToLower(path) + "@" + url.QueryEscape(version)
}

// goRelease is the Go release that compiles, such as 1.26.8: "go run" compiled
// this program with the same.
func goRelease() string { return strings.TrimPrefix(runtime.Version(), "go") }

func writeBill(file string, bom *cdx.BOM) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	if err := errors.Join(encodeBill(out, bom), out.Close()); err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	return nil
}

// encodeBill writes version 1.6 of the format: scanners that are a year old read it.
func encodeBill(to io.Writer, bom *cdx.BOM) error {
	encoder := cdx.NewBOMEncoder(to, cdx.BOMFileFormatJSON)
	return encoder.SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
}
