#!/bin/bash
# Site to site, as docs/OPERATIONS.md has it: a network behind a client, reached from the server and from another client; and
# a client that changes its key without a gap.
#
#   server 192.0.2.1 ─┬─ 192.0.2.2 office 192.168.7.1 ── 192.168.7.9 printer
#                     └─ 192.0.2.3 laptop
#
#   FERNVPN=target/release/fernvpn    the program; as root
set -euo pipefail
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
skip() { echo "SKIPPED: sites: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'no network namespaces'
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

s=site$$-s o=site$$-o l=site$$-l p=site$$-p dir=$(mktemp -d) pids=''
clean_up() {
    status=$?
    set +e
    [ $status = 0 ] || tail -n 20 "$dir"/*.log
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    for ns in "$s" "$o" "$l" "$p"; do ip netns del "$ns" 2>/dev/null; done
    rm -rf "$dir" /run/fernvpn/sites$$-*.sock
    exit $status
}
trap clean_up EXIT
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
parts=0
part() { parts=$((parts + 1)); echo "== $*"; }
die() { echo "!! $*"; exit 1; }
until_ok() { local end=$((SECONDS + 20)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.05; done; }
pings() { in_ns "$1" ping -c 1 -W 2 "$2" >/dev/null; }

for ns in "$s" "$o" "$l" "$p"; do ip netns add "$ns"; ip -n "$ns" link set lo up; done
ip -n "$s" link add wan type bridge
for end in "$o 2" "$l 3"; do
    read -r ns host <<<"$end"
    ip link add eth netns "$ns" type veth peer name "port$host" netns "$s"
    ip -n "$s" link set "port$host" master wan up
    ip -n "$ns" address add "192.0.2.$host/24" dev eth; ip -n "$ns" link set eth up
done
ip -n "$s" address add 192.0.2.1/24 dev wan; ip -n "$s" link set wan up
ip link add lan netns "$o" type veth peer name eth netns "$p"
ip -n "$o" address add 192.168.7.1/24 dev lan; ip -n "$o" link set lan up
ip -n "$p" address add 192.168.7.9/24 dev eth; ip -n "$p" link set eth up
ip -n "$p" route add default via 192.168.7.1
in_ns "$o" sysctl -qw net.ipv4.ip_forward=1

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

# start NAME NAMESPACE MODE [OPTIONS]: runs it until it is ready
start() {
    local name=$1 ns=$2 mode=$3
    ip netns exec "$ns" "$fernvpn" "$mode" -c "$dir/$name.conf" --name "sites$$-$name" >"$dir/$name.log" 2>&1 &
    eval "${name}_pid=$!"; pids="$pids $!"
    until_ok grep -qE '^(listening on|connected:) ' "$dir/$name.log"
}
start vpn "$s" server
start office "$o" client
start laptop "$l" client

part 'the server reaches what is behind the client, and is reached from there'
until_ok pings "$s" 192.168.7.9
until_ok pings "$p" 10.8.0.1

part 'another client reaches it by the pushed route'
until_ok pings "$l" 192.168.7.9

part 'nobody else may send from there'
in_ns "$l" ip address add 192.168.7.66/32 dev lo
! in_ns "$l" ping -c 1 -W 1 -I 192.168.7.66 10.8.0.1 >/dev/null || die 'a foreign source came through'
in_ns "$s" "$fernvpn" status "sites$$-vpn" --format json | grep -q '"source":[1-9]' || die 'not counted as such'

part 'a second key for the change: with the old one and the new one'
"$fernvpn" genkey >"$dir/new" 2>/dev/null
sed -i "/^name = laptop/a key = $(cat "$dir/new")" "$dir/vpn.conf"
in_ns "$s" "$fernvpn" reload "sites$$-vpn" >/dev/null
pings "$l" 192.168.7.9 || die 'the reload disturbed a client'
kill -TERM "$laptop_pid"; wait "$laptop_pid"
old=$(sed -n 's/^key = //p' "$dir/laptop.conf")
sed -i "s/^key = .*/key = $(cat "$dir/new")/" "$dir/laptop.conf"
start laptop "$l" client
until_ok pings "$l" 192.168.7.9

part 'the old one is taken out: the new one stays connected, the old one is answered no more'
sed -i "/^key = $old$/d" "$dir/vpn.conf"
in_ns "$s" "$fernvpn" reload "sites$$-vpn" >/dev/null
pings "$l" 192.168.7.9 || die 'the reload disturbed a client'
[ "$(grep -c ^connected: "$dir/laptop.log")" = 1 ] || die 'it connected again'
sed "s/^key = .*/key = $old/" "$dir/laptop.conf" >"$dir/old.conf"
! in_ns "$l" "$fernvpn" check -c "$dir/old.conf" --connect 2>"$dir/old.log" || die 'the old key is still good'
grep -q 'does not know' "$dir/old.log" || die "$(cat "$dir/old.log")"
echo "sites: $parts passed, 0 failed"
