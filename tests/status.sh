#!/bin/bash
# Does status tell the truth? The script compares its counters with the kernel's: those of the devices (ip -s link) and those
# of nft, on both sides. Before that, bulk traffic goes both ways, in super-packets and in single packets.
#
#   client 192.0.2.2 ── 192.0.2.1 server          tunnel 10.8.0.2 ── 10.8.0.1
. "$(dirname "$0")/common/network.sh"
needs ip iperf3 nft ping promtool python3

c=$id-c s=$id-s
namespaces $c $s
uplink $c $s eth0 192.0.2
for ns in $c $s; do
    in_ns $ns nft -f - <<'NFT'
table inet seen {
    counter in { }
    counter out { }
    chain arriving { type filter hook input priority 0; iifname "fern0" counter name in; }
    chain leaving { type filter hook output priority 0; oifname "fern0" counter name out; }
}
NFT
done
keys alice
server() { fern server $s server -k "$dir/server.key" --listen 192.0.2.1:12345 --address 10.8.0.1/24; }
server
fern client $c client -k "$dir/alice.key" --connect 192.0.2.1:12345

cat >"$dir/compare.py" <<'PYTHON'
# Prints what was added since the last call.
import json, pathlib, subprocess, sys
fernvpn, name, namespaces = sys.argv[1], sys.argv[2], {"server": sys.argv[3], "client": sys.argv[4]}
def run(*words):
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
kept = pathlib.Path(sys.argv[5])
before = json.loads(kept.read_text()) if kept.exists() else {}
now = {}
def added(key, value):
    now[key] = value
    return value - before.get(key, 0)
wrong = 0
for role, namespace in namespaces.items():
    status = run(fernvpn, "status", f"{name}-{role}", "--format", "json")
    peer = status["peers"][0]
    device = run("ip", "-n", namespace, "-j", "-s", "link", "show", "dev", "fern0")[0]["stats64"]
    seen = run("ip", "netns", "exec", namespace, "nft", "-j", "list", "counters", "table", "inet", "seen")["nftables"]
    seen = {entry["counter"]["name"]: entry["counter"] for entry in seen if "counter" in entry}
    for direction, rx, hook in [("received", "rx", "in"), ("sent", "tx", "out")]:
        for unit in ["packets", "bytes"]:
            key = f"{role} {direction} {unit}"
            ours = added(key, peer[f"{direction}_{unit}"])
            # On a busy machine the device's queue overflows. nft has counted such packets, and the device has not.
            late = device[rx]["dropped"] if (hook, unit) == ("out", "packets") else 0
            # The server also reads packets without a receiver from the device: a few of the kernel's own.
            for what, theirs in [("ip -s link", device[rx][unit]), ("nft", seen[hook][unit] - late)]:
                theirs = added(f"{key} {what}", theirs)
                differs = abs(ours - theirs) / max(theirs, 1)
                print(f"   {key}: status {ours}, {what} {theirs}: {differs:.3%}")
                wrong += differs > 0.01 or theirs < 1000
    dropped = sum(peer["dropped_packets"].values())
    print(f"   {role} dropped: {peer['dropped_packets']}, unrouted {status['unrouted_packets']}")
    mean = peer["sent_bytes"] / peer["sent_packets"]
    print(f"   {role} bytes in a packet sent: {mean:.0f}")
kept.write_text(json.dumps(now))
sys.exit(wrong > 0)
PYTHON
compare() { python3 "$dir/compare.py" "$fernvpn" $id $s $c "$dir/counted" || die 'they do not agree'; }
# bulk ARGUMENT...: runs iperf3 from the client to the server.
bulk() {
    start iperf $s iperf3 --server --one-off --forceflush
    logged iperf listening
    run $c iperf3 -c 10.8.0.1 "$@"
    ends iperf
}

expect 'bulk both ways, in super-packets: status agrees with ip -s link and nft within 1 %'
bulk -t 2; bulk -t 2 -R; compare
ok
expect 'the same with small datagrams'
bulk -t 1 -u -b 20M -l 200; bulk -t 1 -u -b 20M -l 200 -R; compare
ok

