//go:build !wasm

// The filter needs only the routes and header names.

package api

// Error is the body of every answer that says that a request failed.
type Error struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail describes a failed request.
type ErrorDetail struct {
	// Code is for programs, Message for people.
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Health is the answer of GET /health.
type Health struct {
	// Status is ok.
	Status string `json:"status"`
}

// Readiness is the answer of GET /ready.
type Readiness struct {
	// Ready: this daemon serves policies.
	Ready bool `json:"ready"`
	// Reason says why it does not, or is empty.
	Reason string     `json:"reason"`
	Etcd   EtcdStatus `json:"etcd"`
}

// Accepted is the answer of POST /v1/reconcile and POST /v1/webhook.
type Accepted struct {
	// Status is accepted.
	Status string `json:"status"`
}
