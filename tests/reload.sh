#!/bin/bash
# Fifty clients with traffic, and a server that takes up one configuration after the other: who is not concerned loses no
# packet and no connection. Each client pings the server from a private network of its own, fifty times a second.
#
#   clients 192.0.2.2 ── 192.0.2.1 server, its device in the same namespace
#
#   FERNVPN=target/release/fernvpn    the program; as root
set -euo pipefail
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
skip() { echo "SKIPPED: reload: $*"; echo 'reload: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'no network namespaces'
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

name=reload$$ c=reload$$-c s=reload$$-s dir=$(mktemp -d)
conf=$dir/server.conf parts=0
declare -A pids=()
clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    if [ $status != 0 ]; then tail -n 30 "$dir/server.log"; echo "reload: $parts passed, 1 failed"; fi
    for ns in "$c" "$s"; do ip netns pids "$ns" | xargs -r kill -KILL; done
    kill -KILL "${pids[@]}"
    wait
    for ns in "$c" "$s"; do ip netns del "$ns"; done
    rm -rf "$dir"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM
die() { echo "!! $*"; exit 1; }
part() { echo "== $*"; }
ok() { parts=$((parts + 1)); }
until_ok() { local end=$((SECONDS + 30)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.05; done; }

ip netns add "$c"; ip netns add "$s"
ip link add eth netns "$c" type veth peer name eth netns "$s"
for end in "$c 2" "$s 1"; do
    read -r ns host <<<"$end"
    ip -n "$ns" link set lo up
    ip -n "$ns" address add "192.0.2.$host/24" dev eth
    ip -n "$ns" link set eth up
done

umask 077
printf '[server]\nlisten = 192.0.2.1:12345\nname = %s\nkeepalive = 60\n' "$name" >"$conf"
for ((n = 1; n <= 50; n++)); do
    "$fernvpn" genkey >"$dir/c$n.key"
    printf '[peer]\nname = c%s\nkey = %s\naddress = 10.8.0.%s\n' $n "$(<"$dir/c$n.key")" $((n + 1)) >>"$conf"
done
ip netns exec "$s" "$fernvpn" server -c "$conf" >"$dir/server.out" 2>"$dir/server.log" &
server=$! pids[server]=$!
until_ok grep -q '^listening' "$dir/server.out"

# start N: a client that pings until it is told to stop.
start() {
    : >"$dir/$1.ping"
    ip netns exec "$c" "$fernvpn" client -k "$dir/$1.key" --connect 192.0.2.1:12345 -- \
        ping -n -i 0.02 10.8.0.1 >"$dir/$1.ping" 2>"$dir/$1.log" &
    pids[$1]=$!
}
lines() { [ "$(grep -c -- "$2" "$dir/$3")" = "$1" ]; }
pings() { grep -q 'icmp_seq=10 ' "$dir/$1.ping"; }
# connections: name, where from and since when, of all who are connected.
connections() {
    "$fernvpn" status "$name" --format json | python3 -c '
import json, sys
for peer in json.load(sys.stdin)["peers"]:
    if peer["connected"]:
        print(peer["name"], peer["from"], peer["connected_since"], peer["ratchet_step"])'
}
connected() { [ "$(connections | wc -l)" = "$1" ]; }
of_others() { grep -vE '^(c7|c9|new) ' || true; }

part 'fifty clients are connected, and ping'
for ((n = 1; n <= 50; n++)); do start c$n; done
until_ok connected 50
for ((n = 1; n <= 50; n++)); do until_ok pings c$n; done
before=$(connections)
ok

part 'one is added, one removed, one changed: the other 48 keep their connections'
"$fernvpn" add-client new -c "$conf" --server 192.0.2.1:12345 2>/dev/null | sed -n 's/^key = //p' >"$dir/new.key"
"$fernvpn" remove-client c7 -c "$conf" >/dev/null 2>&1
sed -i 's/^address = 10\.8\.0\.10$/address = 10.8.0.200/' "$conf" # that of c9
said=$("$fernvpn" reload "$name")
grep -q '50 clients; cut off, since their key is gone: 1; told to connect again: 1$' <<<"$said" || die "$said"
start new
until_ok pings new
until_ok grep -q 'no tunnel any more.*removed' "$dir/c7.log"
until_ok grep -q 'connected: 10.8.0.200/24' "$dir/c9.log"
until_ok connected 50
diff <(of_others <<<"$before") <(connections | of_others) || die 'somebody else was disturbed'
ok

part 'a second key, then without the first: nobody notices who uses the second'
"$fernvpn" genkey >"$dir/other.key"
python3 - "$conf" "$dir/c1.key" "$dir/other.key" <<'PYTHON'
import sys
conf, old, new = sys.argv[1], open(sys.argv[2]).read().strip(), open(sys.argv[3]).read().strip()
text = open(conf).read()
open(conf, "w").write(text.replace(f"key = {old}\n", f"key = {new}\nkey = {old}\n"))
PYTHON
now=$(connections)
kill -HUP $server
until_ok grep -q 'reloaded: 50 clients; .*: 0; .*: 0' "$dir/server.log"
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
ok

part 'a mistake changes nothing, and is told'
cp "$conf" "$dir/good"
echo 'keepalive = never' >>"$conf"
! said=$("$fernvpn" reload "$name" 2>&1) || die 'it was taken'
grep -q "server.conf:[0-9]*: .*keepalive" <<<"$said" || die "$said"
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
kill -HUP $server
until_ok lines 2 'not reloaded' server.log
cp "$dir/good" "$conf"
ok

part 'what needs a restart is said, and the rest is taken up'
sed -i 's/^listen = .*/listen = 192.0.2.1:54321\nclient-to-client = yes/' "$conf"
said=$("$fernvpn" reload "$name")
grep -q '(needs a restart: listen)$' <<<"$said" || die "$said"
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
ok

part 'through all of it, 48 of them have lost no packet'
for who in "${!pids[@]}"; do
    case $who in server | c7 | c9 | new) continue ;; esac
    kill -INT "${pids[$who]}"
done
clients=0
for who in "${!pids[@]}"; do
    case $who in server | c7 | c9 | new) continue ;; esac
    wait "${pids[$who]}" || die "$who ended with $?"
    unset "pids[$who]"
    # The last one may have been on its way when ping was stopped.
    awk '/packets transmitted/ { lost = $1 - $4; sent = $1 } END { exit !(sent > 50 && lost <= 1) }' "$dir/$who.ping" ||
        die "$who: $(tail -2 "$dir/$who.ping")"
    awk -F 'icmp_seq=' '/icmp_seq/ { if ($2 + 0 != last + 1) exit 1; last = $2 + 0 }' "$dir/$who.ping" || die "$who: a gap"
    clients=$((clients + 1))
done
[ $clients = 48 ] || die "$clients clients"
ok

part 'what everybody should know reaches everybody'
sed -i 's/^listen = .*/listen = 192.0.2.1:12345\npush-routes = 192.168.77.0\/24/' "$conf"
said=$("$fernvpn" reload "$name")
grep -q 'told to connect again: 2$' <<<"$said" || die "$said"
until_ok lines 2 '^connected: ' new.log
until_ok connected 2
ip netns exec "$s" nft list table inet fernvpn-nat-fern0 >/dev/null 2>&1 || die 'nat = auto did not begin'
ok

part 'a stop ends the socket, and its clients know'
kill -TERM $server; wait $server || die "status $?"
unset 'pids[server]'
! "$fernvpn" status "$name" 2>/dev/null || die 'it answers'
[ ! -e "/run/fernvpn/$name.sock" ] || die 'the socket is left'
ok
echo "reload: $parts passed, 0 failed"
