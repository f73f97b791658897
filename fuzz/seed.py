#!/usr/bin/env python3
"""Makes the seeds of the target `frame` from the recorded vectors of groups 1 to 3: the same frames, with the
mode of the vector, and the data of TCP connections once more as super-frames. Usage: seed.py VECTORS CORPUS"""
import glob, json, os, re, sys

vectors, corpus = sys.argv[1:3]
os.makedirs(corpus, exist_ok=True)

def unhex(s):
    return bytes.fromhex(re.sub(r"\(([0-9a-f]{2})\*(\d+)\)", lambda m: m.group(1) * int(m.group(2)), s))

for path in sorted(glob.glob(os.path.join(vectors, "[123]-*.json"))):
    v = json.load(open(path))
    service = v["config"]["services"][0]
    real = service["reals"][0]
    mode = {"masq": 0, "tunnel": 2, "dr": 3}[real["forward"]]
    mode |= {None: 0, "ipip": 0, "gre": 1, "gue": 2 + bool(real.get("tun_csum"))}[real.get("tun_type")] << 2
    mode |= (":" in real["addr"]) != (":" in service["vip"]) and 16
    out, last, count = bytes([mode, 0]), 0, 0
    for step in v["steps"]:
        if "frame_hex" not in step or count == 24:
            continue
        units = min((step["at_ms"] - last) // 16, 65535)
        if units:
            out += b"\2" + units.to_bytes(2, "big")
        last = step["at_ms"]
        frame = unhex(step["frame_hex"])
        port = int(step["port"] == "lan")
        out += bytes([port]) + len(frame).to_bytes(2, "big") + frame
        if frame[12:14] == b"\x08\0" and frame[23] == 6 and frame[47] & 0x0A == 8:
            # PSH: 3,000 bytes more, in segments of 1,400, checksum left to the device
            frame += bytes(3000)
            out += bytes([port | 4 | 8 | 16, 34, 16]) + (1400).to_bytes(2, "big") + bytes([54])
            out += len(frame).to_bytes(2, "big") + frame
        count += 1
    name = os.path.basename(path)[:-5]
    open(os.path.join(corpus, name), "wb").write(out)
    if mode == 0:  # the same traffic through FULLNAT
        open(os.path.join(corpus, name.replace("nat", "fullnat")), "wb").write(b"\1" + out[1:])
