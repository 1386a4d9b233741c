#!/bin/bash
# Does a reload disturb only the clients that it concerns? A server loads one configuration after the other. All others of its
# fifty clients lose no packet and no connection. Each pings the server fifty times a second, from a private network.
#
#   clients 192.0.2.2 ── 192.0.2.1 server, its device in the same namespace
. "$(dirname "$0")/common/network.sh"
needs ip nft ping python3

c=$id-clients s=$id-server name=$id-vpn conf=$dir/server.conf
namespaces $c $s
uplink $c $s eth0 192.0.2

umask 077
printf '[server]\nlisten = 192.0.2.1:12345\nkeepalive = 60\n' >"$conf"
for ((n = 1; n <= 50; n++)); do
    "$fernvpn" genkey >"$dir/c$n.key"
    printf '[peer]\nname = c%s\nkey = %s\naddress = 10.8.0.%s\n' $n "$(<"$dir/c$n.key")" $((n + 1)) >>"$conf"
done
fern vpn $s server -c "$conf"

# pinging CLIENT: starts pings that go on until they are stopped.
pinging() { start $1 $c "$fernvpn" client --name $id-$1 -k "$dir/$1.key" --connect 192.0.2.1:12345 -- ping -n -i 0.02 10.8.0.1 >/dev/null; }
twice() { more "$1" "$2" 1; }
# connections: prints the name, address and start of every connection.
connections() {
    "$fernvpn" status "$name" --format json | python3 -c '
import json, sys
for peer in json.load(sys.stdin)["peers"]:
    if peer["connected"]:
        print(peer["name"], peer["from"], peer["connected_since"], peer["ratchet_step"])'
}
connected() { [ "$(connections | wc -l)" = "$1" ]; }
of_others() { grep -vE '^(c7|c9|new) ' || true; }

expect 'fifty clients are connected, and ping'
for ((n = 1; n <= 50; n++)); do pinging c$n; done
await connected 50
for ((n = 1; n <= 50; n++)); do logged c$n 'icmp_seq=10 '; done
before=$(connections)
ok

expect 'one is added, one removed, one changed: the other 48 keep their connections'
"$fernvpn" add-client new -c "$conf" --server 192.0.2.1:12345 2>/dev/null | sed -n 's/^key = //p' >"$dir/new.key"
"$fernvpn" remove-client c7 -c "$conf" >/dev/null 2>&1
sed -i 's/^address = 10\.8\.0\.10$/address = 10.8.0.200/' "$conf" # that of c9
said=$("$fernvpn" reload "$name")
grep -q '50 clients; disconnected because their key is gone: 1; told to connect again: 1$' <<<"$said" || die "$said"
pinging new
logged new 'icmp_seq=10 '
logged c7 'the tunnel has ended.*removed'
logged vpn 'client removed client=c7$'
logged vpn 'client disconnected client=c7 .*reason=removed$'
logged c9 'connected: 10.8.0.200/24'
await connected 50
diff <(of_others <<<"$before") <(connections | of_others) || die 'somebody else was disturbed'
ok

expect 'a second key, then without the first: nobody notices who uses the second'
"$fernvpn" genkey >"$dir/other.key"
python3 - "$conf" "$dir/c1.key" "$dir/other.key" <<'PYTHON'
import sys
conf, old, new = sys.argv[1], open(sys.argv[2]).read().strip(), open(sys.argv[3]).read().strip()
text = open(conf).read()
open(conf, "w").write(text.replace(f"key = {old}\n", f"key = {new}\nkey = {old}\n"))
PYTHON
now=$(connections)
kill -HUP "${pids[vpn]}"
logged vpn 'reloaded: 50 clients; .*: 0; .*: 0'
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
ok

expect 'a mistake changes nothing, and is told'
cp "$conf" "$dir/good"
echo 'keepalive = never' >>"$conf"
! said=$("$fernvpn" reload "$name" 2>&1) || die 'it was taken'
grep -q "server.conf:[0-9]*: .*keepalive" <<<"$said" || die "$said"
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
kill -HUP "${pids[vpn]}"
await twice vpn 'not reloaded'
cp "$dir/good" "$conf"
ok

expect 'what needs a restart is said, and the rest is taken up'
sed -i 's/^listen = .*/listen = 192.0.2.1:54321\nclient-to-client = yes/' "$conf"
said=$("$fernvpn" reload "$name")
grep -q '(needs a restart: listen)$' <<<"$said" || die "$said"
[ "$(connections)" = "$now" ] || die 'somebody was disturbed'
ok

expect 'through all of it, 48 of them have lost no packet'
clients=0
for who in "${!pids[@]}"; do
    case $who in vpn | c7 | c9 | new) continue ;; esac
    logged "$who" 'icmp_seq=51 '
    stop $who INT >/dev/null
    [ "$ended" = 0 ] || die "$who ended with $ended"
    # The last one may have been on its way when ping was stopped.
    awk '/packets transmitted/ { lost = $1 - $4; sent = $1 } END { exit !(sent > 50 && lost <= 1) }' "$dir/$who.log" ||
        die "$who: $(grep transmitted "$dir/$who.log")"
    awk -F 'icmp_seq=' '/icmp_seq/ { if ($2 + 0 != last + 1) exit 1; last = $2 + 0 }' "$dir/$who.log" || die "$who: a gap"
    clients=$((clients + 1))
done
[ $clients = 48 ] || die "$clients clients"
ok

expect 'what everybody should know reaches everybody'
sed -i 's/^listen = .*/listen = 192.0.2.1:12345\npush-routes = 192.168.77.0\/24/' "$conf"
said=$("$fernvpn" reload "$name")
grep -q 'told to connect again: 2$' <<<"$said" || die "$said"
await twice new '^connected: '
await connected 2
in_ns $s nft list table inet fernvpn-nat-fern0 >/dev/null 2>&1 || die 'nat = auto did not begin'
ok

expect 'a stop ends the socket, and its clients know'
stop vpn
[ $ended = 0 ] || die "status $ended"
! "$fernvpn" status "$name" 2>/dev/null || die 'it answers'
[ ! -e "/run/fernvpn/$name.sock" ] || die 'the socket is left'
ok
