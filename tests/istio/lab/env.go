//go:build linux

package lab

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// environment returns a container's environment, from the image, whole ConfigMaps
// and Secrets, and single values. Later ones take precedence.
func (p *pod) environment(ctx context.Context, image Image, spec corev1.Container) ([]string, error) {
	values := map[string]string{"KUBERNETES_SERVICE_HOST": apiService, "KUBERNETES_SERVICE_PORT": "443", "HOSTNAME": p.object.Name}
	for _, setting := range image.Env {
		name, value, _ := strings.Cut(setting, "=")
		values[name] = value
	}
	for _, from := range spec.EnvFrom {
		data, err := p.sourceOfMany(ctx, from)
		if err != nil {
			return nil, err
		}
		for name, value := range data {
			values[from.Prefix+name] = value
		}
	}
	for _, variable := range spec.Env {
		value := expand(variable.Value, values)
		if from := variable.ValueFrom; from != nil {
			found, ok, err := p.sourceOfOne(ctx, spec, from)
			if err != nil {
				return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
			}
			if !ok {
				continue
			}
			value = found
		}
		values[variable.Name] = value
	}
	var list []string
	for name, value := range values {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list, nil
}

func (p *pod) sourceOfMany(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	if from.ConfigMapRef != nil {
		return p.configMap(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
	}
	if from.SecretRef != nil {
		return p.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
	}
	return nil, nil
}

func (p *pod) sourceOfOne(ctx context.Context, spec corev1.Container, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	var data map[string]string
	var key string
	var optional *bool
	switch {
	case from.FieldRef != nil:
		value, err = p.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = resourceOf(spec, from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		key, optional = from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional
		data, err = p.configMap(ctx, from.ConfigMapKeyRef.Name, optional)
	case from.SecretKeyRef != nil:
		key, optional = from.SecretKeyRef.Key, from.SecretKeyRef.Optional
		data, err = p.secret(ctx, from.SecretKeyRef.Name, optional)
	default:
		err = fmt.Errorf("the lab does not know its source")
	}
	value, ok = data[key]
	if err == nil && !ok && (optional == nil || !*optional) {
		err = fmt.Errorf("there is no key %s", key)
	}
	return value, ok, err
}

// field returns a field of the downward API.
func (p *pod) field(path string) (string, error) {
	o := p.object
	if key, ok := strings.CutPrefix(path, "metadata.labels['"); ok {
		return o.Labels[strings.TrimSuffix(key, "']")], nil
	}
	if key, ok := strings.CutPrefix(path, "metadata.annotations['"); ok {
		return o.Annotations[strings.TrimSuffix(key, "']")], nil
	}
	switch path {
	case "metadata.name":
		return o.Name, nil
	case "metadata.namespace":
		return o.Namespace, nil
	case "metadata.uid":
		return string(o.UID), nil
	case "metadata.labels":
		return lines(o.Labels), nil
	case "metadata.annotations":
		return lines(o.Annotations), nil
	case "spec.nodeName":
		return nodeName, nil
	case "spec.serviceAccountName":
		return o.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return p.ip, nil
	case "status.hostIP":
		return host, nil
	}
	return "", fmt.Errorf("the lab does not know the field %s", path)
}

// lines formats a map as the downward API does.
func lines(of map[string]string) string {
	var text []string
	for key, value := range of {
		text = append(text, key+"="+strconv.Quote(value))
	}
	slices.Sort(text)
	return strings.Join(text, "\n")
}

// nodeCPU and nodeMemory are the limits that the downward API reports for a container without limits.
const (
	nodeCPU    = 2
	nodeMemory = 8 << 30
)

func resourceOf(spec corev1.Container, from *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(from.Resource, ".")
	list := spec.Resources.Limits
	if kind == "requests" {
		list = spec.Resources.Requests
	}
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok {
		fallback := int64(nodeCPU)
		if name == "memory" {
			fallback = nodeMemory
		}
		quantity = *resource.NewQuantity(fallback, resource.DecimalSI)
	}
	divisor := 1.0
	if !from.Divisor.IsZero() {
		divisor = from.Divisor.AsApproximateFloat64()
	}
	return strconv.FormatInt(int64(math.Ceil(quantity.AsApproximateFloat64()/divisor)), 10), nil
}

// expand replaces $(NAME) by values, and $$ by one $. Unknown names are unchanged.
func expand(text string, values map[string]string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		if text[i+1] == '$' {
			out.WriteByte('$')
			i++
			continue
		}
		if end := strings.IndexByte(text[i:], ')'); text[i+1] == '(' && end > 0 {
			if value, ok := values[text[i+2:i+end]]; ok {
				out.WriteString(value)
				i += end
				continue
			}
		}
		out.WriteByte('$')
	}
	return out.String()
}

func (p *pod) configMap(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	var found corev1.ConfigMap
	err := p.l.api.get(ctx, "/api/v1/namespaces/"+p.object.Namespace+"/configmaps/"+name, &found)
	if isStatus(err, 404) && optional != nil && *optional {
		return nil, nil
	}
	data := map[string]string{}
	for key, value := range found.BinaryData {
		data[key] = string(value)
	}
	for key, value := range found.Data {
		data[key] = value
	}
	return data, err
}

func (p *pod) secret(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	var found corev1.Secret
	err := p.l.api.get(ctx, "/api/v1/namespaces/"+p.object.Namespace+"/secrets/"+name, &found)
	if isStatus(err, 404) && optional != nil && *optional {
		return nil, nil
	}
	data := map[string]string{}
	for key, value := range found.Data {
		data[key] = string(value)
	}
	return data, err
}
