#!/bin/bash
# Do several servers work behind a TCP load balancer? With the configurations of docs/OPERATIONS.md, clients spread over the
# servers, and each comes back to its own. When a server is killed, its clients come back on another one.
#
#   clients 198.51.100.2 ── 198.51.100.1 balancer 10.0.0.10 ─┬─ 10.0.0.1 vpn1 (tunnel 10.8.1.0/24)
#                                                            └─ 10.0.0.2 vpn2 (tunnel 10.8.2.0/24)
. "$(dirname "$0")/common/network.sh"
cd "$tests/.."
needs haproxy ip ping python3

c=$id-c b=$id-b s1=$id-1 s2=$id-2
namespaces $c $b $s1 $s2
ip -n $b link add in type bridge
address $b in 10.0.0.10/24
for n in 1 2; do
    link $id-$n eth $b port$n
    address $id-$n eth 10.0.0.$n/24
    ip -n $b link set port$n master in up
done
link $c eth $b out
address $c eth 198.51.100.2/24
address $b out 198.51.100.1/24

# block LANGUAGE NUMBER: the document's own text
block() { awk -v want="\`\`\`$1" -v number="$2" '$0 == "```" { on = 0 } on { print } $0 == want { on = (++count == number) }' docs/OPERATIONS.md; }
block haproxy 1 >"$dir/haproxy.cfg"
grep -q send-proxy-v2 "$dir/haproxy.cfg" || die 'docs/OPERATIONS.md shows no haproxy.cfg'
umask 077
for n in 1 2; do
    sed -n "/^# vpn$n.conf/,/^\$/p" docs/OPERATIONS.md >"$dir/vpn$n.conf"
    grep -q "^address = 10.8.$n.1/24" "$dir/vpn$n.conf" || die "docs/OPERATIONS.md shows no vpn$n.conf"
done
# Each server has the same section for a client.
for name in a b c d; do
    "$fernvpn" add-client $name -c "$dir/vpn1.conf" --server 198.51.100.1:443 >"$dir/$name.conf" 2>/dev/null
    printf '\n[peer]\nname = %s\n%s\n' $name "$(grep '^key' "$dir/$name.conf")" >>"$dir/vpn2.conf"
done

server() { fern vpn$1 $id-$1 server -c "$dir/vpn$1.conf" --verbose; } # NUMBER
server 1; server 2
start haproxy $b haproxy -db -f "$dir/haproxy.cfg"
await in_ns $c "$fernvpn" check -c "$dir/a.conf" --connect

expect 'four clients are spread over two servers'
client() { # NAME: only one has a device, since all are on one machine.
    local device=--no-tun
    [ $1 != a ] || device='--tun fern0'
    fern $1 $c client -c "$dir/$1.conf" $device
}
for name in a b c d; do client $name; done
connected() { times vpn$1 'client connected'; }
all_connected() { [ $(($(connected 1) + $(connected 2))) -ge 4 ]; }
await all_connected
[ "$(connected 1) $(connected 2)" = '2 2' ] || die "spread: $(connected 1) $(connected 2)"
ok

expect 'the log names the clients, not the balancer'
for n in 1 2; do
    grep -q 'client connected client=. from=198.51.100.2:' "$dir/vpn$n.log" || die "vpn$n"
    ! grep 'client .*from=10.0.0.10:' "$dir/vpn$n.log" || die "vpn$n"
done
ok

# status_of NAME EXPRESSION: of its status, which is `it`.
status_of() { "$fernvpn" status "$id-$1" --format json | python3 -c "import json, sys; it = json.load(sys.stdin); print($2)"; }
expect 'health checks are no refused handshakes'
refusals() { status_of vpn$1 'sum(it["handshakes_refused"].values())'; } # NUMBER
for n in 1 2; do
    before=$(refusals $n)
    await more vpn$n 'health check from=10.0.0.10:' $(($(times vpn$n 'health check') + 1))
    [ "$(refusals $n)" = "$before" ] || die "vpn$n counts them: $(status_of vpn$n 'it["handshakes_refused"]')"
done
ok

expect 'each has an address of its server, and reaches it'
at() { grep ^connected: "$dir/$1.log" | tail -n 1 | grep -o '10\.8\.[12]' | tail -n 1 | cut -d . -f 3; } # NAME: its server's number
mine=$(at a) other=$((3 - $(at a)))
await in_ns $c ping -c 1 -W 1 10.8.$mine.1
ok

expect 'a client comes back to its server, although the other one has less to do'
theirs=() # the clients of the other server
for name in b c d; do [ "$(at $name)" = $mine ] && neighbour=$name || theirs+=($name); done
for name in "${theirs[@]}"; do stop $name; done
for _ in 1 2 3; do
    stop $neighbour
    client $neighbour
    [ "$(at $neighbour)" = $mine ] || die "$neighbour is at $(at $neighbour)"
done
for name in "${theirs[@]}"; do
    client $name
    [ "$(at $name)" = $other ] || die "$name is at $(at $name)"
done
ok

expect 'a killed server: its clients are back on the other one, with an address there'
stop vpn$mine KILL
is_on() { [ "$(at a)" = $1 ]; }
await is_on $other
all_moved() { [ "$(status_of vpn$other 'len(it["peers"])')" = 4 ]; }
await all_moved
await in_ns $c ping -c 1 -W 1 10.8.$other.1
in_ns $c ip -brief address show dev fern0 | grep -q "10\.8\.$other\." || die 'no new address'
! in_ns $c ip -brief address show dev fern0 | grep -q "10\.8\.$mine\." || die 'the old address is still there'
ok

expect 'it returns, and takes clients again'
server $mine
stop vpn$other KILL
await more vpn$mine 'client connected' 3
await in_ns $c ping -c 1 -W 1 10.8.$mine.1
ok

expect 'who goes past the balancer with its address, and without its header, gets no answer'
sed s/198.51.100.1/10.0.0.$mine/ "$dir/b.conf" >"$dir/direct.conf"
refused $b "$fernvpn" check -c "$dir/direct.conf" --connect
grep -q 'no answer for 5 s' "$dir/run.log" || die 'it does not say why'
ok
