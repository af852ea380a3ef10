//go:build linux

package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// makePlan derives the configuration of the container's process from the image and
// the Pod.
func (c *container) makePlan(ctx context.Context) (containerPlan, error) {
	p := c.p
	image, err := p.l.image(c.spec.Image)
	if err != nil {
		return containerPlan{}, err
	}
	env, err := p.environment(ctx, image, c.spec)
	if err != nil {
		return containerPlan{}, err
	}
	known := map[string]string{}
	for _, setting := range env {
		name, value, _ := strings.Cut(setting, "=")
		known[name] = value
	}
	var words []string
	for _, word := range append(slices.Clone(c.spec.Command), c.spec.Args...) {
		words = append(words, expand(word, known))
	}
	if len(c.spec.Command) == 0 {
		words = append(slices.Clone(image.Entrypoint), words...)
	}
	if len(words) == 0 {
		return containerPlan{}, fmt.Errorf("image %s has no entry point, and the container no command", c.spec.Image)
	}
	plan := containerPlan{
		Network: p.network, Hostname: p.object.Name, Root: image.Root, UID: image.UID, GID: image.GID,
		Dir: first(c.spec.WorkingDir, image.Dir, "/"), Env: env, Command: words,
	}
	if err := plan.secure(p.object.Spec.SecurityContext, c.spec.SecurityContext); err != nil {
		return plan, err
	}
	for _, path := range image.Host {
		plan.Mounts = append(plan.Mounts, mount{path, path, true})
	}
	for _, name := range []string{"resolv.conf", "hosts"} {
		plan.Mounts = append(plan.Mounts, mount{filepath.Join(p.folder, name), "/etc/" + name, false})
	}
	mounts := slices.Clone(c.spec.VolumeMounts)
	// A mount inside another one comes after it.
	slices.SortStableFunc(mounts, func(a, b corev1.VolumeMount) int { return len(a.MountPath) - len(b.MountPath) })
	for _, m := range mounts {
		plan.Mounts = append(plan.Mounts, mount{filepath.Join(p.volumes[m.Name], m.SubPath), m.MountPath, m.ReadOnly})
	}
	return plan, nil
}

// secure sets the user, the groups and the capabilities from the security contexts:
// the container's own, else the pod's.
func (plan *containerPlan) secure(pod *corev1.PodSecurityContext, own *corev1.SecurityContext) error {
	mustNotBeRoot := false
	if pod != nil {
		set(&plan.UID, pod.RunAsUser)
		set(&plan.GID, pod.RunAsGroup)
		mustNotBeRoot = pod.RunAsNonRoot != nil && *pod.RunAsNonRoot
		if pod.FSGroup != nil {
			plan.Groups = append(plan.Groups, int(*pod.FSGroup))
		}
	}
	if own != nil {
		set(&plan.UID, own.RunAsUser)
		set(&plan.GID, own.RunAsGroup)
		if own.RunAsNonRoot != nil {
			mustNotBeRoot = *own.RunAsNonRoot
		}
		plan.ReadOnly = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
		plan.Bare = own.Capabilities != nil && slices.Contains(own.Capabilities.Drop, "ALL") && len(own.Capabilities.Add) == 0
	}
	if mustNotBeRoot && plan.UID == 0 {
		return fmt.Errorf("the container must not run as root (runAsNonRoot), but its image does")
	}
	return nil
}

func set(to *int, value *int64) {
	if value != nil {
		*to = int(*value)
	}
}

func first(of ...string) string {
	for _, text := range of {
		if text != "" {
			return text
		}
	}
	return ""
}
