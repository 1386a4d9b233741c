#!/bin/bash
# Does `make audit` notice violations? The script plants one after the other in a copy of the tree. Each must break the claim
# that it is against. It needs no root.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! python3 -c 'import cryptography.fernet' 2>/dev/null; then
    printf '\n%s\n\n' 'SKIPPED: the audit needs python3 with cryptography (pip install cryptography)'
    echo 'audit: 0 passed, 0 failed, 1 skipped'
    [ -z "${FERNVPN_REQUIRE_INTEROP:-}" ]
    exit
fi

tree=$PWD
copy=$(mktemp -d)
passed=0 failed=0
trap 'rm -rf "$copy"' EXIT
tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$copy"
FERNVPN=$(realpath -m "${FERNVPN:-$tree/target/release/fernvpn}")
export FERNVPN

audit() { python3 "$copy/tests/audit/audit.py" >"$copy/said" 2>&1; }
verdict() { # COMMAND TEXT: the command has to succeed
    if "$1"; then passed=$((passed + 1)); echo "ok    $2"; else failed=$((failed + 1)); echo "!!    $2"; cat "$copy/said"; fi
}
noticed() { ! audit && grep -q "^BROKEN  $claim" "$copy/said"; }

# planted CLAIM FILE WHAT COMMAND...: runs the command on the file in the copy. The claim must break.
planted() {
    claim=$1 file=$2 what=$3
    shift 3
    "$@" "$copy/$file"
    verdict noticed "$what"
    if [ -e "$tree/$file" ]; then cp -p "$tree/$file" "$copy/$file"; else rm -r "${copy:?}/${file%%/*}"; fi
}
write() { mkdir -p "$(dirname "$2")"; printf '%s\n' "$1" >"$2"; }
append() { printf '%s\n' "$1" >>"$2"; }

