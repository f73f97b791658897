# What the three scripts share. Sourced, not run.
#
#   SOFTLVS      the program            (default: softlvs from $PATH)
#   LVS_PREFIX   prefix of namespaces   (default: lvs)

set -euo pipefail

SOFTLVS=${SOFTLVS:-softlvs}
P=${LVS_PREFIX:-lvs}
DIR=${TMPDIR:-/tmp}/$P-netns          # logs and web pages

# ns HOST COMMAND...   run a command at a host
ns() {
    local host=$1
    shift
    ip netns exec "$P-$host" "$@"
}

# host NAME...   a network namespace is a host with an empty network
host() {
    local h
    for h in "$@"; do
        ip netns add "$P-$h"
        ns "$h" ip link set lo up
    done
}

# lan NAME   an Ethernet: a bridge in the namespace "switch"
lan() {
    ns switch ip link add "$1" type bridge
    ns switch ip link set "$1" up
}

# plug HOST IFACE LAN   a cable from a host's interface to an Ethernet
plug() {
    local host=$1 iface=$2 lan=$3
    ns switch ip link add "$host-$iface" type veth peer name "$iface" netns "$P-$host"
    ns switch ip link set "$host-$iface" master "$lan" up
    ns "$host" ip link set "$iface" up
}

# web HOST PORT   a web server that says its name
web() {
    mkdir -p "$DIR/$1"
    echo "$1" > "$DIR/$1/index.html"
    ns "$1" python3 -m http.server --directory "$DIR/$1" "$2" > "$DIR/$1.log" 2>&1 &
}

# background HOST NAME COMMAND...   a program at a host, its output in $DIR/NAME.log
background() {
    local host=$1 name=$2
    shift 2
    ns "$host" "$@" > "$DIR/$name.log" 2>&1 &
}

# get   one request to the VIP, from the client, by curl or by bash alone
get() {
    if command -v curl > /dev/null; then
        ns client curl -s --max-time 5 "http://$VIP/"
    else
        ns client timeout 5 bash -c "exec 3<>/dev/tcp/$VIP/80
            printf 'GET / HTTP/1.0\r\n\r\n' >&3
            tail -n 1 <&3"
    fi
}

# requests   waits until both real servers answer (the programs are starting), then six requests: every one
#            must be answered, and each real server must get some
requests() {
    local i one two answers=
    for i in $(seq 100); do
        one=$(get 2> /dev/null) && two=$(get 2> /dev/null) && [ "$one" != "$two" ] && break
        sleep 0.1
    done
    for i in 1 2 3 4 5 6; do
        answers+=$(get || echo "no answer")$'\n'
    done
    printf %s "$answers" | sort | uniq -c
    for i in rs1 rs2; do
        if [[ $answers != *$i* || $answers == *"no answer"* ]]; then
            echo "not every request was answered; what the programs said:" >&2
            tail -n 20 "$DIR"/*.log >&2
            return 1
        fi
    done
}

# down   every process in the namespaces, then the namespaces with all that is in them
down() {
    local n
    for n in $(ip netns list | awk -v p="$P-" 'index($1, p) == 1 { print $1 }'); do
        ip netns pids "$n" | xargs -r kill 2> /dev/null || true
        ip netns del "$n"
    done
    rm -rf "$DIR"
}

# main up|test|down   without an argument: all three
main() {
    mkdir -p "$DIR"
    case ${1:-all} in
        up) up ;;
        test) requests ;;
        down) down ;;
        all)
            trap down EXIT
            up
            requests
            ;;
        *)
            echo "usage: $0 [up|test|down]" >&2
            exit 2
            ;;
    esac
}
