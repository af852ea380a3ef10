package oci

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificates are the certificate authorities that Mozilla trusts, in PEM, as
// go.mod pins them. Those that it trusts with reservations are left out: PEM
// cannot say so, and they would be trusted without.
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
