#!/usr/bin/env bash
# Sets up .venv and runs the project in it; see usage below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
./run.sh                  tunes the prompted CLIP on the embedded demo
./run.sh test [ARGS]      runs the tests
./run.sh lint             runs ruff and pyright
./run.sh ARGS             runs python -m vop_jax.main with these arguments
REQUIREMENTS=requirements-tpu.txt ./run.sh ...   another set of packages
PYTHON=python3.12 ./run.sh ...                   another Python
TEXT
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    if [ -n "$candidate" ] && "$candidate" -c \
      'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or 3.12 is needed; install it or set PYTHON to its path" >&2
  exit 2
}

# Installs a requirements file into .venv unless that very file is installed already.
install() {
  local file=$1 stamp wanted started=$SECONDS
  if [ ! -x .venv/bin/python ]; then
    "$(find_python)" -m venv .venv
  fi
  stamp=".venv/installed-$(basename "$file")"
  wanted=$(cat requirements*.txt | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  echo "installing $file into .venv ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file" \
    2> >(grep -v "is ignored: it is neither" >&2)
  echo "$wanted" > "$stamp"
  echo "installed in $((SECONDS - started)) s" >&2
}

requirements=${REQUIREMENTS:-requirements.txt}
if [ ! -f "$requirements" ]; then
  echo "error: $requirements does not exist; set REQUIREMENTS to one of requirements*.txt" >&2
  exit 2
fi
case "${1:-}" in
  -h | --help)
    usage
    ;;
  "")
    install "$requirements"
    exec .venv/bin/python -m vop_jax.main --config=configs/vop.py
    ;;
  test)
    install requirements-test.txt
    exec .venv/bin/python -m pytest "${@:2}"
    ;;
  lint)
    install requirements-test.txt
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    # It would otherwise look for the packages in the Python that PATH finds first.
    exec .venv/bin/pyright --pythonpath .venv/bin/python
    ;;
  *)
    install "$requirements"
    exec .venv/bin/python -m vop_jax.main "$@"
    ;;
esac
