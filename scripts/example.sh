#!/usr/bin/env bash
# Sets up .venv and trains the digits classifier: needs Python and a compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment .venv "$newest_tensorflow"
TF_CPP_MIN_LOG_LEVEL=2 .venv/bin/python examples/digits_classifier.py "$@"
