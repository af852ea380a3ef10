// Command app is a workload for the tests of the mesh: it answers every
// request with the name of its pod, except for those to /call?url=URL&host=HOST, for which it
// calls that URL and answers with the same status, or with 599 if there is none.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	pod := os.Getenv("HOSTNAME")
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, pod) })
	http.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		status, err := call(r.Context(), r.FormValue("url"), r.FormValue("host"))
		if err != nil {
			status = 599
		}
		w.WriteHeader(status)
		fmt.Fprintln(w, pod, status, err)
	})
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Shutdown(context.Background()) })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// call sends a request with the given Host header, or that of the URL, and returns the status.
func call(ctx context.Context, url, host string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	request.Host = host
	response, err := caller.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// caller opens a new connection for each call, as many clients do.
var caller = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
