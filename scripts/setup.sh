# shellcheck shell=bash
# What scripts/test, scripts/demo and the benchmarks need on a machine: Debian packages, a Python, a virtual environment.
# Sourced, with the working directory at the top of the checkout. Installs only what is missing and says what it does;
# a second call costs a few stats, because a stamp in .venv names what was installed.

say() { printf -- '-- %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# as_root COMMAND…: runs it as root, directly or through sudo that needs no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# missing_packages PACKAGE…: prints those that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        case "$(dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null)" in
            ii*) ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

# install_packages PACKAGE…: all of them are installed afterwards, or the script ends with one clear line.
install_packages() {
    command -v dpkg-query >/dev/null || { say "no dpkg here: taking $* as installed"; return 0; }
    local missing log
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    may_be_root || die "these Debian packages are missing and installing them needs root: ${missing% }"
    say "installing Debian packages: ${missing% }"
    log=$(mktemp)
    # Services that packages would start (docker, docker-registry) stay off: what is needed is started privately.
    local policy=/usr/sbin/policy-rc.d own_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && own_policy=yes
    fi
    local status=0
    # shellcheck disable=SC2086  # a list of words
    { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends $missing; } </dev/null >"$log" 2>&1 || status=$?
    [ -z "$own_policy" ] || as_root rm -f "$policy"
    if [ "$status" != 0 ]; then
        tail -n 5 "$log" >&2
        die "apt-get could not install: ${missing% } (its full output: $log)"
    fi
    rm -f "$log"
}

# usable_python PYTHON [headers]: it is 3.11 or newer and can make virtual environments (and compile against itself).
usable_python() {
    "$1" - "${2:-}" >/dev/null 2>&1 <<'PY'
import os, sys, sysconfig, venv, ensurepip
ok = sys.version_info >= (3, 11)
if sys.argv[1] == "headers":
    ok = ok and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
sys.exit(not ok)
PY
}

# find_python [headers]: prints the first usable one.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if usable_python "$candidate" "${1:-}"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# said_of_packages: pyproject.toml, without what it says of the tools that look at the project.
said_of_packages() { awk '/^\[/ { looks = /^\[+tool\.(pytest|ruff|mypy|pyright|importlinter)/ } !looks'; }

# prepare_venv PROFILE: .venv holds the project (editable) and what PROFILE (run or test) needs.
prepare_venv() {
    local profile=$1 headers='' python wanted stamp log
    [ "$profile" = test ] && headers=headers
    if ! usable_python .venv/bin/python "$headers"; then
        if ! python=$(find_python "$headers"); then
            install_packages python3 python3-venv ${headers:+python3-dev}
            python=$(find_python "$headers") || die "no Python 3.11 or newer with the venv module was found"
        fi
        say "making .venv with $("$python" --version)"
        # --clear: what lies there does not work, usually because its Python is gone
        "$python" -m venv --clear .venv || die "$python could not make .venv"
    fi
    wanted=$({ echo "$profile"; .venv/bin/python --version; pwd; said_of_packages <pyproject.toml; cat scripts/setup.sh; } | sha256sum)
    stamp=.venv/.pybuild-$profile
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
    local packages=(--editable '.[fast]')
    if [ "$profile" = test ]; then
        packages=(--editable '.[pyfuse3,fast]')
        mapfile -t -O "${#packages[@]}" packages < <(.venv/bin/python -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["dev"], sep="\n")')
    fi
    say "installing Python packages into .venv"
    log=$(mktemp)
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check "${packages[@]}" </dev/null >"$log" 2>&1; then
        grep -E '^ *(ERROR|error)' "$log" | tail -n 5 >&2
        die "pip could not install the Python packages (its full output: $log)"
    fi
    rm -f "$log"
    printf '%s' "$wanted" >"$stamp"
}
