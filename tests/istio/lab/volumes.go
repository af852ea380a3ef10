//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

// volume creates a pod's volume and returns its path.
func (p *pod) volume(ctx context.Context, spec corev1.Volume) (string, error) {
	folder := filepath.Join(p.folder, "volumes", spec.Name)
	if spec.HostPath != nil {
		return spec.HostPath.Path, nil
	}
	if claim := spec.PersistentVolumeClaim; claim != nil {
		// The data of a claim outlives the pod.
		folder = filepath.Join(p.l.folder, "claims", p.object.Namespace, claim.ClaimName)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	err := p.fill(ctx, folder, spec)
	if err == nil && (spec.EmptyDir != nil || spec.PersistentVolumeClaim != nil) {
		err = errors.Join(os.Chmod(folder, 0o777), p.share(folder, true))
	}
	if err != nil {
		return "", fmt.Errorf("volume %s: %w", spec.Name, err)
	}
	return folder, nil
}

func (p *pod) fill(ctx context.Context, folder string, spec corev1.Volume) error {
	switch {
	case spec.EmptyDir != nil, spec.PersistentVolumeClaim != nil:
		return nil
	case spec.Secret != nil:
		data, err := p.secret(ctx, spec.Secret.SecretName, spec.Secret.Optional)
		return errors.Join(err, p.write(folder, data, spec.Secret.Items, spec.Secret.DefaultMode))
	case spec.ConfigMap != nil:
		data, err := p.configMap(ctx, spec.ConfigMap.Name, spec.ConfigMap.Optional)
		return errors.Join(err, p.write(folder, data, spec.ConfigMap.Items, spec.ConfigMap.DefaultMode))
	case spec.DownwardAPI != nil:
		return p.writeFields(folder, spec.DownwardAPI.Items, spec.DownwardAPI.DefaultMode)
	case spec.Projected != nil:
		for _, source := range spec.Projected.Sources {
			if err := p.project(ctx, folder, source, spec.Projected.DefaultMode); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("the lab does not know its kind")
}

func (p *pod) project(ctx context.Context, folder string, source corev1.VolumeProjection, mode *int32) error {
	switch {
	case source.ServiceAccountToken != nil:
		token, err := p.token(ctx, source.ServiceAccountToken)
		if err != nil {
			return err
		}
		// As with the kubelet, tokens are readable for the pod's user only.
		private := int32(0o600)
		if p.object.Spec.SecurityContext != nil && p.object.Spec.SecurityContext.FSGroup != nil {
			mode = &private
		}
		return p.write(folder, map[string]string{source.ServiceAccountToken.Path: token}, nil, mode)
	case source.ConfigMap != nil:
		data, err := p.configMap(ctx, source.ConfigMap.Name, source.ConfigMap.Optional)
		return errors.Join(err, p.write(folder, data, source.ConfigMap.Items, mode))
	case source.Secret != nil:
		data, err := p.secret(ctx, source.Secret.Name, source.Secret.Optional)
		return errors.Join(err, p.write(folder, data, source.Secret.Items, mode))
	case source.DownwardAPI != nil:
		return p.writeFields(folder, source.DownwardAPI.Items, mode)
	}
	return fmt.Errorf("the lab does not know a source of it")
}

// token requests a token of the pod's service account, bound to the pod.
func (p *pod) token(ctx context.Context, source *corev1.ServiceAccountTokenProjection) (string, error) {
	request := authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.object.Name, UID: p.object.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	path := "/api/v1/namespaces/" + p.object.Namespace + "/serviceaccounts/" + p.object.Spec.ServiceAccountName + "/token"
	err := p.l.api.do(ctx, "POST", path, plainJSON, request, &request)
	return request.Status.Token, err
}

func (p *pod) writeFields(folder string, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	data := map[string]string{}
	for _, item := range items {
		if item.FieldRef == nil {
			return fmt.Errorf("the lab does not know a field of it")
		}
		value, err := p.field(item.FieldRef.FieldPath)
		if err != nil {
			return err
		}
		data[item.Path] = value
	}
	return p.write(folder, data, nil, mode)
}

// write writes files by their keys, or only those that items names.
func (p *pod) write(folder string, data map[string]string, items []corev1.KeyToPath, mode *int32) error {
	files := data
	if len(items) > 0 {
		files = map[string]string{}
		for _, item := range items {
			value, ok := data[item.Key]
			if !ok {
				return fmt.Errorf("there is no key %s", item.Key)
			}
			files[item.Path] = value
		}
	}
	permissions := fs.FileMode(0o644)
	if mode != nil {
		permissions = fs.FileMode(*mode)
	}
	for name, value := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(path, permissions), p.share(path, false)); err != nil {
			return err
		}
	}
	return nil
}

// share sets the group of a file or folder to the pod's fsGroup, if it has one. The
// group may read it, and write it if it is writable.
func (p *pod) share(path string, writable bool) error {
	context := p.object.Spec.SecurityContext
	if context == nil || context.FSGroup == nil {
		return nil
	}
	about, err := os.Stat(path)
	if err != nil {
		return err
	}
	mode := about.Mode() | 0o440
	if about.IsDir() {
		mode |= os.ModeSetgid | 0o110
	}
	if writable {
		mode |= 0o660
	}
	return errors.Join(os.Chown(path, -1, int(*context.FSGroup)), os.Chmod(path, mode))
}
