package http

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// module caches the digest of the filter module.
type module struct {
	once   sync.Once
	sha256 string
}

// filterModule is GET /v1/filter.wasm and GET /v1/filter/SHA256.wasm.
func (s *Server) filterModule(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	if len(s.Filter) == 0 {
		return notFound("this daemon has no filter module")
	}
	s.module.once.Do(func() {
		sum := sha256.Sum256(s.Filter)
		s.module.sha256 = hex.EncodeToString(sum[:])
	})
	cache := "no-cache"
	if r.URL.Path != api.RouteFilterModule {
		if name := api.FilterModulePath(s.module.sha256); r.URL.Path != name {
			return notFound("this daemon's filter is %s", name)
		}
		cache = "public, max-age=31536000, immutable"
	}
	header := w.Header()
	header.Set("ETag", quote(s.module.sha256))
	header.Set("Cache-Control", cache)
	header.Set("Content-Type", "application/wasm")
	// The answers are 200 and 304. Those that these headers could lead to are not
	// in the contract, and a cache could keep a 412 for as long as the module.
	for _, name := range []string{"Range", "If-Match", "If-Unmodified-Since"} {
		r.Header.Del(name)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.Filter))
	return nil
}
