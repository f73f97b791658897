"""A guest behind a TAP device: sends one UDP super-frame with fragmentation offload and one small datagram.

usage: guest.py DEVICE MAC, with the device made by `ip tuntap add DEVICE mode tap vnet_hdr`
"""
import fcntl
import os
import struct
import sys

# linux/if_tun.h, linux/virtio_net.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
NEEDS_CSUM, GSO_NONE, GSO_UDP = 1, 0, 3


def fold(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def datagram(mac, size):
    length = 8 + size
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0)
    ends = bytes([192, 0, 2, 1, 192, 0, 2, 10])
    ip = ip[:10] + struct.pack("!H", ~fold(ip + ends) & 0xFFFF)
    partial = fold(ends + struct.pack("!HH", 17, length))
    udp = struct.pack("!HHHH", 1000, 53, length, partial)
    return mac + bytes.fromhex("020000000077") + b"\x08\x00" + ip + ends + udp + b"u" * size


name, mac = sys.argv[1].encode(), bytes.fromhex(sys.argv[2].replace(":", ""))
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
fcntl.ioctl(tap, TUNSETOFFLOAD, 1)
print("ready", flush=True)
sys.stdin.readline()
for kind, size in ((GSO_UDP, 8000), (GSO_NONE, 100)):
    header = struct.pack("<BBHHHH", NEEDS_CSUM, kind, 42, 1472 if kind else 0, 34, 6)
    os.write(tap, header + datagram(mac, size))
print("sent", flush=True)
sys.stdin.readline()
