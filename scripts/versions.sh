#!/usr/bin/env bash
# Runs the quick tests of conformance, of the native ops and of the hosts with the
# wheel that scripts/wheels.sh makes, outside the source tree: on every supported
# TensorFlow, each with the oldest and the newest Keras that it allows, in the oldest
# and the newest Python. Writes a table of the results to docs/versions.md. Needs the
# Pythons of keras_legacy_opt/supported.py, what wheels.sh needs, and on two cores
# some two hours. Arguments:
#   tensorflow==2.16  or another part of the requirements: only environments with
#                 it; the others keep their results
#   --part NAME   only these tests: conformance, fused or hosts
#   --wheel FILE  this wheel, rather than a new one
#   --delete      each environment, 2.4 GB, when its tests have been run
# What takes long is started with $RUN_WITH before it, such as `nice`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export TF_CPP_MIN_LOG_LEVEL=2 PIP_DISABLE_PIP_VERSION_CHECK=1

wheel=
parts=(conformance fused hosts)
delete=
only=
while (($#)); do
  case $1 in
    --wheel) wheel=$(realpath "$2") && shift ;;
    --part) parts=("$2") && shift ;;
    --delete) delete=yes ;;
    *) only=$1 ;;
  esac
  shift
done
if [[ ! $wheel ]]; then
  scripts/wheels.sh
  wheel=$(realpath dist/*linux*.whl)
fi
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

# Runs the tests in the environment $1; what they print is kept beside it.
test_in() {
  local python=$PWD/$1/bin/python part
  versions_in "$1" | sed 's/^ //' >"$1.versions"
  for part in "${parts[@]}"; do
    (cd "$outside" && ${RUN_WITH:-} "$python" -m pytest --numprocesses=auto \
      --dist=loadgroup --no-loadscope-reorder --quick "tests/$part" \
      2>&1 </dev/null) | tee "$1.$part.log" || failed+=("$part in $1")
  done
}

# The closing line of pytest, such as "120 passed, 1 skipped".
result_of() {
  local line
  line=$(grep -E "^=+ .*(passed|failed|error)" "$1" 2>/dev/null | tail -n 1 |
    sed -E 's/=+ ?//g; s/ in [0-9].*//; s/, [0-9]+ (deselected|warnings?)//g')
  echo -n " ${line:-not run} |"
}

write_table() {
  cat <<'TABLE'
# Supported versions

`scripts/versions.sh` installed a wheel in each of these environments, and ran quick
tests there: of the optimizers against those of tf_keras and in NumPy
(`tests/conformance`), of the wheel's native ops against TensorFlow's
(`tests/fused`), and of what Keras 3 and tf_keras do with the optimizers
(`tests/hosts`).

| Python | TensorFlow | tf_keras | Keras | conformance | native ops | hosts |
|---|---|---|---|---|---|---|
TABLE
  environments | while read -r version requirements; do
    # shellcheck disable=SC2086 # Several requirements.
    dir=$(environment_of "$version" $requirements)
    [ -e "$dir.versions" ] || continue
    cat "$dir.versions" | tr -d '\n'
    for part in conformance fused hosts; do result_of "$dir.$part.log"; done
    echo
  done
}

failed=()
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
    rm -f "$dir".*.log
    echo "| $version | cannot be installed: $requirements |||" >"$dir.versions"
    failed+=("$dir")
  fi
  if [[ $delete ]]; then rm -rf "$dir"; fi
done < <(environments)

write_table >docs/versions.md
cat docs/versions.md
if ((${#failed[@]})); then
  printf 'Failed: %s\n' "${failed[@]}"
  exit 1
fi
