#!/usr/bin/env bash
# Sets up .venv and runs the tests: needs Python and a compiler.
# With --quick, in three minutes: a case of each test for each optimizer and
# each Keras, and no test that starts processes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "$newest_tensorflow"
.venv/bin/python -m pytest --numprocesses=auto \
  --dist=loadgroup --no-loadscope-reorder "$@"
