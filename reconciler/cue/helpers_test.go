package cue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync/atomic"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

const testModule = "module: \"example.com/policies\"\nlanguage: version: \"v0.17.0\"\n"

// reads counts how often any file of content was read.
var reads atomic.Int64

// content is a file of a commit, as git would give it.
func content(path, text string) schema.File {
	sum := sha256.Sum256([]byte(text))
	return schema.File{
		Path: path, ID: hex.EncodeToString(sum[:]),
		Read: func(_ context.Context, limit int64) ([]byte, error) {
			if size := int64(len(text)); size > limit {
				return nil, &schema.TooLarge{Size: size}
			}
			reads.Add(1)
			return []byte(text), nil
		},
	}
}

func gone(path string) schema.File { return schema.File{Path: path, Deleted: true} }

// commit is a delta from a base to a commit, or a full one without a base.
func commit(hash, base string, files ...schema.File) *reconciler.Delta {
	return &reconciler.Delta{
		Commit: reconciler.Commit{Hash: hash}, Base: base, Files: files,
		Close: func() error { return nil },
	}
}
