#!/bin/sh
# Make the virtual environment from the lock file: setup-venv.sh DIRECTORY PYTHON
set -eu
venv=$1 python=$2
test -x "$venv/bin/python" || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.5"
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --require-hashes --requirement requirements.lock
VIRTUAL_ENV=$venv "$venv/bin/uv" pip install --quiet --no-deps --editable .
