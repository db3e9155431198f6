#!/bin/bash
# Usage: build_venv.sh VENV WHEELS PYTHON     builds the virtual environment VENV
#        build_venv.sh VENV                   removes it
# It is built with PYTHON from the folder WHEELS that `medtuner fetch` filled: no network, every file verified by its hash,
# `pip` run from its own wheel (Python may come without ensurepip).
set -eu
venv=$1
folder=$(dirname "$venv")
if [ $# = 1 ]; then
    rm -rf "$venv" "$venv.lock"
    rmdir "$folder" 2> /dev/null || true
    exit 0
fi
wheels=$2 python=$3
# Names in a shared /tmp can be foretold: what another user laid there is not run.
mkdir -m 700 -p "$folder"
if [ -L "$folder" ] || [ ! -O "$folder" ]; then
    echo "$folder is another user's" >&2
    exit 2
fi
# Two tasks that share this disk take turns; the second finds the work done. flock is reliable on local disks.
exec 9> "$venv.lock"
flock 9
[ -e "$venv/ready" ] && exit 0
rm -rf "$venv"
[ -e "$wheels/SHA256SUMS" ] || { echo "$wheels: no wheels here; run medtuner fetch on the login node" >&2; exit 2; }
(cd "$wheels" && sha256sum --quiet --strict -c SHA256SUMS) || {
    echo "$wheels: damaged; run medtuner fetch on the login node" >&2
    exit 2
}
"$python" -m venv --without-pip "$venv"
pip=$(echo "$wheels"/pip-*.whl)  # Python runs a wheel as it runs a zip file
"$venv/bin/python" "$pip/pip" install --isolated --quiet --no-index --no-deps --find-links "$wheels" \
    --requirement "$wheels/requirements.txt"
touch "$venv/ready"
echo "$venv: $(wc -l < "$wheels/requirements.txt") packages from $wheels"
