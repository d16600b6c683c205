#!/usr/bin/env bash
# Sets up .venv and runs the tests: needs Python and a compiler.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "tensorflow>=2.16,<2.22"
.venv/bin/python -m pytest --numprocesses=auto --dist=loadfile "$@"
