#!/usr/bin/env bash
# LVS by IP tunnelling (TUN).
#
#   client 192.0.2.1 --+-- director 192.0.2.2, VIP 192.0.2.10
#                      |
#                   outside
#                      |
#                      +-- router 192.0.2.254 | 10.0.0.254 -- inside --+-- rs1 10.0.0.11, VIP on lvstun0
#                                                                      +-- rs2 10.0.0.12, likewise
#
#   request   client -> director   192.0.2.1 > 192.0.2.10
#             director -> rs1      192.0.2.2 > 10.0.0.11 [ 192.0.2.1 > 192.0.2.10 ]    through the router
#             rs1 unwraps it       192.0.2.1 > 192.0.2.10
#   reply     rs1 -> client        192.0.2.10 > 192.0.2.1     through the router, not the director
. "$(dirname "$0")/common.sh"
VIP=192.0.2.10

up() {
    host switch client director router rs1 rs2
    lan outside
    lan inside

    plug client eth0 outside
    ns client ip addr add 192.0.2.1/24 dev eth0

    plug router eth0 outside
    plug router eth1 inside
    ns router ip addr add 192.0.2.254/24 dev eth0
    ns router ip addr add 10.0.0.254/24 dev eth1
    ns router sysctl -qw net.ipv4.ip_forward=1

    ns director sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    plug director eth0 outside
    background director director "$SOFTLVS" --packet eth0 --address 192.0.2.2/24 --gateway 192.0.2.254 \
        --mode tun --vip $VIP:80 --real 10.0.0.11 --real 10.0.0.12 --scheduler rr \
        --control "$DIR/director.sock"

    local i
    for i in 1 2; do
        plug "rs$i" eth0 inside
        ns "rs$i" ip addr add "10.0.0.1$i/24" dev eth0
        ns "rs$i" ip route add default via 10.0.0.254
        # What a real server needs. With the kernel's ipip module it would be
        #   ip link add lvstun0 type ipip local 10.0.0.1N
        #   ip link set lvstun0 up
        #   sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lvstun0.rp_filter=0
        #   sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        #   ip addr add VIP/32 dev lvstun0
        # softlvs does the same with a TUN device and unwraps by itself; add --dry-run to see each step.
        background "rs$i" "real-rs$i" "$SOFTLVS" real tun --vip $VIP
        web "rs$i" 80
    done
}

main "$@"
