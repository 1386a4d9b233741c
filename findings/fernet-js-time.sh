#!/bin/bash
# Tool: fernet 0.4.0 (npm).
# Behaviour: the option "time", given as a number of milliseconds, is dropped without a word, and the token gets the present time.
#   This is the form of the package's own README, whose example gives what Date.parse returns. A Date or its text works.
# Expected otherwise: the README: time and iv are there to make a token deterministic, and the example has "time: Date.parse(1)".
# Seen: with 1000000000000 and with Date.parse("2001-09-09T01:46:40Z") the token is of today; with a Date it is of 1000000000.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$dir" fernet@0.4.0 >"$dir/npm.log" 2>&1 || { cat "$dir/npm.log"; exit 1; }
cat >show.js <<'JAVASCRIPT'
const fernet = require("fernet");
console.log("fernet", require("fernet/package.json").version);
const secret = new fernet.Secret(Buffer.alloc(32, 1).toString("base64"));
const iv = Array.from({length: 16}, (_, n) => n);
const wanted = 1000000000;
const started = Math.floor(Date.now() / 1000);
const seconds = (time) => {
  const token = new fernet.Token({secret, iv, time}).encode("Message");
  return Number(Buffer.from(token.replace(/-/g, "+").replace(/_/g, "/"), "base64").readBigUInt64BE(1));
};
const moment = new Date(wanted * 1000);
const seen = {
  "a number": seconds(wanted * 1000),
  "Date.parse(text)": seconds(Date.parse(moment.toISOString())),
  "a Date": seconds(moment),
  "text": seconds(moment.toISOString()),
};
console.log(seen);
const isNow = (time) => Math.abs(time - started) < 60;
const asDescribed = isNow(seen["a number"]) && isNow(seen["Date.parse(text)"]) && seen["a Date"] === wanted && seen.text === wanted;
process.exit(asDescribed ? 0 : 1);
JAVASCRIPT
node show.js || { echo 'this has changed'; exit 1; }
echo 'as described'
