#!/bin/bash
# Makes a container base image from this host's own Python interpreter: no registry, no package manager, no root file
# system of a distribution. For machines that cannot pull `python:3.11-slim` (continuous integration, air-gapped hosts).
#
#   usage: bootstrap_base.sh TAG [PYTHON]
#
# TAG     name of the image to create, e.g. move37-base:host. Never reuse the name of a published image: what this makes
#         is not that image, and a manifest that says so would be wrong.
# PYTHON  interpreter to take (default: python3). A virtual environment is followed to the interpreter it was made from.
#
# In the image: the interpreter under /opt/py, its standard library, pip, dash as /bin/sh, and the closure of shared
# libraries that `ldd` names for them, plus the few that PyTorch's wheels load. Nothing else: no coreutils, no setuid file.
# Not covered: musl hosts, and interpreters whose standard library lies outside sys.base_prefix.
set -euo pipefail

fail() { printf 'bootstrap_base.sh: %s\n' "$*" >&2; exit 1; }

[ $# -ge 1 ] || fail "usage: bootstrap_base.sh TAG [PYTHON]"
tag=$1
python=${2:-python3}

for tool in docker tar ldd ldconfig dash; do
    PATH=$PATH:/sbin:/usr/sbin command -v "$tool" >/dev/null || fail "needs '$tool', which is not on PATH"
done
command -v "$python" >/dev/null || fail "no interpreter '$python'"
PATH=$PATH:/sbin:/usr/sbin

# -I: the answer must not depend on the caller's environment or working directory.
facts=$("$python" -I -c '
import pathlib, sys, sysconfig
import pip
version = "%d.%d" % sys.version_info[:2]
for fact in (sys.base_prefix, version, sysconfig.get_path("stdlib"), pathlib.Path(pip.__file__).parent):
    print(fact)
') || fail "$python cannot describe itself (is pip installed in it?)"
{ read -r prefix; read -r version; read -r stdlib; read -r pip; } <<<"$facts"
interpreter=$prefix/bin/python$version
[ -x "$interpreter" ] || fail "$interpreter is missing"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{opt/py/bin,"opt/py/lib/python$version/site-packages",tmp,etc,proc,sys,dev,usr/bin,usr/lib,usr/lib64}
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
chmod 1777 "$root/tmp"

cp -L "$interpreter" "$root/opt/py/bin/"
ln -s "python$version" "$root/opt/py/bin/python3"
ln -s "python$version" "$root/opt/py/bin/python"
tar -C "$stdlib" --exclude=test --exclude=tests --exclude=site-packages --exclude=dist-packages --exclude=idlelib \
    --exclude=tkinter --exclude=lib2to3 --exclude=ensurepip --exclude='config-*' -cf - . |
    tar -C "$root/opt/py/lib/python$version" -xf -
cp -r "$pip" "$root/opt/py/lib/python$version/site-packages/"
mkdir -p "$root/opt/py/lib/python3"  # where Debian's own interpreter looks instead
ln -s "../python$version/site-packages" "$root/opt/py/lib/python3/dist-packages"
for shared in "$prefix"/lib/libpython"$version".so*; do
    if [ -e "$shared" ]; then cp -a "$shared" "$root/opt/py/lib/"; fi
done

copy_library() {  # to the same path inside; -L: the file, not a link that may lead outside
    [ -e "$root$1" ] && return
    mkdir -p "$root$(dirname "$1")"
    cp -L "$1" "$root$1"
}

# What the interpreter, its extension modules and the shell are linked against, the dynamic loader among them.
# Graphical toolkits are linked by modules that are not shipped.
{ ldd "$interpreter" "$(command -v dash)"; find "$root/opt" -name '*.so*' -type f -exec ldd {} + 2>/dev/null || true; } |
    grep -oE '(=> )?/[^ ]+\.so[^ ]*' | sed 's/^=> //' | grep -vE '/opt/py|libX|libxcb|libtcl|libtk|libpython' | sort -u |
    while read -r library; do copy_library "$library"; done

# What PyTorch's wheels and the C library's name look-ups load at run time.
for name in libstdc++.so.6 libgcc_s.so.1 libgomp.so.1 libm.so.6 libnss_files.so.2 librt.so.1 libdl.so.2 libpthread.so.0 libutil.so.1; do
    library=$(ldconfig -p | awk -v name="$name" '$1 == name { print $NF; exit }')
    if [ -n "$library" ]; then copy_library "$library"; fi
done
cp -L "$(command -v dash)" "$root/usr/bin/sh"

printf 'root:x:0:0::/tmp:/nonexistent\nsandbox:x:64037:64037::/tmp:/nonexistent\n' >"$root/etc/passwd"
printf 'root:x:0:\nsandbox:x:64037:\n' >"$root/etc/group"

tar -C "$root" --numeric-owner --owner=0 --group=0 --sort=name -cf - . | docker import \
    -c 'ENV PATH=/opt/py/bin:/bin LD_LIBRARY_PATH=/opt/py/lib PYTHONHOME=/opt/py' \
    -c 'LABEL move37.bootstrap=true' - "$tag" ||
    fail "the Docker engine refused the import (is it running, and may this user talk to it?)"
