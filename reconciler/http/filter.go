package http

import (
	"crypto/sha256"
	"encoding/hex"
	nethttp "net/http"
	"strconv"
	"strings"
	"sync"
)

// module is the filter's Wasm module and its name.
type module struct {
	once sync.Once
	sum  string
}

// filter is the module itself: under /v1/filter.wasm the one of this build,
// and under its SHA-256 the same, for ever.
func (s *Server) filter(w nethttp.ResponseWriter, r *nethttp.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	if len(s.Filter) == 0 {
		return notFound("this build of hfid has no filter in it")
	}
	s.module.once.Do(func() {
		sum := sha256.Sum256(s.Filter)
		s.module.sum = hex.EncodeToString(sum[:])
	})
	cache := "no-cache"
	if name, named := strings.CutPrefix(r.URL.Path, "/v1/filter/"); named {
		if name != s.module.sum+".wasm" {
			return notFound("this daemon's filter is /v1/filter/%s.wasm", s.module.sum)
		}
		cache = "public, max-age=31536000, immutable"
	}
	has, err := parseTags(r.Header.Values("If-None-Match"))
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("ETag", quote(s.module.sum))
	header.Set("Cache-Control", cache)
	if has.match(s.module.sum) {
		w.WriteHeader(nethttp.StatusNotModified)
		return nil
	}
	header.Set("Content-Type", "application/wasm")
	header.Set("Content-Length", strconv.Itoa(len(s.Filter)))
	w.WriteHeader(nethttp.StatusOK)
	if r.Method != nethttp.MethodHead {
		// A client that is gone by now has no use for the error.
		_, _ = w.Write(s.Filter)
	}
	return nil
}
