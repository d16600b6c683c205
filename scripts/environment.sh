# Sourced by the other scripts.

# The newest that is known; users may install later ones.
newest_tensorflow=$("${PYTHON:-python3}" keras_legacy_opt/supported.py)

# find_python VERSION: prints an interpreter of this version (3.10), if there is
# one, else python3.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import venv" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo python3
}

# make_environment DIR REQUIREMENT...
#
# Creates the virtual environment DIR, unless it is there, and installs the
# REQUIREMENTs and then this checkout with its test dependencies.
make_environment() {
  # TensorFlow comes first, because the package is built against the TensorFlow
  # of the environment: hence no build isolation.
  make_environment_of "$@"
  "$1/bin/python" -m pip install --quiet --no-build-isolation \
    --editable ".[test]" "${@:2}"
}

# make_environment_of DIR REQUIREMENT...: the same, without this checkout.
make_environment_of() {
  local dir=$1 python=${PYTHON:-python3}
  shift
  "$python" -c '
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Python 3.10 to 3.13 is needed, {sys.executable} is "
             f"{sys.version.split()[0]}. Choose another one: PYTHON=python3.11 "
             "before the command.")'
  if ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
    # Debian has venv without pip in it unless python3-venv is installed.
    "$python" -m venv --clear "$dir" >/dev/null 2>&1 || {
      "$python" -m venv --clear --without-pip "$dir"
      "$python" -m pip --python "$dir/bin/python" install --quiet pip
    }
  fi
  ${RUN_WITH:-} "$dir/bin/python" -m pip install --quiet --upgrade pip \
    "setuptools>=77" "$@"
}

# environment_of PYTHON-VERSION REQUIREMENT...: the folder for an environment of
# a line of `supported.py environments`.
environment_of() {
  echo ".versions/$(echo "py$*" | tr -c 'a-z0-9.\n' -)"
}
