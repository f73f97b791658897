#!/usr/bin/env bash
# LVS by direct routing (DR).
#
#   client 192.0.2.1 --+-- director 192.0.2.2, answers ARP for the VIP 192.0.2.10
#                      |
#                 one Ethernet
#                      |
#                      +-- rs1 192.0.2.11, owns the VIP on lo and is silent about it
#                      +-- rs2 192.0.2.12, likewise
#
#   request   client -> director   192.0.2.1 > 192.0.2.10    to the director's MAC
#             director -> rs1      192.0.2.1 > 192.0.2.10    to rs1's MAC, nothing else changes but the TTL
#   reply     rs1 -> client        192.0.2.10 > 192.0.2.1    never passes the director
. "$(dirname "$0")/common.sh"
VIP=192.0.2.10

up() {
    host switch client director rs1 rs2
    lan ether

    plug client eth0 ether
    ns client ip addr add 192.0.2.1/24 dev eth0

    ns director sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    plug director eth0 ether
    background director director "$SOFTLVS" --packet eth0 --address 192.0.2.2/24 --mode dr \
        --vip $VIP:80 --real 192.0.2.11 --real 192.0.2.12 --scheduler rr --control "$DIR/director.sock"

    local i
    for i in 1 2; do
        plug "rs$i" eth0 ether
        ns "rs$i" ip addr add "192.0.2.1$i/24" dev eth0
        # What a real server needs (softlvs real dr --vip 192.0.2.10). First be silent: answer ARP only for
        # addresses of the interface asked, never name the VIP as sender ...
        ns "rs$i" sysctl -qw net.ipv4.conf.all.arp_ignore=1
        ns "rs$i" sysctl -qw net.ipv4.conf.all.arp_announce=2
        # ... then own the VIP.
        ns "rs$i" ip addr add $VIP/32 dev lo
        web "rs$i" 80
    done
}

main "$@"
