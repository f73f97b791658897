# Sourced by ./demo and ./test: installs a Debian package when the command it brings is missing.

need() { # COMMAND PACKAGE
    PATH="$PATH:/usr/sbin:/sbin"
    command -v "$1" >/dev/null && return
    local run=(env DEBIAN_FRONTEND=noninteractive)
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            echo "missing: $1. As root: apt-get install $2" >&2
            exit 1
        fi
        run=(sudo env DEBIAN_FRONTEND=noninteractive)
    fi
    echo "installing $2 for $1" >&2
    if ! "${run[@]}" apt-get install -y -qq "$2" >/dev/null 2>&1; then
        "${run[@]}" apt-get update -qq
        "${run[@]}" apt-get install -y -qq "$2" >/dev/null
    fi
}
