#!/bin/bash
# Several servers behind a TCP load balancer, with the configurations that docs/OPERATIONS.md shows: clients spread, and come
# back on another server when theirs is killed.
#
#   clients 198.51.100.2 ── 198.51.100.1 balancer 10.0.0.10 ─┬─ 10.0.0.1 vpn1 (tunnel 10.8.1.0/24)
#                                                            └─ 10.0.0.2 vpn2 (tunnel 10.8.2.0/24)
#
#   FERNVPN=target/release/fernvpn    the program; as root
set -euo pipefail
cd "$(dirname "$0")/.."
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
skip() { echo "SKIPPED: balancer: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'no network namespaces'
command -v haproxy >/dev/null || skip 'there is no haproxy'
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

c=bal$$-c b=bal$$-b s1=bal$$-1 s2=bal$$-2 dir=$(mktemp -d)
pids=''
clean_up() {
    status=$?
    set +e
    [ $status = 0 ] || tail -n 20 "$dir"/*.log
    for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    for ns in "$c" "$b" "$s1" "$s2"; do ip netns del "$ns" 2>/dev/null; done
    rm -rf "$dir" /run/fernvpn/balancer$$-*.sock
    exit $status
}
trap clean_up EXIT
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
parts=0
part() { parts=$((parts + 1)); echo "== $*"; }
die() { echo "!! $*"; exit 1; }
until_ok() { local end=$((SECONDS + 20)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.05; done; }

for ns in "$c" "$b" "$s1" "$s2"; do ip netns add "$ns"; ip -n "$ns" link set lo up; done
ip link add eth netns "$c" type veth peer name out netns "$b"
ip -n "$b" link add in type bridge
for n in 1 2; do
    ip link add eth netns "bal$$-$n" type veth peer name "port$n" netns "$b"
    ip -n "$b" link set "port$n" master in up
    ip -n "bal$$-$n" address add "10.0.0.$n/24" dev eth
    ip -n "bal$$-$n" link set eth up
done
ip -n "$c" address add 198.51.100.2/24 dev eth; ip -n "$c" link set eth up
ip -n "$b" address add 198.51.100.1/24 dev out; ip -n "$b" link set out up
ip -n "$b" address add 10.0.0.10/24 dev in; ip -n "$b" link set in up

# block LANGUAGE NUMBER: the document's own text
block() { awk -v want="\`\`\`$1" -v number="$2" '$0 == "```" { on = 0 } on { print } $0 == want { on = (++count == number) }' docs/OPERATIONS.md; }
block haproxy 1 >"$dir/haproxy.cfg"
grep -q send-proxy-v2 "$dir/haproxy.cfg" || die 'docs/OPERATIONS.md shows no haproxy.cfg'
umask 077
for n in 1 2; do
    sed -n "/^# vpn$n.conf/,/^\$/p" docs/OPERATIONS.md >"$dir/vpn$n.conf"
    grep -q "^address = 10.8.$n.1/24" "$dir/vpn$n.conf" || die "docs/OPERATIONS.md shows no vpn$n.conf"
done
# A client's section is the same on each server.
for name in a b c d; do
    "$fernvpn" add-client $name -c "$dir/vpn1.conf" --server 198.51.100.1:443 >"$dir/$name.conf" 2>/dev/null
    printf '\n[peer]\nname = %s\n%s\n' $name "$(grep '^key' "$dir/$name.conf")" >>"$dir/vpn2.conf"
done

# server N: starts it
server() {
    ip netns exec "bal$$-$1" "$fernvpn" server -c "$dir/vpn$1.conf" --name "balancer$$-$1" >>"$dir/vpn$1.log" 2>&1 &
    eval "server$1=$!"; pids="$pids $!"
}
server 1; server 2
until_ok grep -q listening "$dir/vpn1.log"; until_ok grep -q listening "$dir/vpn2.log"
ip netns exec "$b" haproxy -db -f "$dir/haproxy.cfg" >"$dir/haproxy.log" 2>&1 & pids="$pids $!"
until_ok in_ns "$c" "$fernvpn" check -c "$dir/a.conf" --connect

part 'four clients are spread over two servers'
for name in a b c d; do
    # Only one has a device: they are on one machine.
    [ $name = a ] && device='--tun fern0' || device=--no-tun
    ip netns exec "$c" "$fernvpn" client -c "$dir/$name.conf" $device --name "balancer$$-$name" >"$dir/$name.log" 2>&1 & pids="$pids $!"
    until_ok grep -q ^connected: "$dir/$name.log"
done
connected() { grep -c 'client connected' "$dir/vpn$1.log" || true; }
[ "$(connected 1) $(connected 2)" = '2 2' ] || die "spread: $(connected 1) $(connected 2)"

part 'the log names the clients, not the balancer'
for n in 1 2; do
    grep -q 'client connected client=. from=198.51.100.2:' "$dir/vpn$n.log" || die "vpn$n"
    ! grep -q 'from=10.0.0.10:' "$dir/vpn$n.log" || die "vpn$n: $(grep from=10.0.0.10: "$dir/vpn$n.log")"
done

part 'each has an address of its server, and reaches it'
now() { grep ^connected: "$dir/a.log" | tail -n 1; }
of_a() { now | grep -o '10\.8\.[12]' | tail -n 1; }
[ "$(of_a)" = 10.8.1 ] && mine=1 other=2 || mine=2 other=1
until_ok in_ns "$c" ping -c 1 -W 1 10.8.$mine.1

part 'a killed server: its clients are back on the other one, with an address there'
kill_server() { eval "kill -KILL \$server$1; wait \$server$1 2>/dev/null || true"; }
kill_server $mine
until_ok eval "[ \$(connected $other) = 4 ]"
until_ok eval '[ "$(of_a)" = 10.8.$other ]'
until_ok in_ns "$c" ping -c 1 -W 1 10.8.$other.1
in_ns "$c" ip -brief address show dev fern0 | grep -q "10\.8\.$other\." || die 'no new address'
! in_ns "$c" ip -brief address show dev fern0 | grep -q "10\.8\.$mine\." || die 'the old address is still there'

part 'it returns, and takes clients again'
before=$(connected $mine)
server $mine
until_ok eval "[ \$(grep -c listening $dir/vpn$mine.log) = 2 ]"
kill_server $other
until_ok eval "[ \$(connected $mine) = $((before + 4)) ]"
until_ok in_ns "$c" ping -c 1 -W 1 10.8.$mine.1

part 'who goes past the balancer with its address, and without its header, gets no answer'
in_ns "$b" "$fernvpn" check -c <(sed s/198.51.100.1/10.0.0.$mine/ "$dir/b.conf") --connect 2>"$dir/direct.log" && die 'answered'
grep -q 'no answer for 5 s' "$dir/direct.log" || die "$(cat "$dir/direct.log")"
echo "balancer: $parts passed, 0 failed"
