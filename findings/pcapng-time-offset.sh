#!/bin/bash
# Tools: python-pcapng 2.1.1 and dpkt 1.9.8 (PyPI).
# Behaviour: a file whose interface counts its time from a moment of its own (option if_tsoffset). dpkt adds the offset and dates
#   the packets 2023. python-pcapng reads the option, shows it by its name and with its value, and dates the packets 1970.
# Expected otherwise: draft-ietf-opsawg-pcapng, section 4.2: if_tsoffset must be added to every timestamp of the interface.
#   python-pcapng's own comment in timestamp_resolution calls these times "since 1/1/1970".
# Seen: 1700000000 and 1700000001 by dpkt; 0 and 1 by python-pcapng, beside "if_tsoffset: 1700000000".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check dpkt==1.9.8 python-pcapng==2.1.1
cat >"$dir/show.py" <<'PYTHON'
import io, struct, sys
from importlib.metadata import version
import dpkt, pcapng

def block(kind, body):
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length

START = 1_700_000_000
data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
data += block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHq", 14, 8, START) + bytes(4))
for second in range(2):
    data += block(6, struct.pack("<IIIII", 0, 0, second * 10**6, 60, 60) + bytes(60))
by_dpkt = [float(time) for time, _ in dpkt.pcapng.Reader(io.BytesIO(data))]
blocks = list(pcapng.FileScanner(io.BytesIO(data)))
offset = blocks[1].options["if_tsoffset"]
by_pcapng = [one.timestamp for one in blocks if isinstance(one, pcapng.blocks.EnhancedPacket)]
print("dpkt", version("dpkt"), by_dpkt)
print("python-pcapng", version("python-pcapng"), by_pcapng, "if_tsoffset:", offset)
sys.exit(not (by_dpkt == [START, START + 1] and by_pcapng == [0, 1] and offset == START))
PYTHON
"$dir/python/bin/python" "$dir/show.py" || { echo 'this has changed'; exit 1; }
echo 'as described'
