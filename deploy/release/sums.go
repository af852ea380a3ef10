package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// sumsName is the file with the checksums of all others of a release.
const sumsName = "SHA256SUMS"

// writeSums writes the checksums of a folder's files into it, by name, in the
// format of sha256sum.
func writeSums(folder string) error {
	// ReadDir sorts by name.
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("making checksums: %w", err)
	}
	var text strings.Builder
	for _, entry := range entries {
		sum, err := sumOf(filepath.Join(folder, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s  %s\n", sum, entry.Name())
	}
	if err := os.WriteFile(filepath.Join(folder, sumsName), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("writing checksums: %w", err)
	}
	return nil
}

// sumOf is the SHA-256 of a file, in hexadecimal.
func sumOf(file string) (string, error) {
	content, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("making a checksum: %w", err)
	}
	defer content.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return "", fmt.Errorf("making the checksum of %s: %w", file, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
