package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// blob is a file of a commit's tree.
type blob struct {
	mode, hash, path string
}

// isLink reports whether it is a symbolic link.
func (b blob) isLink() bool { return b.mode == "120000" }

// export writes the part of a commit that the daemon reads into a folder, byte for
// byte: the policy folder and, outside of it, the enclosing CUE module.
func (r repo) export(ctx context.Context, commit, folder, to string) error {
	if err := os.MkdirAll(filepath.Join(to, filepath.FromSlash(folder)), 0o755); err != nil {
		return err
	}
	if _, err := r.git(ctx, "cat-file", "-e", commit+":"+strings.TrimSuffix(folder, ".")); err != nil {
		return fmt.Errorf("it has no folder %s: set --path to the folder of the policies", folder)
	}
	listing, err := r.git(ctx, "ls-tree", "-r", "-z", "--full-tree", commit)
	if err != nil {
		return err
	}
	var blobs []blob
	for line := range strings.SplitSeq(listing, "\x00") {
		meta, name, ok := strings.Cut(line, "\t")
		fields := strings.Fields(meta)
		if ok && len(fields) == 3 && fields[1] == "blob" && concernsPolicies(name, folder) {
			blobs = append(blobs, blob{fields[0], fields[2], name})
		}
	}
	return r.writeBlobs(ctx, blobs, to)
}

func concernsPolicies(name, folder string) bool {
	return folder == "." || strings.HasPrefix(name, folder+"/") || path.Ext(name) == ".cue" ||
		slices.Contains(strings.Split(name, "/"), "cue.mod")
}

// writeBlobs writes all files with a single git process.
func (r repo) writeBlobs(ctx context.Context, blobs []blob, to string) (err error) {
	if len(blobs) == 0 {
		return nil
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	command := r.command(ctx, "cat-file", "--batch")
	var names strings.Builder
	for _, b := range blobs {
		names.WriteString(b.hash + "\n")
	}
	command.Stdin = strings.NewReader(names.String())
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return gitFailed(ctx, "cat-file", err, "")
	}
	defer func() {
		// After a failure git may still be writing; closing the pipe ends it.
		output.Close()
		if waited := command.Wait(); err == nil && waited != nil {
			err = gitFailed(ctx, "cat-file", waited, "")
		}
	}()
	reader := bufio.NewReader(output)
	for _, b := range blobs {
		if err := writeBlob(root, reader, b); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("writing %q: %w", b.path, err)
		}
	}
	return nil
}

// writeBlob writes the next object from git cat-file.
func writeBlob(root *os.Root, from *bufio.Reader, b blob) error {
	header, err := from.ReadString('\n')
	if err != nil {
		return fmt.Errorf("git did not return object %s: %w", b.hash, err)
	}
	fields := strings.Fields(header)
	if len(fields) != 3 || fields[1] != "blob" {
		return fmt.Errorf("git does not have object %s: %s", b.hash, strings.TrimSpace(header))
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("git gives object %s a size of %s", b.hash, fields[2])
	}
	if err := root.MkdirAll(path.Dir(b.path), 0o755); err != nil {
		return err
	}
	content := io.LimitReader(from, size)
	if b.isLink() {
		err = writeLink(root, content, b.path)
	} else {
		err = writeFile(root, content, b.path)
	}
	if err != nil {
		return err
	}
	// Skip the rest of a truncated link, and the newline after each object.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return err
	}
	_, err = from.Discard(1)
	return err
}

// writeLink creates the symbolic link, so that validation rejects it as the daemon does. Nothing follows it.
func writeLink(root *os.Root, content io.Reader, name string) error {
	destination, err := io.ReadAll(io.LimitReader(content, 4095))
	if err != nil {
		return err
	}
	return root.Symlink(string(destination), name)
}

func writeFile(root *os.Root, content io.Reader, name string) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
