#!/usr/bin/env python3
"""Bulk TCP (iperf3, one stream) through softlvs on raw and TAP ports, against the kernel in the same topology.

usage: sudo benches/bulk.py [ROUNDS] [SECONDS]     needs iproute2, nftables, iperf3, and a release build

Two topologies of three namespaces, client - director - real server:
  veth    the director has one interface each way: kernel routing, kernel DNAT (nftables), softlvs --packet
  bridge  it has one bridge each way:              kernel routing, kernel DNAT,            softlvs --tap
All ways are measured in turn, ROUNDS times; printed are medians, and ratios paired by round.
"""
import atexit, json, os, statistics, subprocess, sys, tempfile, time

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
SECONDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
BIN = os.environ.get("SOFTLVS", os.path.join(os.path.dirname(__file__), "../target/release/softlvs"))
P = f"lvsbulk{os.getpid()}"
CLIENT, DIRECTOR, REAL = f"{P}c", f"{P}d", f"{P}r"
VIP, RIP = "192.0.2.10", "10.0.0.11"
children = []


def sh(line, ns=None, check=True):
    line = f"ip netns exec {ns} {line}" if ns else line
    return subprocess.run(line, shell=True, check=check, capture_output=True, text=True).stdout


def cleanup():
    for child in children:
        child.kill()
        child.wait()
    for ns in (CLIENT, DIRECTOR, REAL):
        sh(f"ip netns del {ns}", check=False)


def build(bridges):
    for ns in (CLIENT, DIRECTOR, REAL):
        sh(f"ip netns add {ns}")
        sh("ip link set lo up", ns)
    for ns, inner, cidr, gateway in ((CLIENT, "eth0", "192.0.2.1/24", "192.0.2.2"), (REAL, "eth1", f"{RIP}/24", "10.0.0.1")):
        sh(f"ip link add {inner} netns {DIRECTOR} type veth peer name eth0 netns {ns}")
        sh(f"ip addr add {cidr} dev eth0", ns)
        sh("ip link set eth0 up", ns)
        sh(f"ip link set {inner} up", DIRECTOR)
        sh(f"ip route add default via {gateway}", ns)
        if bridges:
            number = inner[-1]
            sh(f"ip link add br{number} type bridge forward_delay 0", DIRECTOR)
            sh(f"ip link set br{number} up", DIRECTOR)
            sh(f"ip link set {inner} master br{number}", DIRECTOR)


def kernel(bridges, dnat):
    name = "br" if bridges else "eth"
    for number, cidr in ((0, "192.0.2.2/24"), (1, "10.0.0.1/24")):
        sh(f"ip addr add {cidr} dev {name}{number}", DIRECTOR)
    sh("sysctl -qw net.ipv4.ip_forward=1", DIRECTOR)
    if dnat:
        sh("nft add table ip n", DIRECTOR)
        sh("nft add chain ip n pre '{ type nat hook prerouting priority -100; }'", DIRECTOR)
        sh(f"nft add rule ip n pre ip daddr {VIP} tcp dport 5201 dnat to {RIP}:5201", DIRECTOR)
        sh(f"ip route add {VIP} via 192.0.2.2", CLIENT)
    return VIP if dnat else RIP


def softlvs(bridges, mode):
    kind = "tap" if bridges else "packet"
    outside, inside = ("tap0", "tap1") if bridges else ("eth0", "eth1")
    # the director's address is the default router of both sides: raw ports inherit nothing here
    text = f"""
[[port]]
name = "outside"
{kind} = "{outside}"
mac = "02:00:00:00:00:02"
addresses = ["192.0.2.2/24"]
[[port]]
name = "inside"
{kind} = "{inside}"
mac = "02:00:00:00:01:02"
addresses = ["10.0.0.1/24"]
[[service]]
address = "{VIP}:5201"
mode = "{mode}"
scheduler = "rr"
[[service.real]]
address = "{RIP}:5201"
"""
    conf = tempfile.NamedTemporaryFile("w", suffix=".toml", delete=False)
    conf.write(text)
    conf.close()
    log = open(conf.name + ".log", "w")
    children.append(subprocess.Popen(["ip", "netns", "exec", DIRECTOR, BIN, "--config", conf.name], stderr=log))
    time.sleep(0.5)
    if children[-1].poll() is not None:
        sys.exit(open(log.name).read())
    if bridges:
        for number, tap in ((0, outside), (1, inside)):
            sh(f"ip link set {tap} master br{number}", DIRECTOR)
            sh(f"ip link set {tap} up", DIRECTOR)
    if mode == "dr":
        sh(f"ip addr add {VIP}/32 dev lo", REAL)
    return VIP


def measure(way):
    bridges, what = way
    build(bridges)
    try:
        target = kernel(bridges, what == "dnat") if what in ("route", "dnat") else softlvs(bridges, what)
        children.append(subprocess.Popen(["ip", "netns", "exec", REAL, "iperf3", "-s"], stdout=subprocess.DEVNULL))
        time.sleep(0.7)
        got = json.loads(sh(f"iperf3 -c {target} -t {SECONDS} -J --connect-timeout 3000", CLIENT, check=False))
        return got["end"]["sum_received"]["bits_per_second"] / 1e9 if "sum_received" in got.get("end", {}) else 0.0
    finally:
        cleanup()
        children.clear()


WAYS = [(False, "route"), (False, "dnat"), (False, "nat"), (False, "fullnat"),
        (True, "route"), (True, "dnat"), (True, "nat"), (True, "fullnat")]
LABEL = {"route": "kernel routing", "dnat": "kernel DNAT", "nat": "softlvs nat", "fullnat": "softlvs fullnat"}

if __name__ == "__main__":
    atexit.register(cleanup)
    results = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            results[way].append(measure(way))
    print(f"one stream, {SECONDS} s, {ROUNDS} rounds; Gbit/s median (min to max), ratio to kernel DNAT by round")
    for way in WAYS:
        got, reference = results[way], results[(way[0], "dnat")]
        ratio = statistics.median(a / b if b else 0 for a, b in zip(got, reference))
        port = "" if way[1] in ("route", "dnat") else (" on TAP" if way[0] else " on raw")
        name = ("bridge" if way[0] else "veth  ") + " " + LABEL[way[1]] + port
        print(f"{name:32} {statistics.median(got):6.2f} ({min(got):.2f} to {max(got):.2f})  {ratio:.2f}")
