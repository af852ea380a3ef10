// Command kube-1.28 checks that an API server of Kubernetes 1.28, the oldest that hfi
// supports, knows every kind and field of the manifests on its standard input, which
// is a stream of YAML documents. It checks no values.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	n, err := check(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Kubernetes 1.28 knows all fields of %d objects\n", n)
}

// check returns the number of objects, and an error for those that are not known.
func check(from io.Reader) (n int, err error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return 0, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(from))
	var problems []error
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return n, errors.Join(problems...)
		}
		if err != nil {
			return n, err
		}
		if strings.TrimSpace(string(text)) == "" {
			continue
		}
		n++
		if _, _, err := decoder.Decode(text, nil, nil); err != nil {
			problems = append(problems, fmt.Errorf("%w in\n%s", err, text))
		}
	}
}