verdict audit 'a tree without a violation'
planted 'four crates' Cargo.toml 'a fifth crate' sed -i 's/^\[dependencies\]/&\ncfg-if = "1"/'
planted 'four crates' build.rs 'a build script' append 'fn main() {}'
planted 'their tree' Cargo.lock 'another ctutils below the four' sed -i '/^name = "ctutils"/,/^checksum/s/^checksum = "./checksum = "f/'
planted 'their tree' tests/audit/crates.txt 'a crate that nobody has recorded' sed -i '/^cmov /d'
planted 'their tree' .cargo/config.toml 'a source that replaces the registry' write '[source.crates-io]'
planted 'unsafe code' src/fernet/cbc.rs 'unsafe code in the core' append 'fn planted() { unsafe { std::hint::unreachable_unchecked() } }'
planted 'unsafe code' src/packet/mod.rs 'a module that does not forbid it' sed -i '/forbid(unsafe_code)/d'
planted 'each unsafe' src/os/sys.rs 'an unsafe block without its reason' sed -i '0,/\/\/ SAFETY: /{/\/\/ SAFETY: /d}'
planted 'each unsafe' Cargo.toml 'unsafe code allowed' sed -i 's/^unsafe_code = "deny"/unsafe_code = "allow"/'
planted 'modules use' src/protocol/frame.rs 'the protocol uses the machine' append 'use crate::os::log;'
planted 'modules use' src/protocol/frame.rs 'the same by another name' append 'use crate as c;'
planted 'modules use' src/fernet/mod.rs "another module's file as a part of the core" append "$(printf '#[path = "../os/clock.rs"]\nmod clock;')"
planted 'the core has no clock' src/fernet/token.rs 'a clock in the core' append 'use std::time::SystemTime;'
planted 'the core has no clock' src/fernet/token.rs 'a clock by another name' append 'use ::std as s;'
planted 'the core has no clock' src/protocol/record.rs 'randomness in the core' append 'use rand::rngs::SysRng;'
planted 'nothing is unwrapped' src/os/clock.rs 'an unwrap' sed -i '0,/^pub fn/s//fn planted() { None::<()>.unwrap() }\npub fn/'
planted 'line budgets' src/fernet/key.rs 'a core that has grown' append "$(printf 'const _: () = ();\n%.0s' {1..300})"
planted 'Python recomputes' tests/vectors/session-fernet-static.json 'a changed value of a session' sed -i 's/"transcript": "./"transcript": "!/; s/!/0/'
planted 'Python recomputes' tests/vectors/session-aes-256-gcm-static.json 'a session that is not there' rm
planted 'the Fernet' tests/vectors/fernet/verify.json 'a changed vector of the specification' sed -i 's/"hello"/"hallo"/'
planted 'PROTOCOL.md' src/tunnel/peers/admission.rs 'a limit that is not the specified one' sed -i 's/PLACES: usize = 1024/PLACES: usize = 2048/'
planted 'PROTOCOL.md' src/protocol/mod.rs 'a key that is used for longer' sed -i 's/MAX_RECORDS: u64 = 1 << 32/MAX_RECORDS: u64 = 1 << 33/'
planted 'PROTOCOL.md' docs/PROTOCOL.md 'a frame of another length' sed -i 's/| 87,500 |/| 87,600 |/'
planted 'PROTOCOL.md' docs/PROTOCOL.md 'a specification of another limit' sed -i 's/| hello body | 1,024 bytes/| hello body | 2,048 bytes/'
planted 'the tables' src/tunnel/client/handshake.rs 'a limit changed, and the table not' sed -i 's/CONNECT_TIME: Duration = Duration::from_secs(5)/CONNECT_TIME: Duration = Duration::from_secs(6)/'
planted 'every timer' src/tunnel/client/tasks.rs 'a time without a name' sed -i 's/self.sleep(PING_INTERVAL)/self.sleep(Duration::from_secs(1))/'
planted 'the tables' docs/AUDIT.md 'a table changed by hand' sed -i 's/^| `chdir/| `chroot/; s/^| \[`PLACES`\](\(.*\)) | 1,024/| [`PLACES`](\1) | 512/'
planted 'the lesson' docs/lesson/index.html 'a byte changed in the lesson' sed -i '0,/PROTOCOL/s//PROTOKOLL/'
planted 'links' README.md 'a link that leads nowhere' append '[there](docs/NOWHERE.md)'
planted 'links' src/protocol/record.rs 'a function in the list of claims that has another name now' sed -i 's/fn has_room/fn has_space/'
planted 'links' tests/core/records.rs 'a test in the list of claims that is gone' sed -i 's/a_record_opens_once_and_in_its_place/a_record/'
planted 'files and tests' tests/core/fernet_divergence.rs 'a test that a document names and that is gone' sed -i 's/trailing_bits_are_refused/gone/'
planted 'sentences' README.md 'a sentence that is too long' append "$(printf 'word %.0s' {1..26})."
planted 'sentences' src/fernet/key.rs 'a comment that is too long' append "// $(printf 'word %.0s' {1..26})."

# The last violation is a file in a registry that is not as it was published.
registry=$(dirname "$(dirname "$(find "${CARGO_HOME:-$HOME/.cargo}"/registry/src -maxdepth 2 -name 'cmov-*' -print -quit)")")
index=$(basename "$(dirname "$(find "$registry" -maxdepth 2 -name 'cmov-*' -print -quit)")")
mkdir -p "$copy/cargo/registry/src/$index"
ln -s "${registry%/src}/cache" "${registry%/src}/index" "$copy/cargo/registry/"
ln -s "$registry/$index"/* "$copy/cargo/registry/src/$index/"
crate=$(basename "$(find "$registry/$index" -maxdepth 1 -name 'cmov-*' -print -quit)")
rm "$copy/cargo/registry/src/$index/$crate"
cp -r "$registry/$index/$crate" "$copy/cargo/registry/src/$index/"
export CARGO_HOME=$copy/cargo
verdict audit 'a registry as it was published'
echo '// planted' >>"$copy/cargo/registry/src/$index/$crate/src/lib.rs"
claim="the crates' sources"
verdict noticed "a crate's source that was changed after it was published"

echo "audit: $passed passed, $failed failed"
[ $failed = 0 ]
