//go:build linux

package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Image is a container image: its files and its configuration.
type Image struct {
	// Root is a folder with the image's files. Containers of the image share it, so
	// their root should be read-only.
	Root string
	// Entrypoint, Env, Dir, UID and GID are defaults that the Pod may override.
	Entrypoint []string
	Env        []string
	Dir        string
	UID, GID   int
	// Host are files and folders of this machine that are mounted read-only.
	Host []string
}

// AddImage makes an image available to Pods under a name.
func (l *Lab) AddImage(name string, image Image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images[name] = image
}

func (l *Lab) image(name string) (Image, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	image, ok := l.images[name]
	if !ok {
		return image, fmt.Errorf("the lab has no image %q", name)
	}
	return image, nil
}

// CopyImage makes an image available under another name too.
func (l *Lab) CopyImage(name, as string) error {
	image, err := l.image(name)
	if err != nil {
		return err
	}
	l.AddImage(as, image)
	return nil
}

// NewRoot creates an empty folder for an image's files.
func (l *Lab) NewRoot(name string) (string, error) {
	folder := filepath.Join(l.folder, "images", name)
	return folder, os.MkdirAll(folder, 0o755)
}

// Unpack extracts a tar stream, such as an image's layer, into a folder.
func Unpack(stream io.Reader, folder string) error {
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpacking an image: %w", err)
		}
		if !filepath.IsLocal(strings.TrimSuffix(header.Name, "/")) {
			return fmt.Errorf("unpacking an image: %q points out of it", header.Name)
		}
		path := filepath.Join(folder, header.Name)
		mode := os.FileMode(header.Mode).Perm()
		switch header.Typeflag {
		case tar.TypeDir:
			if err := os.MkdirAll(path, mode); err != nil {
				return err
			}
			if header.Mode&0o1000 != 0 {
				mode |= os.ModeSticky
			}
		case tar.TypeReg:
			if err := copyTo(path, archive, mode); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unpacking an image: %q is neither file nor folder", header.Name)
		}
		// Independent of the umask.
		if err := errors.Join(os.Chown(path, header.Uid, header.Gid), os.Chmod(path, mode)); err != nil {
			return err
		}
	}
}

func copyTo(path string, content io.Reader, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// addProxyImage creates the image of Istio's sidecars: the agent and the stock
// Envoy, with the libraries and iptables of this machine.
func (l *Lab) addProxyImage() error {
	root, err := l.NewRoot("proxyv2")
	if err != nil {
		return err
	}
	bootstrap, err := os.ReadFile(chart("envoy_bootstrap.json"))
	if err != nil {
		return err
	}
	// Only Istio's own build of Envoy has this extension, which the agent always adds for waypoints.
	const discovery = "{{- if .metadata_discovery }}"
	if !bytes.Contains(bootstrap, []byte(discovery)) {
		return fmt.Errorf("%s has no %s", chart("envoy_bootstrap.json"), discovery)
	}
	bootstrap = bytes.ReplaceAll(bootstrap, []byte(discovery), []byte("{{- if false }}"))
	if err := copyTo(filepath.Join(root, "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"), bytes.NewReader(bootstrap), 0o644); err != nil {
		return err
	}
	for from, to := range map[string]string{
		tool("pilot-agent"): "usr/local/bin/pilot-agent",
		tool("envoy"):       "usr/local/bin/envoy",
	} {
		file, err := os.Open(from)
		if err != nil {
			return err
		}
		err = copyTo(filepath.Join(root, to), file, 0o755)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	image := Image{Root: root, Entrypoint: []string{"/usr/local/bin/pilot-agent"}, Env: []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/"}
	for _, folder := range []string{"run", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o777); err != nil {
			return err
		}
	}
	for _, path := range []string{"/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/etc/alternatives", "/etc/ld.so.cache", "/etc/protocols"} {
		if _, err := os.Stat(path); err == nil {
			image.Host = append(image.Host, path)
		}
	}
	// On most machines these are links into /usr.
	for _, path := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(path); err == nil {
			if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
				return err
			}
		} else if _, err := os.Stat(path); err == nil {
			image.Host = append(image.Host, path)
		}
	}
	passwd := "root:x:0:0:root:/:/bin/sh\nistio-proxy:x:1337:1337::/:/bin/false\n"
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		return err
	}
	l.AddImage(ProxyImage, image)
	return nil
}
