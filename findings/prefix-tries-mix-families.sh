#!/bin/bash
# Tools: pytricia 1.3.0 and pysubnettree 0.38.1 (PyPI), which map networks to values.
# Behaviour: pytricia with 128 bits takes networks of both families, and forgets which is which: 10.0.0.0/8 answers for a00::1,
#   and a value for a00::/8 replaces that of 10.0.0.0/8. pysubnettree has IPv4 inside IPv6: ::/0, the default route of IPv6,
#   answers for every IPv4 address.
# Expected otherwise: RFC 4291, section 2.5: the default route of one family is none of the other, and IPv4 is in IPv6 below
#   ::ffff:0:0/96 alone, by that notation. pytricia's README only says that 128 bits are for IPv6, and refuses nothing.
# Seen: "office" for a00::1; one network after two were put in; "six" for 192.0.2.1 of ::/0 alone.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check pytricia==1.3.0 pysubnettree==0.38.1
cat >"$dir/show.py" <<'PYTHON'
import sys
from importlib.metadata import version
import pytricia, SubnetTree

trie = pytricia.PyTricia(128)
trie["10.0.0.0/8"] = "office"
found = trie.get("a00::1"), trie.get("2001:db8::1")
trie["a00::/8"] = "other"
after = len(trie), trie["10.0.0.0/8"]
print("pytricia", version("pytricia"), "a00::1, 2001:db8::1:", found, "then:", after)
tree = SubnetTree.SubnetTree()
tree["::/0"] = "six"
default = tree["192.0.2.1"] if "192.0.2.1" in tree else None
print("pysubnettree", version("pysubnettree"), "192.0.2.1 by ::/0:", default)
sys.exit(not (found == ("office", None) and after == (1, "other") and default == "six"))
PYTHON
"$dir/python/bin/python" "$dir/show.py" || { echo 'this has changed'; exit 1; }
echo 'as described'
