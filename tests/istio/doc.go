// Package istio tells the stories of its users in a mesh of real servers: see
// package lab. "make test-istio" builds what that needs and runs the tests.
package istio
