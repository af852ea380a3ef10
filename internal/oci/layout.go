package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// refName is the annotation of the OCI image specification for an image's tag
// in a layout.
const refName = "org.opencontainers.image.ref.name"

// WriteIndex writes an index to a tar file with an OCI image layout, which
// container engines import and skopeo reads as oci-archive:.
func WriteIndex(path, tag string, index v1.ImageIndex) error {
	return writeLayout(path, func(to layout.Path) error {
		return to.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: tag}))
	})
}

// WriteImage is WriteIndex for an image.
func WriteImage(path, tag string, image v1.Image) error {
	return writeLayout(path, func(to layout.Path) error {
		return to.AppendImage(image, layout.WithAnnotations(map[string]string{refName: tag}))
	})
}

// writeLayout packs the layout that write writes. It replaces an existing file
// once the new one is complete.
func writeLayout(path string, write func(layout.Path) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	folder, err := os.MkdirTemp(filepath.Dir(path), ".layout-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	to, err := layout.Write(filepath.Join(folder, "layout"), empty.Index)
	if err != nil {
		return err
	}
	if err := write(to); err != nil {
		return err
	}
	archive := filepath.Join(folder, "archive")
	if err := pack(archive, string(to)); err != nil {
		return err
	}
	return os.Rename(archive, path)
}

// pack writes the files of a folder to a tar file, sorted by name and without times.
func pack(path, folder string) (err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := tar.NewWriter(out)
	// WalkDir sorts by name, so the order is deterministic.
	err = fs.WalkDir(os.DirFS(folder), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return packFile(archive, folder, name)
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

func packFile(archive *tar.Writer, folder, name string) error {
	content, err := os.Open(filepath.Join(folder, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size(), ModTime: made.Time, Format: tar.FormatUSTAR}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, content)
	return err
}
