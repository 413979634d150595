# Sourced by the scripts beside it: goes to the project folder, makes or completes .venv there, and sets `python` to its Python.
# A stamp in .venv says that all is installed; then nothing is asked of the network.

set -euo pipefail
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE # without bytecode every process compiles the package anew
# OpenMP threads that wait for each other sleep: where they spin, another busy process makes training ten times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
log=.venv/install.log
supported='3.12 3.11 3.10 3.9 3.13'

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# Prints "3.11" for a Python that runs and is one of the supported, else nothing.
supported_version() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 0
    case " $supported " in *" $version "*) printf '%s' "$version" ;; esac
}

# Prints every Python worth a look, in the order of preference. Those of pyenv need not be on PATH.
candidates() {
    local version
    for version in $supported; do
        type -P "python$version" || true
        ls -d "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python 2>/dev/null || true
    done
    type -P python3 || true
    type -P python || true
}

# Ends with one line where $PYTHON is set to something else than a supported Python.
check_choice() {
    [ -z "${PYTHON:-}" ] || [ -n "$(supported_version "$PYTHON")" ] ||
        fail "\$PYTHON is '$PYTHON', which is no Python of ${supported// /, }; unset it or name one of these"
}

# Whether .venv has a Python that is supported, is the version of $PYTHON if that is set, and has pip.
venv_is_usable() {
    local version
    version=$(supported_version "$python")
    [ -n "$version" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$version" = "$(supported_version "$PYTHON")" ] || return 1
    "$python" -m pip --version >/dev/null 2>&1
}

# Sets `base` to the Python that .venv is made with.
find_python() {
    local candidate without_venv=''
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$PYTHON has no venv module; install it, for example: sudo apt install python$(supported_version "$PYTHON")-venv"
        base=$PYTHON
        return
    fi
    while IFS= read -r candidate; do
        [ -n "$(supported_version "$candidate")" ] || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            base=$candidate
            return
        fi
        without_venv=${without_venv:-$(supported_version "$candidate")}
    done < <(candidates)
    [ -z "$without_venv" ] ||
        fail "Python $without_venv has no venv module; install it, for example: sudo apt install python$without_venv-venv"
    fail 'no Python from 3.9 to 3.13 found; install one, for example: sudo apt install python3.11 python3.11-venv (or set $PYTHON)'
}

# What the installation depends on: this folder (for `pip install -e`), the Python, and what setup.py asks for.
wanted_stamp() {
    "$python" -c 'import hashlib, os, sys
print(os.getcwd(), sys.version.split()[0], hashlib.sha256(open("setup.py", "rb").read()).hexdigest())' 2>/dev/null
}

# pip install, showing what it downloads; everything it says goes to the log.
pip_install() {
    local status=0
    "$python" -m pip install --progress-bar off --disable-pip-version-check "$@" 2>&1 | tee -a "$log" |
        grep --line-buffered -E '^ *(Downloading .*\([0-9.]+ [MG]B\)|Building wheel for .*: started)' >&2 || status=${PIPESTATUS[0]}
    [ "$status" -eq 0 ] && return
    tail -n 5 "$log" >&2
    fail "the installation of $* failed, see $PWD/$log; look at the network and the disk space, and run this again to go on"
}

install() {
    if ! venv_is_usable; then
        find_python
        say "[1/4] making .venv with $base ($(supported_version "$base"))"
        "$base" -m venv --clear .venv || fail "$base could not make .venv in $PWD; see the lines above"
    else
        rm -f .venv/installed
        say '[1/4] .venv is there; going on with the installation'
    fi
    : >"$log"
    say '[2/4] installing PyTorch (some GB to download the first time)'
    pip_install torch torchvision
    # BasicSR builds from source and lists torch for the build: without isolation it takes the one just installed.
    say '[3/4] installing BasicSR'
    pip_install 'setuptools>=64' wheel
    PYTHONPATH=$PWD/scripts/_build_basicsr pip_install --no-build-isolation basicsr
    say '[4/4] installing this package'
    pip_install --no-build-isolation -e '.[dev]'
    "$python" -c 'import basicsr, basicsr_plugins, torchvision' 2>>"$log" ||
        fail "the installed packages do not import, see $PWD/$log; remove .venv and run this again"
    wanted_stamp >.venv/installed
    say 'the environment is complete'
}

check_choice
if [ ! -f .venv/installed ] || [ "$(wanted_stamp)" != "$(cat .venv/installed)" ] || { [ -n "${PYTHON:-}" ] && ! venv_is_usable; }; then
    install
fi
