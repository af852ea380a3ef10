package oci

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificates returns the certificate authorities that Mozilla trusts, in PEM,
// in the version that go.mod pins. Those with constraints are left out, because
// PEM cannot express constraints.
func certificates() ([]byte, error) {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("writing the certificate authorities: %w", err)
		}
	}
	return text.Bytes(), nil
}
