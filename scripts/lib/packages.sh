# shellcheck shell=bash
# To be sourced. Installs Debian packages for missing commands, and only then, so that a second run
# costs nothing.
#
#   need COMMAND PACKAGE...      install the packages unless COMMAND is there
#   install_packages PACKAGE...  install them, or say what to install and fail
#   as_root COMMAND...           run a command as root, with sudo if needed
#
# Everything is printed to standard error, because other scripts read the standard output of
# callers.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; then
        echo "A command is missing on this machine. Install it and run this again; the Debian packages: $*" >&2
        return 1
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    echo "installing Debian packages: $*" >&2
    # Exported, so that scripts started by this one do not fetch the package lists again.
    [ -n "${GENIE_APT_UPDATED:-}" ] || as_root "${apt[@]}" update </dev/null >&2 || return
    export GENIE_APT_UPDATED=1
    as_root "${apt[@]}" install -y --no-install-recommends "$@" </dev/null >&2
}

need() {
    command -v "$1" >/dev/null || install_packages "${@:2}"
}
