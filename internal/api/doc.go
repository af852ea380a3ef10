// Package api has the names and types of the daemon's HTTP interface, each
// defined once for the server, the command line and the filter: routes,
// header names, and the JSON of the answers. It imports nothing but schema.
package api
