#!/bin/bash
# Does status tell the truth? What it counts is held against the kernel's own counters, those of the devices (ip -s link)
# and those of nft, on both sides, after bulk traffic both ways in super-packets and in single packets.
#
#   client 192.0.2.2 ── 192.0.2.1 server          tunnel 10.8.0.2 ── 10.8.0.1
#
#   FERNVPN=target/release/fernvpn    the program; as root
set -euo pipefail
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
skip() { echo "SKIPPED: status: $*"; echo 'status: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'no network namespaces'
for tool in nft iperf3 promtool python3; do command -v $tool >/dev/null || skip "there is no $tool"; done
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

name=status$$ c=status$$-c s=status$$-s dir=$(mktemp -d) parts=0
clean_up() {
    status=$?
    set +e
    exec 2>/dev/null
    if [ $status != 0 ]; then tail -n 20 "$dir"/*.log; echo "status: $parts passed, 1 failed"; fi
    for ns in "$c" "$s"; do ip netns pids "$ns" | xargs -r kill -KILL; done
    wait
    for ns in "$c" "$s"; do ip netns del "$ns"; done
    rm -rf "$dir"
    exit $status
}
trap clean_up EXIT
die() { echo "!! $*"; exit 1; }
part() { echo "== $*"; }
ok() { parts=$((parts + 1)); }
until_ok() { local end=$((SECONDS + 20)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.05; done; }
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }

for ns in "$c" "$s"; do ip netns add "$ns"; ip -n "$ns" link set lo up; done
ip link add eth netns "$c" type veth peer name eth netns "$s"
for end in "$c 2" "$s 1"; do
    read -r ns host <<<"$end"
    ip -n "$ns" address add "192.0.2.$host/24" dev eth
    ip -n "$ns" link set eth up
    in_ns "$ns" nft -f - <<'NFT'
table inet seen {
    counter in { }
    counter out { }
    chain arriving { type filter hook input priority 0; iifname "fern0" counter name in; }
    chain leaving { type filter hook output priority 0; oifname "fern0" counter name out; }
}
NFT
done
(umask 077; "$fernvpn" genkey >"$dir/alice.key"; echo "$(<"$dir/alice.key") # alice" >"$dir/server.key")
ip netns exec "$s" "$fernvpn" server -k "$dir/server.key" --listen 192.0.2.1:12345 --name "$name-server" \
    --address 10.8.0.1/24 >"$dir/server.out" 2>"$dir/server.log" &
server=$!
until_ok grep -q '^listening' "$dir/server.out"
ip netns exec "$c" "$fernvpn" client -k "$dir/alice.key" --connect 192.0.2.1:12345 --name "$name-client" \
    >"$dir/client.out" 2>"$dir/client.log" &
client=$!
until_ok grep -q '^connected: ' "$dir/client.out"

cat >"$dir/compare.py" <<'PYTHON'
import json, subprocess, sys
fernvpn, name, namespaces = sys.argv[1], sys.argv[2], {"server": sys.argv[3], "client": sys.argv[4]}
def run(*words):
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
wrong = 0
for role, namespace in namespaces.items():
    status = run(fernvpn, "status", f"{name}-{role}", "--format", "json")
    peer = status["peers"][0]
    device = run("ip", "-n", namespace, "-j", "-s", "link", "show", "dev", "fern0")[0]["stats64"]
    seen = run("ip", "netns", "exec", namespace, "nft", "-j", "list", "counters", "table", "inet", "seen")["nftables"]
    seen = {entry["counter"]["name"]: entry["counter"] for entry in seen if "counter" in entry}
    for direction, rx, hook in [("received", "rx", "in"), ("sent", "tx", "out")]:
        for unit in ["packets", "bytes"]:
            ours = peer[f"{direction}_{unit}"]
            # What had no way to go was read from the device as well: a few packets of the kernel's own.
            for what, theirs in [("ip -s link", device[rx][unit]), ("nft", seen[hook][unit])]:
                differs = abs(ours - theirs) / max(theirs, 1)
                print(f"   {role} {direction} {unit}: status {ours}, {what} {theirs}: {differs:.3%}")
                wrong += differs > 0.01 or theirs < 1000
    dropped = sum(peer["dropped_packets"].values())
    print(f"   {role} dropped: {peer['dropped_packets']}, unrouted {status['unrouted_packets']}")
    mean = peer["sent_bytes"] / peer["sent_packets"]
    print(f"   {role} bytes in a packet sent: {mean:.0f}")
sys.exit(wrong > 0)
PYTHON
compare() { python3 "$dir/compare.py" "$fernvpn" "$name" "$s" "$c" || die 'they do not agree'; }
# bulk ARGUMENT...: iperf3 from the client to the server.
bulk() {
    : >"$dir/iperf.log" # an older one would say that it listens
    in_ns "$s" iperf3 -s -1 --forceflush >"$dir/iperf.log" 2>&1 &
    local iperf=$!
    until_ok grep -q listening "$dir/iperf.log"
    in_ns "$c" iperf3 -c 10.8.0.1 "$@" >"$dir/iperf-client.log" || die "iperf3 $*"
    wait $iperf
}

part 'bulk both ways, in super-packets: status agrees with ip -s link and nft within 1 %'
bulk -t 2; bulk -t 2 -R; compare
ok
part 'the same with small datagrams'
bulk -t 1 -u -b 20M -l 200; bulk -t 1 -u -b 20M -l 200 -R; compare
ok

part 'the three formats'
"$fernvpn" status "$name-server" --format prometheus | promtool check metrics || die 'promtool'
"$fernvpn" status --format prometheus | promtool check metrics || die 'promtool, all instances'
"$fernvpn" status --format json | python3 -c 'import json, sys; assert len(json.load(sys.stdin)) >= 2'
for role in server client; do
    "$fernvpn" status "$name-$role" | grep -q '10\.8\.0\..*aes-256-gcm.* ms .* GB\|10\.8\.0\..*aes-256-gcm.* ms .* MB' || die "$role"
    ! "$fernvpn" status "$name-$role" --format json | grep -qF "$(<"$dir/alice.key")" || die 'a key'
done
[ "$(stat -c %a "/run/fernvpn/$name-server.sock")" = 600 ] || die 'others may ask'
ok

part 'a client says that it takes a restart, and goes on'
! said=$("$fernvpn" reload "$name-client" 2>&1) && grep -q 'started again' <<<"$said" || die "$said"
kill -HUP $client
until_ok grep -q 'takes up a changed configuration when it is started again' "$dir/client.log"
in_ns "$c" ping -c 1 -W 2 10.8.0.1 >/dev/null || die 'it has ended'
ok

part 'after kill -9 nobody answers, and the next instance of that name does'
kill -KILL $server; wait $server 2>/dev/null || true
! "$fernvpn" status "$name-server" >/dev/null 2>"$dir/none" || die 'who answers?'
grep -q "no fernvpn called $name-server" "$dir/none" || die "$(cat "$dir/none")"
ip netns exec "$s" "$fernvpn" server -k "$dir/server.key" --listen 192.0.2.1:12345 --name "$name-server" \
    >"$dir/server.out" 2>"$dir/server.log" &
server=$!
until_ok "$fernvpn" status "$name-server"
kill -TERM $server $client; wait $server $client || die 'not in order'
[ -z "$(ls /run/fernvpn | grep "$name")" ] || die 'a socket is left'
ok
echo "status: $parts passed, 0 failed"
