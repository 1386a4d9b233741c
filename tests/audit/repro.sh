#!/bin/bash
# Do two builds of this tree make the same bytes? Each has its own folder, path to the registry, and target. The compiler writes
# paths into the program for its error messages, so they are mapped to /fernvpn and /cargo.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cargo fetch --locked --quiet
for build in one another-with-a-longer-name; do
    here=$dir/$build
    mkdir -p "$here/src" "$here/cargo"
    tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$here/src"
    ln -s "${CARGO_HOME:-$HOME/.cargo}/registry" "$here/cargo/registry"
    (cd "$here/src" && CARGO_HOME=$here/cargo CARGO_TARGET_DIR=$here/target CARGO_INCREMENTAL=0 \
        RUSTFLAGS="--remap-path-prefix=$here/src=/fernvpn --remap-path-prefix=$here/cargo=/cargo" \
        cargo build --release --frozen --quiet)
    if grep -q -F "$dir" "$here/target/release/fernvpn"; then
        echo "repro: the program of $here names its folder" >&2
        exit 1
    fi
done
rustc --version --verbose | grep -E '^(rustc|host|LLVM)'
ld --version | sed -n '1s/^/linker: /p'
(cd "$dir" && sha256sum ./*/target/release/fernvpn)
cmp "$dir"/*/target/release/fernvpn
echo 'repro: the same bytes'
