#!/usr/bin/env bash
# Sets up .venv and runs the project in it; see usage below.
# Python 3.11 comes first since all tests run on it, then 3.13, which the quick ones run
# on. `uv` is asked to install one only where there is none.
set -euo pipefail

caller=$PWD
script=${BASH_SOURCE[0]}
# A link to the script leads to the folder that the script is in.
while [ -L "$script" ]; do
  target=$(readlink -- "$script")
  case $target in
    /*) script=$target ;;
    *) script=$(dirname -- "$script")/$target ;;
  esac
done
unset CDPATH
cd -P -- "$(dirname -- "$script")"

usage() {
  cat <<'TEXT'
./run.sh                  tunes the prompted CLIP on the embedded demo
./run.sh test [ARGS]      runs the tests
./run.sh lint             runs ruff and pyright
./run.sh python           prints the Python that .venv is or would be made with
./run.sh ARGS             runs python -m vop_jax.main with these arguments
REQUIREMENTS=requirements-tpu.txt ./run.sh ...   another set of packages
PYTHON=3.13 ./run.sh ...                         another Python, by version or path
VENV=.venv-3.13 ./run.sh ...                     another environment
.venv/bin/python -m vop_jax                      lists all commands, once it is set up
Python 3.11, 3.12 and 3.13 are supported.
TEXT
}

# In the order in which they are looked for.
versions="3.11 3.13 3.12"

fail() {
  echo "error: $1" >&2
  exit 2
}

# Prints what is wrong with a Python, or nothing.
fault_of() {
  local found
  if [ -d "$1" ]; then
    echo "is a folder"
  elif ! command -v -- "$1" >/dev/null; then
    if [ -e "$1" ]; then echo "is not an executable file"; else echo "does not exist"; fi
  elif ! found=$(version_of "$1"); then
    echo "is not a Python that starts"
  elif [ -z "$found" ]; then
    echo "is not a Python"
  elif [[ " $versions " != *" $found "* ]]; then
    echo "is Python ${found##*$'\n'}"
  elif ! "$1" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "lacks the modules venv and ensurepip (Debian and Ubuntu: apt install python$found-venv)"
  fi
}

# Prints the places where a Python of a version may be, best first.
places_of() {
  local place
  echo "python$1"
  # pyenv's own commands fail for a version that is installed but not selected.
  for place in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions/$1".*/bin/python"$1"; do
    [ ! -x "$place" ] || echo "$place"
  done
}

# Prints the Python of a version that uv has, or with a second argument installs.
uv_python() {
  command -v uv >/dev/null || return 0
  if [ -n "${2:-}" ]; then
    echo "installing Python $1 with uv ..." >&2
    uv python install "$1" >&2 || return 0
  fi
  uv python find --no-project "$1" 2>/dev/null || true
}

# Sets `python` to a Python of one of these versions, or leaves it empty and `faults`
# to what is wrong with those that were found.
find_version() {
  local candidate fault version may_install
  python="" faults=""
  for version in "$@"; do
    while read -r candidate; do
      command -v -- "$candidate" >/dev/null || continue
      fault=$(fault_of "$candidate")
      if [ -z "$fault" ]; then
        python=$candidate
        return
      fi
      faults="$faults, $candidate $fault"
    done < <(places_of "$version")
  done
  for candidate in python3 python; do
    command -v "$candidate" >/dev/null || continue
    fault=$(fault_of "$candidate")
    if [ -n "$fault" ]; then
      faults="$faults, $candidate $fault"
    elif [[ " $* " == *" $(version_of "$candidate") "* ]]; then
      python=$candidate
      return
    fi
  done
  for may_install in "" yes; do
    for version in "$@"; do
      candidate=$(uv_python "$version" "$may_install")
      if [ -n "$candidate" ] && [ -z "$(fault_of "$candidate")" ]; then
        python=$candidate
        return
      fi
    done
  done
}

