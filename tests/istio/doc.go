// Package istio runs user stories, each a scenario from deployment to effect, in a
// mesh of real servers: see package lab. "make test-istio" builds what that needs
// and runs the tests.
package istio
