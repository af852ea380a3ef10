// Package api defines the daemon's HTTP interface once, for the server, the
// command line and the filter: routes, header names, and the JSON of requests
// and answers. Of this module it imports package schema only.
package api
