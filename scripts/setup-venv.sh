#!/bin/sh
# Make the virtual environment from the lock file: setup-venv.sh DIRECTORY PYTHON
#
# Downloads from the package index that pip and uv are configured for; the lock's hashes say what is taken. Certificates
# are judged by the system's store, so that a company's own root holds for uv as it does for pip.
set -eu
venv=$1 python=$2
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}" VIRTUAL_ENV="$venv"

fail() { # fail MESSAGE NEXT-STEP
    printf 'setup-venv: %s\n  next: %s\n' "$1" "$2" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is not Python 3.11 or later" "install one and name it: make venv PYTHON=python3.11"

install() { # install COMMAND...: run it; explain its failure
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    trap 'exit 130' INT TERM
    "$@" >"$log" 2>&1 && return
    tail -n 12 "$log" >&2
    if grep -qiE 'No space left|os error 28' "$log"; then
        fail "the disk is full" "free about 1 GB (df -h . ${TMPDIR:-/tmp}), then run it again"
    elif grep -qiE 'certificate' "$log"; then
        fail "the package index's certificate is not trusted" \
            "add your proxy's root to /usr/local/share/ca-certificates, run update-ca-certificates, then run it again"
    elif grep -qiE 'dns error|name resolution|resolve|unreachable|timed out|refused|reset|retries' "$log"; then
        fail "the Python package index cannot be reached" \
            "check the network, the proxy and pip's configuration (pip config list), then run it again"
    fi
    fail "the virtual environment could not be made" "read the lines above, mend that, then run it again"
}

# A venv whose making was interrupted has a python and no pip.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || install "$python" -m venv --clear "$venv"
install "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.5"
install "$venv/bin/uv" pip install --quiet --require-hashes --requirement requirements.lock
install "$venv/bin/uv" pip install --quiet --no-deps --editable .
