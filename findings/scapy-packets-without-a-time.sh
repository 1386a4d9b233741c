#!/bin/bash
# Tool: scapy 2.8.0 (PyPI).
# Behaviour: a packet that a pcapng file has without a time (a Simple Packet Block) gets the time at which the file is read, as if
#   it had been captured then. Two readings of one file differ. Written again as pcap, the invented times are in the file.
# Expected otherwise: draft-ietf-opsawg-pcapng, section 4.4: such a block has no time.
# Seen: both packets have a time between the start and the end of the reading; the second reading is later.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check scapy==2.8.0
cat >"$dir/show.py" <<'PYTHON'
import struct, sys, time
import scapy
from scapy.all import IP, Raw, UDP, rdpcap, wrpcap

def block(kind, body):
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length

packet = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5000, dport=9) / Raw(b"hello"))
data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack("<HHI", 101, 0, 0))
data += 2 * block(3, struct.pack("<I", len(packet)) + packet)
folder = sys.argv[1]
with open(f"{folder}/simple.pcapng", "wb") as file:
    file.write(data)
clock = [time.time()]
readings = []
for _ in range(2):
    readings.append([float(one.time) for one in rdpcap(f"{folder}/simple.pcapng")])
    clock.append(time.time())
wrpcap(f"{folder}/again.pcap", rdpcap(f"{folder}/simple.pcapng"))
with open(f"{folder}/again.pcap", "rb") as file:
    (written,) = struct.unpack_from("<I", file.read(), 24)
print("scapy", scapy.VERSION)
for number, reading in enumerate(readings):
    print("read between", clock[number], "and", clock[number + 1], "times:", reading)
print("seconds in the copy:", written)
invented = all(clock[n] <= one <= clock[n + 1] for n, reading in enumerate(readings) for one in reading)
sys.exit(not (invented and len(readings[0]) == 2 and abs(written - clock[-1]) < 60))
PYTHON
"$dir/python/bin/python" "$dir/show.py" "$dir" 2>"$dir/errors" || { cat "$dir/errors"; echo 'this has changed'; exit 1; }
echo 'as described'
