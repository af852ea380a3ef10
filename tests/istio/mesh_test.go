//go:build linux

package istio

import "testing"

// TestMesh runs all stories in one mesh, because the mesh takes a while to start.
// The stories are independent: each can be run alone, such as with -run
// TestMesh/targeting.
func TestMesh(t *testing.T) {
	w := newWorld(t)
	for _, story := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"control plane", controlPlaneStory},
		{"filter loading", filterStory},
		{"targeting", targetingStory},
		{"identity", identityStory},
		{"injector", injectorStory},
		{"many pods", manyPodsStory},
		{"observability", observabilityStory},
		{"rollback", rollbackStory},
		{"drift", driftStory},
		{"load failure", loadFailureStory},
		{"Sidecar resource", sidecarStory},
		{"targets", targetsStory},
		{"API server restarted", restartStory},
		{"OCI artefact", artefactStory},
		{"kept WasmPlugins", keepStory},
		{"EnvoyFilters", envoyFilterStory},
		{"outbound", outboundStory},
		{"gateway", gatewayStory},
		{"waypoint", waypointStory},
		{"missing permission", permissionStory},
		{"own etcd", ownEtcdStory},
		{"helpers", helpersStory},
		{"a thousand pods", crowdStory},
		{"scripts", scriptsStory},
		{"quickstart", quickstartStory},
		// The last, because the cluster has no WasmPlugins afterwards.
		{"TrafficExtensions", trafficExtensionStory},
	} {
		t.Run(story.name, func(t *testing.T) { story.run(t, w) })
	}
}
