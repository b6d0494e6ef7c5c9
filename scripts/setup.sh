# Sourced by scripts/demo, scripts/test and scripts/check: makes .venv and installs the project into it; quick
# when nothing changed.
# PYTHON chooses another interpreter than python3. The package index is whichever pip is configured with.

set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

give_up() {
  printf 'scripts/%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# The stamp is the very text that decides what is installed; the folder is in it because a moved .venv does
# not work.
# What follows [tool.ruff] in pyproject.toml only configures tools.
stamp() {
  printf '%s\n' "$PWD"
  sed '/^\[tool\.ruff/,$d' pyproject.toml
  cat constraints.txt
}

check_machine() {
  command -v "$python" >/dev/null ||
    give_up "'$python' is not here. Install Python 3.11 or newer, or name one: PYTHON=python3.12 $0"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    give_up "Python 3.11 or newer is needed, '$python' is $("$python" --version 2>&1)." \
      "Name a newer one: PYTHON=python3.12 $0"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    give_up "'$python' cannot make virtual environments (no venv or ensurepip)." \
      "On Debian or Ubuntu: apt install python3-venv"
  # Not every dependency ships a wheel for every Python; without a compiler pip's own message is hundreds of
  # lines long.
  command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
    give_up "no C compiler (cc, gcc or clang). On Debian or Ubuntu: apt install build-essential"
}

# pip's script names its interpreter by its full path, so it fails, or answers from elsewhere, in a folder
# that was moved or copied.
usable() {
  [[ "$(.venv/bin/pip --version 2>/dev/null)" == *" $PWD/.venv/"* ]]
}

make_venv() {
  local python=${PYTHON:-python3}
  check_machine
  printf 'Setting up .venv in %s; this downloads about 1 GB (more with CUDA) and takes some minutes.\n' "$PWD"
  "$python" -m venv --clear .venv ||
    give_up "could not make .venv with '$python' (see above);" \
      "is $PWD writable, and is there room on the disk?"
}

set_up() {
  usable || make_venv
  .venv/bin/python -m pip install --constraint constraints.txt --editable '.[demo,dev,evaluate,history]' ||
    give_up "pip could not install the project (see its last lines above)." \
      "Check the network and 'pip config list', then call this again: it goes on where it stopped"
  # Builds against GMP, which not every machine has; without it `paris-bootstrap check` says how to install it
  # and its tests are skipped.
  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[probe]' ||
    printf '%s\n' 'Not installed: the probe of "paris-bootstrap check" (see above).' \
      'On Debian or Ubuntu: apt install libgmp-dev, delete .venv/stamp, call this again.'
  stamp >.venv/stamp.part
  mv .venv/stamp.part .venv/stamp
}

if ! stamp | cmp -s - .venv/stamp 2>/dev/null; then
  set_up </dev/null >&2
fi
