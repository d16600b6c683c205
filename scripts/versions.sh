#!/usr/bin/env bash
# Runs the core of the tests on every supported TensorFlow, each with the oldest
# and the newest Keras that it allows, and writes a table of the results to
# docs/versions.md. Needs the Pythons of keras_legacy_opt/supported.py, a compiler,
# some 25 GB in .versions/, and an hour or two. An argument (2.16) selects lines.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export TF_CPP_MIN_LOG_LEVEL=2 PIP_DISABLE_PIP_VERSION_CHECK=1

table=docs/versions.md
mkdir -p .versions
cat >"$table.new" <<'TABLE'
# Supported versions

`scripts/versions.sh` ran the quick tests of the optimizers, the native ops and the
hosts in each of these environments:

| Python | TensorFlow | tf_keras | Keras | native ops | tests |
|---|---|---|---|---|---|
TABLE

versions_in() {
  "$1/bin/python" - <<'PYTHON' 2>/dev/null
import importlib.metadata, platform

names = ("tensorflow", "tf_keras", "keras")
print("", platform.python_version(), *map(importlib.metadata.version, names), sep=" | ")
PYTHON
}

native_in() {
  if "$1/bin/python" -c "
from keras_legacy_opt import fused
raise SystemExit(not fused.is_available())" >/dev/null 2>&1; then
    echo yes
  else
    echo no
  fi
}

while read -r version requirements; do
  [[ $requirements == *"tensorflow==${1:-}"* ]] || continue
  dir=.versions/$(echo "py$version-$requirements" | tr -c 'a-z0-9.\n' -)
  printf '\n== Python %s, %s (%d min)\n' "$version" "$requirements" $((SECONDS / 60))
  # shellcheck disable=SC2086 # Several requirements.
  if ! PYTHON=$(find_python "$version") make_environment "$dir" $requirements; then
    echo "| $version | cannot be installed: $requirements |||||" >>"$table.new"
    continue
  fi
  "$dir/bin/python" -m pytest --numprocesses=auto --dist=loadgroup \
    --no-loadscope-reorder --quick \
    tests/conformance tests/fused tests/hosts 2>&1 | tee "$dir/tests.log" || true
  result=$(grep -E "^=+ .*(passed|failed|error)" "$dir/tests.log" | tail -1 |
    sed -E 's/=+ ?//g; s/ in [0-9].*//')
  echo "$(versions_in "$dir") | $(native_in "$dir") | ${result:-no result} |" |
    sed 's/^ //' >>"$table.new"
done < <("${PYTHON:-python3}" keras_legacy_opt/supported.py environments)

mv "$table.new" "$table"
cat "$table"
