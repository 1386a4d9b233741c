#!/bin/bash
# Tool: pnet_packet 0.35.0 (crates.io).
# Behaviour: for one datagram in 65,536 the checksum of UDP comes out as zero, and ipv4_checksum and ipv6_checksum return just
#   that. Written into the packet it means that there is no checksum. Over IPv6 the receiver throws such a datagram away.
# Expected otherwise: RFC 768: a checksum that is computed as zero is sent as all ones. RFC 8200, section 8.1: with IPv6 a node
#   must change zero to 0xffff, and a receiver must discard a datagram with zero.
# Seen: 0 for a datagram whose words add up to 0xffff, by both functions; the datagram with one more in its payload gets 0xfffe.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "show"
version = "0.0.0"
edition = "2021"

[dependencies]
pnet_packet = "=0.35.0"
TOML
cat >"$dir/src/main.rs" <<'RUST'
use pnet_packet::udp::{ipv4_checksum, ipv6_checksum, MutableUdpPacket, UdpPacket};

/// The checksums of a datagram with two bytes of payload.
fn of(payload: u16, checksum: &dyn Fn(&UdpPacket) -> u16) -> u16 {
    let mut bytes = [0; 10];
    let mut packet = MutableUdpPacket::new(&mut bytes).unwrap();
    packet.set_source(5000);
    packet.set_destination(9);
    packet.set_length(10);
    packet.set_payload(&payload.to_be_bytes());
    checksum(&packet.to_immutable())
}

fn main() {
    let (a4, b4) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let (a6, b6) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let four = |packet: &UdpPacket| ipv4_checksum(packet, &a4, &b4);
    let six = |packet: &UdpPacket| ipv6_checksum(packet, &a6, &b6);
    let families: [(&str, &dyn Fn(&UdpPacket) -> u16); 2] = [("IPv4", &four), ("IPv6", &six)];
    for (name, checksum) in families {
        // The payload that makes all words add up to 0xffff.
        let payload = of(0, checksum);
        let (zero, next) = (of(payload, checksum), of(payload + 1, checksum));
        println!("{name}: payload {payload:#06x}: {zero:#06x}, payload {:#06x}: {next:#06x}", payload + 1);
        assert_eq!((zero, next), (0, 0xfffe));
    }
}
RUST
cd "$dir"
cargo run --quiet --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target" || { echo 'this has changed'; exit 1; }
grep -A1 '"pnet_packet"' Cargo.lock
echo 'as described'
