#!/usr/bin/env bash
# LVS by network address translation (NAT).
#
#   client                       director                        rs1 10.0.0.11:8080
#   192.0.2.1 ---- outside ---- 192.0.2.2   10.0.0.1 ---- inside --+
#                               VIP 192.0.2.10:80                rs2 10.0.0.12:8080
#
#   request   client -> director   192.0.2.1  > 192.0.2.10:80
#             director -> rs1      192.0.2.1  > 10.0.0.11:8080     destination rewritten
#   reply     rs1 -> director      10.0.0.11:8080 > 192.0.2.1      because of rs1's default route
#             director -> client   192.0.2.10:80  > 192.0.2.1      source rewritten back
. "$(dirname "$0")/common.sh"
VIP=192.0.2.10

up() {
    host switch client director rs1 rs2
    lan outside
    lan inside

    plug client eth0 outside
    ns client ip addr add 192.0.2.1/24 dev eth0

    # The director's interfaces carry no address in the kernel: softlvs owns them, the VIP too. The
    # kernel's own IPv6 would only chatter on them.
    ns director sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    plug director eth0 outside
    plug director eth1 inside
    cat > "$DIR/director.toml" << TOML
[director]
mode = "nat"
control = "$DIR/director.sock"

[[port]]
name = "outside"
packet = "eth0"
addresses = ["192.0.2.2/24"]

[[port]]
name = "inside"
packet = "eth1"
addresses = ["10.0.0.1/24"]

[[service]]
address = "$VIP:80"
scheduler = "rr"
ports = ["outside"]

[[service.real]]
address = "10.0.0.11:8080"

[[service.real]]
address = "10.0.0.12:8080"
TOML
    background director director "$SOFTLVS" run --config "$DIR/director.toml"

    local i
    for i in 1 2; do
        plug "rs$i" eth0 inside
        ns "rs$i" ip addr add "10.0.0.1$i/24" dev eth0
        # The one thing a real server needs (softlvs real nat --gateway 10.0.0.1):
        ns "rs$i" ip route add default via 10.0.0.1
        web "rs$i" 8080
    done
}

main "$@"