expect 'the three formats'
"$fernvpn" status $id-server --format prometheus | promtool check metrics || die 'promtool'
"$fernvpn" status --format prometheus | promtool check metrics || die 'promtool, all instances'
"$fernvpn" status --format json | python3 -c 'import json, sys; assert len(json.load(sys.stdin)) >= 2'
for role in server client; do
    "$fernvpn" status $id-$role >"$dir/text"
    tr '\n' ' ' <"$dir/text" | grep -q '10\.8\.0\..*aes-256-gcm.* ms .* [GM]B' || die "$role"
    awk 'length > 80 { exit 1 }' "$dir/text" || die "$role: $(cat "$dir/text")"
    "$fernvpn" status $id-$role --format json >"$dir/told"
    ! grep -qF "$(<"$dir/alice.key")" "$dir/told" || die 'a key'
done
[ "$(stat -c %a "/run/fernvpn/$id-server.sock")" = 600 ] || die 'others may ask'
ok

expect 'a start fills no screen: at most 15 short lines on each side, and with --quiet none but the one on stdout'
for role in server client; do
    ! grep -q '^+ ' "$dir/$role.log" || die "$role shows commands"
    [ "$(wc -l <"$dir/$role.log")" -le 15 ] || die "$role: $(wc -l <"$dir/$role.log") lines"
    awk 'length > 180 { exit 1 }' "$dir/$role.log" || die "$role: a long line"
done
fern quiet $s server -k "$dir/server.key" --no-tun --listen 127.0.0.1:0 --quiet
[ "$(wc -l <"$dir/quiet.log")" = 1 ] || die "$(cat "$dir/quiet.log")"
stop quiet
fern loud $s server -k "$dir/server.key" --tun fern7 --address 10.77.0.1/24 --listen 127.0.0.1:0 --verbose
grep -q '^+ ip ' "$dir/loud.log" || die 'no commands with --verbose'
stop loud
ok

expect 'an instance of a user without XDG_RUNTIME_DIR is found, by the user and by root'
as_nobody() { in_ns $s setpriv --reuid=nobody --regid=nogroup --clear-groups env -u XDG_RUNTIME_DIR "$@"; }
install -m 755 "$fernvpn" "$dir/program"; chmod 755 "$dir"
install -m 600 -o nobody "$dir/server.key" "$dir/nobodys.key"
start theirs $s setpriv --reuid=nobody --regid=nogroup --clear-groups env -u XDG_RUNTIME_DIR \
    "$dir/program" server -k "$dir/nobodys.key" --no-tun --listen 127.0.0.1:0 --name $id-theirs
logged theirs 'listening on'
as_nobody "$dir/program" status | grep -q "^$id-theirs (server" || die 'the user does not find it'
"$fernvpn" status $id-theirs | grep -q "^$id-theirs (server" || die 'root does not find it'
said=$(as_nobody "$dir/program" reload) || die 'without a name, the only one is meant'
grep -q '^reloaded: 1 clients' <<<"$said" || die "$said"
stop theirs
! said=$(as_nobody "$dir/program" reload 2>&1) && grep -q 'no fernvpn is running here' <<<"$said" || die "$said"
ok

expect 'a client says that it takes a restart, and goes on'
! said=$("$fernvpn" reload $id-client 2>&1) && grep -q 'Try: restart it' <<<"$said" || die "$said"
kill -HUP "${pids[client]}"
logged client 'reads its configuration only when it starts'
run $c ping -c 1 10.8.0.1
ok

expect 'no end counts what the kernels say on their own links'
# The devices send reports and look for routers when they come up.
for role in server client; do
    "$fernvpn" status $id-$role --format json >"$dir/told"
    python3 -c '
import json, sys
told = json.load(sys.stdin)
drops = told["peers"][0]["dropped_packets"]
sys.exit(any(drops[reason] for reason in ["source", "destination", "malformed"]) or told["unrouted_packets"] > 0)' <"$dir/told" ||
        die "$role: $(cat "$dir/told")"
done
ok

expect 'after kill -9 nobody answers, and the next instance of that name does'
stop server KILL
! "$fernvpn" status $id-server >/dev/null 2>"$dir/none" || die 'who answers?'
grep -q "no fernvpn called $id-server" "$dir/none" || die "$(cat "$dir/none")"
because() { "$fernvpn" status $id-client | grep -q "^  because  *$1"; }
await because '.*nothing listens there'
"$fernvpn" status $id-client --format json | grep -q '"not_connected":".*nothing listens there' || die 'not in JSON'
server
"$fernvpn" status $id-server >/dev/null
await fails because .
for name in server client; do stop $name; [ $ended = 0 ] || die "$name ended with status $ended"; done
[ -z "$(find /run/fernvpn -name "$id*")" ] || die 'a socket is left'
ok
