#!/usr/bin/env python3
"""Variants of recorded scenarios, to be asked of the kernel. See README.md beside this file."""

import argparse
import glob
import ipaddress
import json
import os
import random
import re
import struct
import sys

TUNNELS = [
    "-i",
    "-i --tun-type gre",
    "-i --tun-type gre --tun-csum",
    "-i --tun-type gue --tun-port 6080",
    "-i --tun-type gue --tun-port 5555 --tun-csum",
]
SCHEDULERS = "rr wrr lc wlc sed nq fo ovf sh dh mh lblc lblcr".split()
FLAGS = {
    "sh": ["", " -b sh-port", " -b sh-fallback", " -b sh-port,sh-fallback"],
    "mh": ["", " -b mh-port", " -b mh-fallback", " -b mh-port,mh-fallback"],
}
SWITCHES = {
    "conn_reuse_mode": [0, 1, 2, 3],
    "secure_tcp": [0, 3],
    **{
        name: [0, 1]
        for name in (
            "expire_nodest_conn expire_quiescent_template sloppy_tcp sloppy_sctp "
            "nat_icmp_send pmtu_disc schedule_icmp cache_bypass"
        ).split()
    },
}
# ports with a meaning of their own: FTP, SIP, GUE, the synchronisation daemon, retired templates
KEPT_PORTS = {0, 20, 21, 5060, 5555, 6080, 7777, 8848, 65535}
ADDRESS = re.compile(
    r"(?<![0-9a-fA-F:.])(\d+\.\d+\.\d+\.\d+|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(\]?)(:\d+)?(/\d+)?"
)


class Plan:
    """Other addresses and ports, one to one; decimal numbers keep their digits, so that texts keep their length."""

    def __init__(self, rng):
        self.rng, self.tables, self.first, self.words = rng, {}, {}, {}
        self.offset = rng.randrange(1, 9000)
        self.mac_mask = bytes([0] + [rng.randrange(1, 250) for _ in range(3)] + [0, 0])

    def number(self, kind, value, low, high, kept=()):
        """A number for `value` among as many digits, by a permutation of its own for each kind."""
        digits = len(str(value))
        if (kind, digits) not in self.tables:
            lowest = 10 ** (digits - 1) if digits > 1 else 1
            inside = [n for n in range(max(low, lowest), min(high, 10**digits - 1) + 1) if n not in kept]
            shuffled = inside[:]
            self.rng.shuffle(shuffled)
            self.tables[kind, digits] = dict(zip(inside, shuffled))
        return self.tables[kind, digits].get(value, value)

    def ip4(self, packed):
        a, b, c, d = packed
        if a in (0, 127, 169) or a >= 224:
            return packed
        if a not in self.first:
            low, high = (11, 99) if a < 100 else (101, 126) if a < 127 else (173, 223)
            free = [n for n in range(low, high + 1) if n not in self.first.values() and n != 192]
            self.first[a] = self.rng.choice(free)
        b2 = b and self.number(("b", a), b, 1, 250)
        c2 = c and self.number(("c", a, b), c, 1, 250)
        return bytes([self.first[a], b2, c2, self.number("d", d, 1, 250)])

    def ip6(self, packed):
        words = list(struct.unpack("!8H", packed))
        if words[0] & 0xE000 != 0x2000:
            return packed
        for i in range(2, 8):
            kind = "host" if i == 7 else "net"
            if words[i] and (kind, words[i]) not in self.words:
                taken = [v for (k, _), v in self.words.items() if k == kind]
                self.words[kind, words[i]] = next(
                    n for n in iter(lambda: self.rng.randrange(1, 0xFFFF), None) if n not in taken
                )
            words[i] = self.words.get((kind, words[i]), words[i])
        return struct.pack("!8H", *words)

    def port(self, port):
        if port in KEPT_PORTS:
            return port
        if port >= 10000:
            moved = port + self.offset
            return moved if moved < 65535 else moved - 55535
        return self.number("port", port, 1, 9999, KEPT_PORTS)

    def mac(self, mac):
        return bytes(x ^ m for x, m in zip(mac, self.mac_mask)) if mac[0] == 2 else mac

    def mac_text(self, text):
        return ":".join("%02x" % b for b in self.mac(bytes(int(x, 16) for x in text.split(":"))))

    def text(self, text):
        """Addresses in a command, with their ports and prefixes."""

        def one(match):
            address, bracket, port, length = match.groups()
            try:
                ip = ipaddress.ip_address(address)
            except ValueError:
                return match[0]
            new = ipaddress.ip_address((self.ip4 if ip.version == 4 else self.ip6)(ip.packed))
            if length:
                net = ipaddress.ip_network(address + length, strict=False)
                if net.network_address == ip and net.prefixlen < net.max_prefixlen:
                    new = ipaddress.ip_network("%s%s" % (new, length), strict=False).network_address
            port = ":%d" % self.port(int(port[1:])) if port else ""
            return str(new) + bracket + port + (length or "")

        return ADDRESS.sub(one, text)

    def firewall(self, text):
        ports = lambda m: "dport " + re.sub(r"\d+", lambda d: str(self.port(int(d[0]))), m[1]) + " meta"
        return re.sub(r"dport (.*?) meta", ports, self.text(text))