# Sets `python` to the Python that .venv is made with.
find_python() {
  local fault faults
  if [[ -n "${PYTHON:-}" && " $versions " == *" $PYTHON "* ]]; then
    find_version "$PYTHON"
    [ -n "$python" ] || fail "Python $PYTHON is not installed (found: ${faults:+${faults#, }}${faults:-none})"
  elif [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
    case $python in
      /*) ;;
      # Relative to where the command was given, not to this folder.
      */*) python=$caller/$python ;;
    esac
    fault=$(fault_of "$python")
    [ -z "$fault" ] || fail "PYTHON=$PYTHON $fault; set it to a Python 3.11, 3.12 or 3.13"
  else
    # shellcheck disable=SC2086  # A list.
    find_version $versions
    [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed; install it or set PYTHON to its path (found: ${faults:+${faults#, }}${faults:-none})"
  fi
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints what tells one Python's environment from another's: version and place.
identity_of() {
  "$1" -c 'import sys; print(*sys.version_info[:2], sys.base_prefix)' 2>/dev/null
}

# Prints why .venv has to be made, or nothing if it works.
need_of_venv() {
  local own version
  if [ ! -e "$venv" ] && [ ! -L "$venv" ]; then
    echo "new"
  elif ! own=$(identity_of "$venv/bin/python"); then
    echo "its Python does not start"
  elif [ -e "$venv/installing" ]; then
    echo "an installation into it was interrupted"
  elif ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    echo "it was not finished"
  elif version=$(cut -d " " -f 1,2 <<<"$own") && [[ " $versions " != *" ${version/ /.} "* ]]; then
    echo "it is of Python ${version/ /.}"
  elif [ -n "${PYTHON:-}" ]; then
    find_python
    [ "$own" = "$(identity_of "$python")" ] || echo "it is not of PYTHON=$PYTHON"
  fi
}

# Makes .venv, in place of one that does not work.
make_venv() {
  local need=$1 log
  find_python
  if [ "$need" != new ]; then
    if [ -L "$venv" ] || { [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; }; then
      fail "$PWD/$venv cannot be used ($need) and was not made by this script; move it away"
    fi
    echo "making $venv anew with $python: $need" >&2
  fi
  if ! log=$("$python" -m venv --clear "$venv" 2>&1); then
    fail "$python cannot make $PWD/$venv: ${log##*$'\n'}"
  fi
}

# Makes .venv and installs a requirements file into it, unless both are done already.
install() {
  local file=$1 stamp wanted need started=$SECONDS log
  need=$(need_of_venv)
  stamp=$venv/installed-$(basename -- "$file")
  wanted=$(cat requirements*.txt "$file" | cksum)
  if [ -z "$need" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    make_importable
    return
  fi
  { [ -w . ] && { [ ! -e "$venv" ] || [ -w "$venv" ]; }; } ||
    fail "$PWD cannot be written, so nothing can be installed there"
  find_python
  # One at a time: the tasks of a job start together, and may share the folder.
  exec 9>"$venv.lock"
  "$python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("waiting for another ./run.sh that installs ...", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # A file system without locks.
'
  need=$(need_of_venv)
  [ -z "$need" ] || make_venv "$need"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing $file into $venv ..." >&2
    log=$venv/install.log
    # Packages that a killed pip left may be incomplete; this file then stays.
    touch "$venv/installing"
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check \
      --no-input -r "$file" >"$log" 2>&1; then
      grep -q 'No space left' "$log" || rm -f "$venv/installing"
      fail "$file cannot be installed ($(reason_in "$log")); the same command tries again, $PWD/$log says more"
    fi
    rm -f "$venv/installing"
    echo "$wanted" >"$stamp"
    echo "installed in $((SECONDS - started)) s" >&2
  fi
  exec 9>&-
  make_importable
}

# Lets scripts in any folder import the project, from where it lies today.
make_importable() {
  local place other
  for place in "$venv"/lib/python*/site-packages; do
    other=$(cat "$place/vop_jax.pth" 2>/dev/null) || true
    if [ "$other" != "$PWD" ] && [ -w "$place" ]; then
      # A link to the environment of another clone, which imports its own code.
      if [ -L "$venv" ] && [ -f "$other/run.sh" ]; then
        echo "$venv is a link and imports $other; outside $PWD its code is used" >&2
        continue
      fi
      echo "$PWD" >"$place/vop_jax.pth"
    fi
  done
}

# The line of pip's output that says why it failed.
reason_in() {
  local line
  if grep -q -E 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError' "$1"; then
    line="the package index cannot be reached"
  else
    line=$(grep -m 1 'No space left' "$1" || grep -m 1 '^ERROR: ' "$1" || tail -n 1 "$1")
  fi
  echo "${line#ERROR: }" | cut -c 1-200
}

venv=${VENV:-.venv}
if [[ $venv == */* || $venv != .venv* ]]; then
  fail "VENV=$venv is not the name of an environment; set it to .venv or a name that starts so"
fi
requirements=${REQUIREMENTS:-requirements.txt}
if [ ! -f "$requirements" ]; then
  fault="does not exist"
  [ ! -e "$requirements" ] || fault="is not a file"
  fail "$requirements $fault; set REQUIREMENTS to one of requirements*.txt"
fi
# Without a home that can be written pip would make a folder called ~ here.
[ -w "${HOME:-/nonexistent}" ] || export PIP_NO_CACHE_DIR=1
# Training on a CPU allocates its temporaries anew in every step. In large pages of memory
# that takes a fifth of the page faults; only glibc reads it, and only when it starts.
train() {
  export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
  exec "$venv/bin/python" -m vop_jax.main "$@"
}

case "${1:-}" in
  -h | --help)
    usage
    ;;
  python)
    need=$(need_of_venv)
    if [ -z "$need" ]; then python=$PWD/$venv/bin/python; else find_python; fi
    command -v -- "$python"
    ;;
  "")
    install "$requirements"
    train --config=configs/vop.py
    ;;
  test)
    install requirements-test.txt
    exec "$venv/bin/python" -m pytest "${@:2}"
    ;;
  lint)
    install requirements-test.txt
    # By module: the scripts beside Python name a folder that may have been moved.
    "$venv/bin/python" -m ruff check .
    "$venv/bin/python" -m ruff format --check .
    # It would otherwise look for the packages in the Python that PATH finds first.
    exec "$venv/bin/python" -m pyright --pythonpath "$venv/bin/python"
    ;;
  *)
    install "$requirements"
    train "$@"
    ;;
esac
