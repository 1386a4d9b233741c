#!/bin/bash
# Tool: dpkt 1.9.8 (PyPI).
# Behaviour: a pcapng file of two sections, of which the second was written on a machine of the other byte order: dpkt yields the
#   packets of the first and then ends, as at the end of the file. There is no error and no warning. Each section alone is read
#   in full, and so are both where they have one byte order.
# Expected otherwise: draft-ietf-opsawg-pcapng, section 4.1: each section has a byte order of its own, which its header tells.
# Seen: 3 packets little-endian, 3 big-endian, 6 in two little-endian sections, 3 in a little-endian and a big-endian one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check dpkt==1.9.8
cat >"$dir/show.py" <<'PYTHON'
import io, struct, sys, warnings
import dpkt

warnings.simplefilter("error")

def section(order):
    """Three frames of 60 bytes, one second apart."""
    def block(kind, body):
        length = struct.pack(order + "I", len(body) + 12)
        return struct.pack(order + "I", kind) + length + body + length
    data = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(1, struct.pack(order + "HHI", 1, 0, 0))
    for second in range(3):
        ticks = (1_700_000_000 + second) * 10**6
        data += block(6, struct.pack(order + "IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, 60, 60) + bytes(60))
    return data

little, big = section("<"), section(">")
counts = []
print("dpkt", dpkt.__version__)
for name, data in ("little", little), ("big", big), ("little, little", 2 * little), ("little, big", little + big):
    counts.append(len(list(dpkt.pcapng.Reader(io.BytesIO(data)))))
    print(f"{name}: {counts[-1]} packets")
sys.exit(counts != [3, 3, 6, 3])
PYTHON
"$dir/python/bin/python" "$dir/show.py" || { echo 'this has changed'; exit 1; }
echo 'as described'