def updated(checksum, old, new):
    """A checksum after the bytes `old` became `new`: as right, or as wrong, as it was."""
    total = ~checksum & 0xFFFF
    words = lambda b: struct.unpack("!%dH" % (len(b) // 2), b)
    for a, b in zip(words(old), words(new)):
        total += (~a & 0xFFFF) + b
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Frame:
    """A frame with other addresses and ports, from the inside out because checksums cover what is inside."""

    def __init__(self, plan, frame, crc32c):
        self.plan, self.old, self.new, self.crc32c = plan, bytes(frame), bytearray(frame), crc32c
        if len(frame) < 14:
            return
        self.change(0, 6, plan.mac)
        self.change(6, 6, plan.mac)
        if frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
            self.ip(14, len(frame), False)

    def change(self, at, length, by):
        if at + length <= len(self.old):
            self.new[at : at + length] = by(self.old[at : at + length])

    def mend(self, at, ranges, zero_is_none=False):
        """The checksum at `at`, which covers these ranges."""
        if at + 2 > len(self.old):
            return
        was = int.from_bytes(self.new[at : at + 2], "big")
        if zero_is_none and was == 0:
            return
        old = new = b""
        for start, end in ranges:
            end = min(end, len(self.old))
            a, b = self.old[start:end], bytes(self.new[start:end])
            if start <= at < end:
                a, b = (x[: at - start] + b"\0\0" + x[at - start + 2 :] for x in (a, b))
            pad = b"\0" * (len(a) & 1)
            old, new = old + a + pad, new + b + pad
        checksum = updated(was, old, new)
        if zero_is_none and checksum == 0:
            checksum = 0xFFFF
        self.new[at : at + 2] = checksum.to_bytes(2, "big")

    def ip(self, at, end, quoted):
        b = self.old
        version = b[at] >> 4 if at < end else 0
        if version == 4 and at + 20 <= end:
            header = max(20, (b[at] & 15) * 4)
            self.change(at + 12, 4, self.plan.ip4)
            self.change(at + 16, 4, self.plan.ip4)
            self.mend(at + 10, [(at, at + header)])
            total, fragment = struct.unpack("!H2xH", b[at + 2 : at + 8])
            end = min(end, at + total) if total >= 20 else end
            if fragment & 0x1FFF == 0:
                self.transport(b[at + 9], at + header, end, [(at + 12, at + 20)], quoted)
        elif version == 6 and at + 40 <= end:
            self.change(at + 8, 16, self.plan.ip6)
            self.change(at + 24, 16, self.plan.ip6)
            proto, here, later = b[at + 6], at + 40, False
            while proto in (0, 43, 44, 60) and here + 8 <= end:
                later |= proto == 44 and struct.unpack("!H", b[here + 2 : here + 4])[0] & 0xFFF8 != 0
                proto, here = b[here], here + (8 if proto == 44 else 8 + b[here + 1] * 8)
            if not later:
                self.transport(proto, here, end, [(at + 8, at + 40)], quoted)

    def transport(self, proto, at, end, addresses, quoted):
        b = self.old
        if proto in (6, 17, 132):
            for place in (at, at + 2):
                if place + 2 <= end:
                    self.change(place, 2, lambda p: self.plan.port(int.from_bytes(p, "big")).to_bytes(2, "big"))
        if proto == 6:
            self.mend(at + 16, addresses + [(at, end)])
        elif proto == 17:
            self.mend(at + 6, addresses + [(at, end)], zero_is_none=True)
        elif proto == 132 and not quoted and at + 12 <= end:
            crc = lambda x: struct.pack("<I", self.crc32c(bytes(x[at : at + 8]) + bytes(4) + bytes(x[at + 12 : end])))
            if crc(b) == b[at + 8 : at + 12]:
                self.new[at + 8 : at + 12] = crc(self.new)
        elif proto in (1, 58) and at + 8 <= end:
            if b[at] in (3, 4, 5, 11, 12) if proto == 1 else b[at] < 128:
                self.ip(at + 8, end, True)
            self.mend(at + 2, (addresses if proto == 58 else []) + [(at, end)])
        elif proto in (4, 41):
            self.ip(at, end, quoted)
        elif proto == 47 and at + 4 <= end:
            self.ip(at + (8 if b[at] & 0x80 else 4), end, quoted)


def vary_settings(scenario, lines, rng, mixed):
    """Other weights, orders, thresholds, timeouts, forwarding, schedulers and switches, each in some variants."""

    def everywhere(pattern, by):
        for i, line in enumerate(lines):
            lines[i] = re.sub(pattern, by, line)

    if rng.random() < 0.6:
        most = rng.choice([4, 4, 20, 300, 65535])
        weight = lambda m: rng.choice([0, 0, 1, 3]) if m[1] == "0" else rng.randrange(0, most)
        everywhere(r"-w (\d+)", lambda m: "-w %d" % weight(m))
    if rng.random() < 0.4:
        everywhere(r"-x (\d+)", lambda m: "-x %d" % max(1, int(m[1]) + rng.randrange(-2, 4)))
    if rng.random() < 0.4:
        everywhere(r"-p (\d+)", lambda m: "-p %d" % max(5, int(int(m[1]) * rng.choice([0.3, 0.7, 1.3, 2]))))
    if scenario["group"] != 4 and rng.random() < 0.55:
        method = rng.choice(TUNNELS if mixed else ["-m", "-m", "-g", "-g"] + TUNNELS)
        options = r" (?:-m|-g|-i)\b(?: --tun-type \S+)?(?: --tun-port \d+)?(?: --tun-(?:rem)?csum)?"
        for i, line in enumerate(lines):
            lines[i] = re.sub(options, " " + method, line) if " -r " in line else line
    if rng.random() < (0.8 if scenario["group"] == 4 else 0.35):
        name = rng.choice(SCHEDULERS)
        everywhere(r" -s \S+( -b \S+)?", " -s " + name + rng.choice(FLAGS.get(name, [""])))
    switches = scenario.setdefault("sysctls", {})
    for name in switches:
        if name.split(".")[-1] in SWITCHES and rng.random() < 0.6:
            switches[name] = rng.choice(SWITCHES[name.split(".")[-1]])
    if scenario["group"] != 4 and rng.random() < 0.3:
        name = rng.choice(list(SWITCHES))
        switches["net.ipv4.vs." + name] = rng.choice(SWITCHES[name])


def vary_steps(steps, gaps, rng):
    """Some steps lost, repeated or swapped."""
    order = list(range(len(steps)))
    for _ in range(max(1, len(order) // 8)):
        at, how = rng.randrange(len(order)), rng.choice(["lose", "lose", "repeat", "swap"])
        if how == "lose" and len(order) > 3:
            order.pop(at)
        elif how == "repeat":
            order.insert(at, order[at])
        elif at + 1 < len(order):
            order[at], order[at + 1] = order[at + 1], order[at]
    return [json.loads(json.dumps(steps[i])) for i in order], [gaps[i] for i in order]


def variant(recorded, rng, name, expand, crc32c):
    plan = Plan(rng)
    scenario = expand(json.loads(json.dumps(recorded)))
    scenario.pop("errors", None)
    scenario["desc"] = "a variant of " + scenario["name"]
    scenario["name"], how_much = name, rng.choice([0, 1, 2])
    for port in scenario["ports"]:
        port["mac"] = plan.mac_text(port["mac"])
        port["addrs"] = [plan.text(a) for a in port.get("addrs", [])]
        for key in ("gateway", "gateway6"):
            if port.get(key):
                port[key] = plan.text(port[key])
        for neighbor in port.get("neigh", []):
            neighbor["ip"], neighbor["mac"] = plan.text(neighbor["ip"]), plan.mac_text(neighbor["mac"])
    for key, by in (("routes", plan.text), ("setup", plan.firewall)):
        if scenario.get(key):
            scenario[key] = [by(line) for line in scenario[key]]
    steps, gaps, before = scenario["steps"], [], 0
    for step in steps:
        gaps.append(step["at_ms"] - before)
        before = step["at_ms"]
        if "frame_hex" in step:
            step["frame_hex"] = Frame(plan, bytes.fromhex(step["frame_hex"]), crc32c).new.hex()
        step["texts"] = [plan.text(t) for t in step.get("texts", [])]
    commands = [step for step in steps if "cmd" in step]
    lines = [plan.text(line) for line in scenario["ipvsadm"] + [step["cmd"] for step in commands]]
    if how_much:
        vary_settings(scenario, lines, rng, "mixed" in recorded["name"])
    before_start = len(scenario["ipvsadm"])
    for step, line in zip(commands, lines[before_start:]):
        step["cmd"] = line
    scenario["ipvsadm"] = lines[:before_start]
    if how_much > 1:
        steps, gaps = vary_steps(steps, gaps, rng)
    at = 0
    for step, gap in zip(steps, gaps):
        at += gap
        step["at_ms"] = at
    scenario["steps"] = steps
    return scenario


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", help="folder with ask.py and pkt.py")
    parser.add_argument("vectors", help="folder with recorded scenarios")
    parser.add_argument("out", help="folder for the variants")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--groups", default="1,2,3,5,6,7")
    parser.add_argument("--only", default="", help="part of the names")
    args = parser.parse_args()
    sys.path.insert(0, args.oracle)
    import ask
    import pkt

    os.makedirs(args.out, exist_ok=True)
    groups = {int(g) for g in args.groups.split(",")}
    for path in sorted(glob.glob(os.path.join(args.vectors, "*.json"))):
        with open(path) as file:
            recorded = json.load(file)
        # what FTP says in its texts is not varied
        other = recorded.get("kind") == "cli" or "ftp" in recorded["name"]
        if other or recorded["group"] not in groups or args.only not in recorded["name"]:
            continue
        name = "vary%s-%s" % (args.seed, recorded["name"])
        made = variant(recorded, random.Random(name), name, ask.expand, pkt.crc32c)
        with open(os.path.join(args.out, "%d-%s.json" % (recorded["group"], name)), "w") as file:
            json.dump(made, file, indent=1)


if __name__ == "__main__":
    main()
