"""The content of Packets records; echo requests and replies of ICMP (RFC 792) and ICMPv6 (RFC 4443)."""

import struct
from ipaddress import ip_address

from fernvpn_peer import require

REQUEST, REPLY = 0, 1
TYPES = {4: (8, 0), 6: (128, 129)}      # IP version: type of a request, type of a reply


def write_packets(packets):
    return b"".join(struct.pack(">H", len(packet)) + packet for packet in packets)


def read_packets(content):
    packets = []
    while content:
        length = int.from_bytes(content[:2], "big")
        require(len(content) >= 2 + length, "a packet is longer than its record")
        packets.append(content[2:2 + length])
        content = content[2 + length:]
    require(packets, "a Packets record without packets")
    return packets


def checksum(data):
    """RFC 1071. Of data that contain their own correct checksum it is 0."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo_header(source, target, length):
    """In version 6 the checksum also covers this; in version 4 nothing."""
    return source.packed + target.packed + struct.pack(">II", length, 58) if source.version == 6 else b""


def write_echo(kind, source, target, rest):
    """`rest` is identifier, sequence number and data."""
    icmp_type = bytes([TYPES[source.version][kind], 0])
    icmp_checksum = checksum(pseudo_header(source, target, 4 + len(rest)) + icmp_type + bytes(2) + rest)
    icmp = icmp_type + struct.pack(">H", icmp_checksum) + rest
    if source.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(icmp), 58, 64) + source.packed + target.packed + icmp
    header = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1)
    addresses = source.packed + target.packed
    return header + struct.pack(">H", checksum(header + bytes(2) + addresses)) + addresses + icmp


def read_echo(packet):
    """(kind, source, target, rest) of a well-formed echo packet; None for everything else."""
    if packet[:1] == b"\x45" and len(packet) >= 28:
        length, _, fragment, _, protocol = struct.unpack(">HHHBB", packet[2:10])
        source, target, icmp = ip_address(packet[12:16]), ip_address(packet[16:20]), packet[20:]
        if length != len(packet) or fragment & 0x3FFF or protocol != 1 or checksum(packet[:20]):
            return None
    elif packet[:1] and packet[0] >> 4 == 6 and len(packet) >= 48:
        length, next_header = struct.unpack(">HB", packet[4:7])
        source, target, icmp = ip_address(packet[8:24]), ip_address(packet[24:40]), packet[40:]
        if length != len(icmp) or next_header != 58:
            return None
    else:
        return None
    if icmp[0] not in TYPES[source.version] or icmp[1] or checksum(pseudo_header(source, target, len(icmp)) + icmp):
        return None
    return TYPES[source.version].index(icmp[0]), source, target, icmp[4:]
