package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// entry is a file of an archive.
type entry struct {
	// name is relative to the archive's one folder, with slashes.
	name string
	mode fs.FileMode
	// from is the file with the content.
	from string
}

// archiver is what the two formats have in common.
type archiver interface {
	add(name string, mode fs.FileMode, size int64, content io.Reader) error
	Close() error
}

// writeArchive packs files into a new archive, below one folder. It is a zip
// file if its name ends so, and else a compressed tar file. The same contents,
// modes and time give the same bytes, in whatever order the entries are given:
// they are sorted, and belong to nobody.
func writeArchive(file, folder string, at time.Time, entries []entry) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", file, err)
		}
	}()
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var archive archiver
	if strings.HasSuffix(file, ".zip") {
		archive = &zipArchive{zip.NewWriter(out), at}
	} else {
		compressed := gzip.NewWriter(out)
		archive = &tarArchive{tar.NewWriter(compressed), compressed, at}
	}
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for _, each := range sorted {
		if err := addFile(archive, path.Join(folder, each.name), each); err != nil {
			return err
		}
	}
	return archive.Close()
}

func addFile(archive archiver, name string, from entry) error {
	content, err := os.Open(from.from)
	if err != nil {
		return err
	}
	defer content.Close()
	info, err := content.Stat()
	if err != nil {
		return err
	}
	return archive.add(name, from.mode, info.Size(), content)
}

// tarArchive is a tar file compressed with gzip, whose header names no file and no time.
type tarArchive struct {
	*tar.Writer
	compressed *gzip.Writer
	at         time.Time
}

func (a *tarArchive) add(name string, mode fs.FileMode, size int64, content io.Reader) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: a.at, Format: tar.FormatUSTAR}
	if err := a.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(a, content)
	return err
}

func (a *tarArchive) Close() error {
	return errors.Join(a.Writer.Close(), a.compressed.Close())
}

type zipArchive struct {
	*zip.Writer
	at time.Time
}

func (a *zipArchive) add(name string, mode fs.FileMode, _ int64, content io.Reader) error {
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.at}
	header.SetMode(mode.Perm())
	to, err := a.CreateHeader(header)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, content)
	return err
}
