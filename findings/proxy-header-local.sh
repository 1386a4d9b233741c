#!/bin/bash
# Tools: @balena/proxy-protocol-parser 1.0.2 (npm) and proxy-protocol 0.11.3 (PyPI).
# Behaviour: a header of the PROXY protocol, version 2, with the command LOCAL (a balancer's own connection) and an address block.
#   The npm library gives the addresses as those of a client. It gives nothing by which LOCAL can be told from PROXY. The Python
#   library knows LOCAL, and reads the addresses as extensions of types that nobody sent.
# Expected otherwise: the PROXY protocol's specification, section 2.2: for LOCAL the receiver uses the real endpoints of the
#   connection, and discards the protocol block, including the family.
# Seen: the npm library has one answer for both commands; the Python library finds an extension of type 0xc0 in 192.0.2.7.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check proxy-protocol==0.11.3
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" @balena/proxy-protocol-parser@1.0.2 >"$dir/npm.log" 2>&1 || { cat "$dir/npm.log"; exit 1; }
cat >"$dir/show.js" <<'JAVASCRIPT'
const assert = require("assert");
const { v2_decode } = require("@balena/proxy-protocol-parser");
const header = (command) => Buffer.from("0d0a0d0a000d0a515549540a" + command + "11000cc0000207c0000201c35001bb", "hex");
const [local, proxy] = ["20", "21"].map((command) => v2_decode(header(command)));
console.log("@balena/proxy-protocol-parser", require("@balena/proxy-protocol-parser/package.json").version);
console.log("LOCAL:", local);
console.log("PROXY:", proxy);
assert.deepStrictEqual(local, proxy);
assert.deepStrictEqual([local.remoteAddress, local.remotePort], ["192.0.2.7", 50000]);
JAVASCRIPT
cat >"$dir/show.py" <<'PYTHON'
import sys
from importlib.metadata import version
from proxyprotocol.result import ProxyResultLocal
from proxyprotocol.v2 import ProxyProtocolV2

local = bytes.fromhex("0d0a0d0a000d0a515549540a2011000cc0000207c0000201c35001bb")
result = ProxyProtocolV2().unpack(local)
print("proxy-protocol", version("proxy-protocol"), result)
sys.exit(not (isinstance(result, ProxyResultLocal) and 0xc0 in result.tlv and not ProxyProtocolV2().unpack(local[:13] + bytes(3)).tlv))
PYTHON
(cd "$dir" && node show.js) && "$dir/python/bin/python" "$dir/show.py" || { echo 'this has changed'; exit 1; }
echo 'as described'
