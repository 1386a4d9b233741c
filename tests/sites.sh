#!/bin/bash
# Does site to site work as docs/OPERATIONS.md says? The server and another client reach a network behind a client. A client
# also changes its key without a gap.
#
#   server 192.0.2.1 ─┬─ 192.0.2.2 office 192.168.7.1 ── 192.168.7.9 printer
#                     └─ 192.0.2.3 laptop
. "$(dirname "$0")/common/network.sh"
needs ip ping sysctl

s=$id-server o=$id-office l=$id-laptop p=$id-printer
namespaces $s $o $l $p
ip -n $s link add wan type bridge
address $s wan 192.0.2.1/24
for end in "$o 2" "$l 3"; do
    read -r ns host <<<"$end"
    link $ns eth $s port$host
    address $ns eth 192.0.2.$host/24
    ip -n $s link set port$host master wan up
done
link $o lan $p eth
address $o lan 192.168.7.1/24
address $p eth 192.168.7.9/24
ip -n $p route add default via 192.168.7.1
forwards $o
pings() { in_ns "$1" ping -c 1 -W 2 "$2" >/dev/null; }

umask 077
cat >"$dir/vpn.conf" <<'END'
[server]
listen = 192.0.2.1:443
push-routes = 192.168.7.0/24
client-to-client = yes
nat = no
END
"$fernvpn" add-client laptop -c "$dir/vpn.conf" >"$dir/laptop.conf" 2>/dev/null
"$fernvpn" add-client office -c "$dir/vpn.conf" >"$dir/office.conf" 2>/dev/null
echo 'routes = 192.168.7.0/24' >>"$dir/vpn.conf"
sed -i 's/^\[client\]/&\nroutes = none/' "$dir/office.conf"     # it is there already

fern vpn $s server -c "$dir/vpn.conf"
fern office $o client -c "$dir/office.conf"
laptop() { fern laptop $l client -c "$dir/laptop.conf"; }
laptop

expect 'the server reaches what is behind the client, and is reached from there'
await pings $s 192.168.7.9
await pings $p 10.8.0.1
ok

expect 'another client reaches it by the pushed route'
await pings $l 192.168.7.9
ok

expect 'nobody else may send from there'
address $l lo 192.168.7.66/32
misaddressed() { in_ns $s "$fernvpn" status $id-vpn --format json | grep -o '"source":[0-9]*' | awk -F : '{ sum += $2 } END { print sum + 0 }'; }
before=$(misaddressed)
refused $l ping -c 20 -i 0.02 -W 1 -I 192.168.7.66 10.8.0.1
[ "$(misaddressed)" -ge $((before + 20)) ] || die 'not counted as such'
ok

expect 'a second key for the change: with the old one and the new one'
"$fernvpn" genkey >"$dir/new" 2>/dev/null
sed -i "/^name = laptop/a key = $(cat "$dir/new")" "$dir/vpn.conf"
run $s "$fernvpn" reload $id-vpn
pings $l 192.168.7.9 || die 'the reload disturbed a client'
stop laptop
old=$(sed -n 's/^key = //p' "$dir/laptop.conf")
sed -i "s/^key = .*/key = $(cat "$dir/new")/" "$dir/laptop.conf"
laptop
await pings $l 192.168.7.9
ok

expect 'the old one is taken out: the new one stays connected, the old one is answered no more'
sed -i "/^key = $old$/d" "$dir/vpn.conf"
run $s "$fernvpn" reload $id-vpn
pings $l 192.168.7.9 || die 'the reload disturbed a client'
[ "$(times laptop ^connected:)" = 1 ] || die 'it connected again'
sed "s/^key = .*/key = $old/" "$dir/laptop.conf" >"$dir/old.conf"
refused $l "$fernvpn" check -c "$dir/old.conf" --connect
grep -q 'does not know' "$dir/run.log" || die 'it does not say why'
ok
