package envoytest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func TestLoadCountsWhatItGot(t *testing.T) {
	var seen atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "PUT" || r.Header.Get("X-One") != "1" {
			t.Errorf("the server saw %s with %v", r.Method, r.Header)
		}
		switch seen.Add(1) % 4 {
		case 0:
			w.WriteHeader(503)
		case 1:
			w.Header().Set("Connection", "close")
		case 2:
			time.Sleep(20 * time.Millisecond) // the latency that the report must show
		}
	}))
	defer server.Close()
	report, err := Load{
		Request:  Request{Method: "PUT", URL: server.URL, Header: http.Header{"X-One": {"1"}}, Body: "text"},
		Requests: 400, Connections: 4,
	}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if report.Statuses[503] != 100 || report.Statuses[200] != 300 || report.Errors != 0 || seen.Load() != 400 {
		t.Errorf("%s; the server saw %d", report, seen.Load())
	}
	if slower := report.Slower(20 * time.Millisecond); slower < 100 {
		t.Errorf("%d answers took 20 ms or more, and 100 had to", slower)
	}
	if len(report.Latencies[503]) != 100 || report.Quantile(0.9) < 20*time.Millisecond {
		t.Errorf("%d latencies of aborts; %s", len(report.Latencies[503]), report)
	}
}

func TestLoadCountsARequestWithoutAnAnswer(t *testing.T) {
	var seen atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch seen.Add(1) % 4 {
		case 0: // half an answer
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("half"))
		case 1: // none
			panic(http.ErrAbortHandler)
		case 2: // one too late
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	report, err := Load{Request: Request{URL: server.URL}, Requests: 16, Limit: 2 * time.Second}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if report.Errors != 12 || report.Statuses[200] != 4 || len(report.Samples) != maxSamples {
		t.Errorf("of 16 requests 4 had to get an answer: %s", report)
	}

	seen.Store(2) // the next request gets an answer
	report, err = Load{Request: Request{URL: server.URL}, Requests: 1, Check: func(int, http.Header, []byte, time.Duration) error {
		return errors.New("not as it should be")
	}}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if report.Errors != 1 || report.Answers() != 1 {
		t.Errorf("the answer is not as it should be: %s", report)
	}
}

func TestLoadKeepsToItsRateAndItsTime(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	report, err := Load{Request: Request{URL: server.URL}, Rate: 100, Duration: time.Second}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Answers(); got > 100 || got < 10 {
		t.Errorf("a hundred requests were due: %s", report)
	}
	if report.Elapsed < 900*time.Millisecond {
		t.Errorf("they were not spaced: %s", report)
	}
	if _, err := (Load{Request: Request{URL: server.URL}}).Run(context.Background()); err == nil {
		t.Error("a load without an end was begun")
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	started := time.Now()
	report, err := Load{Request: Request{URL: server.URL}, Requests: 10}.Run(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || report.Answers() != 0 || report.Errors != 0 {
		t.Errorf("%v, %s", err, report)
	}
	if elapsed := time.Since(started); elapsed > WaitLimit/2 {
		t.Errorf("it went on for %s", elapsed)
	}
}
