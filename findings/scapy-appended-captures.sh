#!/bin/bash
# Tool: scapy 2.8.0 (PyPI).
# Behaviour: two pcapng files, one behind the other, are read as one file, as they should be. But the packets of the second are
#   read with the interfaces of the first: a raw IP packet is shown as an Ethernet frame between invented addresses, and a time
#   in nanoseconds is taken for microseconds. There is no warning. The second file alone is read right.
# Expected otherwise: draft-ietf-opsawg-pcapng, section 4.1 (a file may have several sections) and section 4.2 (an
#   interface's number is unique within its section only).
# Seen: "IP / UDP 192.0.2.1:5000 > 192.0.2.2:discard" at 1700000001 alone, and an Ethernet summary at 1700000001000 behind
#   another file.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check scapy==2.8.0
cat >"$dir/show.py" <<'PYTHON'
import struct, sys
import scapy
from scapy.all import IP, Raw, UDP, Ether, rdpcap

def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length

def capture(link, resolution, ticks, packet):
    """A section with one interface and one packet."""
    option = struct.pack("<HHB3x", 9, 1, resolution) + bytes(4)
    return (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
            + block(1, struct.pack("<HHI", link, 0, 0) + option)
            + block(6, struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet)) + packet))

ip = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5000, dport=9) / Raw(b"hello")
ethernet = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip)
first = capture(1, 6, 1_700_000_000 * 10**6, ethernet)
second = capture(101, 9, 1_700_000_001 * 10**9, bytes(ip))
folder = sys.argv[1]
for name, data in ("second", second), ("both", first + second):
    with open(f"{folder}/{name}.pcapng", "wb") as file:
        file.write(data)
alone = rdpcap(f"{folder}/second.pcapng")[0]
behind = rdpcap(f"{folder}/both.pcapng")[1]
print("scapy", scapy.VERSION)
print("alone:         ", float(alone.time), alone.summary())
print("behind another:", float(behind.time), behind.summary())
same_bytes = bytes(alone) == bytes(behind)
sys.exit(not (same_bytes and IP in alone and alone.time == 1_700_000_001
              and IP not in behind and Ether in behind and behind.time == 1_700_000_001_000))
PYTHON
"$dir/python/bin/python" "$dir/show.py" "$dir" 2>"$dir/errors" || { cat "$dir/errors"; echo 'this has changed'; exit 1; }
[ ! -s "$dir/errors" ] || { cat "$dir/errors"; echo 'this has changed: there is a warning'; exit 1; }
echo 'as described'
