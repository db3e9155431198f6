#!/bin/bash
# Usage: build_venv.sh VENV WHEELS PYTHON
# Builds the virtual environment VENV with PYTHON from the folder WHEELS that `medtuner fetch` filled: no network, every
# file verified by its hash, `pip` run from its own wheel (Python may come without ensurepip).
set -eu
venv=$1 wheels=$2 python=$3
mkdir -p "$(dirname "$venv")"
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
"$venv/bin/python" "$wheels"/pip-*.whl/pip install --quiet --no-index --no-deps --find-links "$wheels" \
    --requirement "$wheels/requirements.txt"
touch "$venv/ready"
echo "$venv: $(wc -l < "$wheels/requirements.txt") packages from $wheels"
