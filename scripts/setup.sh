# Sourced by ./demo, ./test and others: names what is needed, then installs the Debian packages that are missing.

PATH="$PATH:/usr/sbin:/sbin:${HOME:-}/.cargo/bin"
missing=()

need() { # COMMAND-OR-/FILE PACKAGE
    if [[ "$1" == /* ]]; then [ -e "$1" ]; else command -v "$1" >/dev/null; fi || missing+=("$2")
}

install_needed() {
    if ! command -v cargo >/dev/null; then
        echo "missing: cargo. Install Rust, see https://rustup.rs" >&2
        exit 1
    fi
    [ "${#missing[@]}" != 0 ] || return 0
    local run=(env DEBIAN_FRONTEND=noninteractive) help="as root: apt-get update && apt-get install ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        help="this is no Debian: install what these packages bring by the means you have"
    elif [ "$(id -u)" = 0 ]; then
        help=
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; }; then
        run=(sudo "${run[@]}")
        help=
    fi
    if [ -n "$help" ]; then
        printf 'missing: %s\nhelp: %s\n' "${missing[*]}" "$help" >&2
        exit 1
    fi
    echo "installing ${missing[*]}" >&2
    if ! "${run[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1; then
        "${run[@]}" apt-get update -qq
        "${run[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
    fi
    missing=()
}

need cc gcc
# cargo fetches crates over TLS
need /etc/ssl/certs/ca-certificates.crt ca-certificates
