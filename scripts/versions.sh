#!/usr/bin/env bash
# Runs the quick tests of conformance, of the native ops and of the hosts with the
# wheel that scripts/wheels.sh makes, outside the source tree: on every supported
# TensorFlow, each with the oldest and the newest Keras that it allows, in the oldest
# and the newest Python. Writes a table of the results to docs/versions.md. Needs the
# Pythons of keras_legacy_opt/supported.py, what wheels.sh needs, and on two cores
# some two hours. Arguments:
#   tensorflow==2.16  or another part of the requirements: only environments with
#                 it; the others keep their lines
#   --wheel FILE  this wheel, rather than a new one
#   --delete      each environment, 2.4 GB, when its tests have been run
# What takes long is started with $RUN_WITH before it, such as `nice`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export TF_CPP_MIN_LOG_LEVEL=2 PIP_DISABLE_PIP_VERSION_CHECK=1

wheel=
delete=
only=
while (($#)); do
  case $1 in
    --wheel) wheel=$(realpath "$2") && shift ;;
    --delete) delete=yes ;;
    *) only=$1 ;;
  esac
  shift
done
if [[ ! $wheel ]]; then
  scripts/wheels.sh
  wheel=$(realpath dist/*linux*.whl)
fi
parts=(conformance fused hosts)
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
cp -r tests examples pyproject.toml "$outside"

environments() { "${PYTHON:-python3}" keras_legacy_opt/supported.py environments; }

versions_in() {
  "$1/bin/python" - <<'PYTHON' 2>/dev/null
import importlib.metadata, platform

names = ("tensorflow", "tf_keras", "keras")
versions = map(importlib.metadata.version, names)
print("", platform.python_version(), *versions, sep=" | ", end=" |")
PYTHON
}

# The closing line of pytest, such as "120 passed, 1 skipped".
result_of() {
  local line
  line=$(grep -E "^=+ .*(passed|failed|error)" "$1" | tail -n 1 |
    sed -E 's/=+ ?//g; s/ in [0-9].*//; s/, [0-9]+ deselected//; s/, [0-9]+ warnings?//')
  echo " ${line:-no result} |"
}

# Runs the tests in the environment $1, and writes its line of the table to $1.line.
test_in() {
  local python=$PWD/$1/bin/python line
  line=$(versions_in "$1" | sed 's/^ //')
  for part in "${parts[@]}"; do
    (cd "$outside" && ${RUN_WITH:-} "$python" -m pytest --numprocesses=auto \
      --dist=loadgroup --no-loadscope-reorder --quick "tests/$part" \
      2>&1) | tee "$1.$part.log" || true
    line+=$(result_of "$1.$part.log")
  done
  echo "$line" >"$1.line"
}

write_table() {
  cat <<'TABLE'
# Supported versions

`scripts/versions.sh` installed a wheel in each of these environments, and ran quick
tests there: of the optimizers against those of tf_keras and in NumPy
(`tests/conformance`), of the native ops, and of what Keras 3 and tf_keras do with
them (`tests/hosts`). All of them need the native library, or compare with it.

| Python | TensorFlow | tf_keras | Keras | conformance | native ops | hosts |
|---|---|---|---|---|---|---|
TABLE
  environments | while read -r version requirements; do
    # shellcheck disable=SC2086 # Several requirements.
    cat "$(environment_of "$version" $requirements).line" 2>/dev/null || true
  done
}

while read -r version requirements; do
  [[ $requirements == *"$only"* ]] || continue
  # shellcheck disable=SC2086
  dir=$(environment_of "$version" $requirements)
  printf '\n== Python %s, %s (%d min)\n' "$version" "$requirements" $((SECONDS / 60))
  # shellcheck disable=SC2086
  if PYTHON=$(find_python "$version") make_environment_of "$dir" $requirements &&
    ${RUN_WITH:-} "$dir/bin/python" -m pip install --quiet "$wheel[test]" $requirements
  then
    test_in "$dir"
  else
    echo "| $version | cannot be installed: $requirements |||||" >"$dir.line"
  fi
  if [[ $delete ]]; then rm -rf "$dir"; fi
done < <(environments)

write_table >docs/versions.md
cat docs/versions.md
