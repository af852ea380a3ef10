package main

import "github.com/boifi/hfi/filter/fault"

// httpOfGRPC is the HTTP status for each gRPC status, as the comments in
// google/rpc/code.proto have it.
var httpOfGRPC = [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// httpStatus is what a client gets that does not speak gRPC: a 200, which
// Envoy's own fault filter sends it, would look like a success. One that does
// speak it gets 200 and the gRPC status from Envoy in either case.
func httpStatus(abort *fault.Abort) int {
	if 0 <= abort.GRPCStatus && abort.GRPCStatus < len(httpOfGRPC) {
		return httpOfGRPC[abort.GRPCStatus]
	}
	return abort.Status
}
