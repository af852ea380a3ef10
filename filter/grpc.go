package main

import "github.com/boifi/hfi/filter/program"

// httpOfGRPC has the HTTP status for each gRPC status, as documented in
// google/rpc/code.proto.
var httpOfGRPC = [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// httpStatus returns the HTTP status of an abort for clients that do not use gRPC.
// (Envoy's fault filter sends them 200, which looks like a success.) Envoy sends
// gRPC clients 200 and the gRPC status in any case.
func httpStatus(abort *program.Abort) int {
	if 0 <= abort.GRPCStatus && abort.GRPCStatus < len(httpOfGRPC) {
		return httpOfGRPC[abort.GRPCStatus]
	}
	return abort.Status
}
