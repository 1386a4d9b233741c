#!/bin/bash
# Does a client reach a web server behind the VPN server, under the VPN server's address? Nothing of that outlives the server.
#
#   client 192.0.2.2 ── 192.0.2.1 server 198.51.100.1 ── 198.51.100.2 web
#          2001:db8:a::2     ::1         2001:db8:b::1     ::2          (which has no route back to the tunnel's addresses)
. "$(dirname "$0")/common/network.sh"
needs curl ip iperf3 nft ping python3 ss

c=$id-c s=$id-s w=$id-w
namespaces $c $s $w
link $c eth $s in
link $s out $w eth
address $c eth 192.0.2.2/24 2001:db8:a::2/64
address $s in 192.0.2.1/24 2001:db8:a::1/64
address $s out 198.51.100.1/24 2001:db8:b::1/64
address $w eth 198.51.100.2/24 2001:db8:b::2/64
keys client
start web $w python3 "$tests/common/web.py" 80
await listening $w 80
for to in 198.51.100.2 2001:db8:b::2; do await in_ns $s ping -c 1 -W 1 $to; done

push=198.51.100.0/24,2001:db8:b::/64 at=192.0.2.1:12345
# server NAT: pushes $push, listens at $at.
server() { fern server $s server -k "$dir/server.key" --listen $at --push-routes $push --nat "$1"; }
client() { fern client $c client -k "$dir/client.key" --connect 192.0.2.1:12345; }
# down NAME...: stops them, in this order.
down() { local name; for name; do stop $name; [ "$ended" = 0 ] || die "$name ended with status $ended"; done; }
fetch() { in_ns $c curl -sgm "${2:-20}" "http://$1/"; }
reached() { # IPv4 and IPv6, both from the server's own address
    [ "$(fetch 198.51.100.2)" = 198.51.100.1 ] || die "IPv4: $(fetch 198.51.100.2)"
    [ "$(fetch '[2001:db8:b::2]')" = 2001:db8:b::1 ] || die "IPv6: $(fetch '[2001:db8:b::2]')"
}
tables() { in_ns $s nft list tables; }
none() { [ -z "$(tables)" ]; }
put_back() { none || die "left: $(tables)"; diff "$dir/before" <(settings $s) || die 'settings are left'; }
changed() { ! diff "$dir/before" <(settings $s) >/dev/null || die 'nothing was changed'; }
nft_of_server() { pgrep -P "${pids[server]}" -x nft; }
settings $s >"$dir/before"

for nat in auto out; do
    expect "nat = $nat: the web server is reached by IPv4 and IPv6"
    server $nat; client; reached
    in_ns $s nft list table inet fernvpn-nat-fern0 | grep 'maxseg size set rt mtu' >/dev/null || die 'no MSS clamping'
    ok
    expect 'a slow or stopped nft holds up nobody'
    child=$(nft_of_server); kill -STOP "$child"; reached; kill -CONT "$child"
    ok
    expect 'an orderly stop leaves the machine as it was'
    down client server; put_back; ok
    expect 'after kill -9 no table is left, and the next start and stop put the sysctls back'
    server $nat; changed
    stop server KILL; await none
    server $nat; down server; put_back; ok
done

expect 'packets of 9000 bytes within the tunnel, none above 1500 beyond it, even if nobody hears that they are too long'
for ns in $c $s $w; do
    in_ns $ns nft 'table inet deaf { chain in { type filter hook input priority filter;
        icmp type destination-unreachable drop; icmpv6 type { destination-unreachable, packet-too-big } drop; }; }'
done
server auto; client
in_ns $c ping -M do -s 8972 -c 1 -W 5 10.8.0.1 >/dev/null
for to in 198.51.100.2 2001:db8:b::2; do
    in_ns $c ping -s 4000 -c 1 -W 5 $to >/dev/null # in fragments, made where it starts
    for way in '' --reverse; do
        # Between two tests a server of iperf3 listens to nobody for a moment, so each has its own.
        start iperf3 $w iperf3 --server --one-off --forceflush
        logged iperf3 listening
        in_ns $c timeout 20 iperf3 -c $to -n 4M $way >/dev/null
        ends iperf3
    done
done
for ns in $c $s $w; do in_ns $ns nft delete table inet deaf; done
down client server; ok

expect 'nat = in: nothing leaves by another device'
server in; client
in_ns $w nft 'table inet left { counter n { }; chain i { type filter hook prerouting priority -300; ip saddr 10.8.0.0/24 counter name n; }; }'
! fetch 198.51.100.2 3 || die 'it left'
[ "$(counted $w left n)" = 0 ] || die 'it left, and with its own address'
in_ns $w nft delete table inet left
down client server; ok

expect 'a firewall that drops what is forwarded is named, and a way through it'
in_ns $s nft 'table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }'
server auto; client
! fetch 198.51.100.2 2 || die 'there is no firewall'
grep -q 'a firewall drops forwarded packets.* table="ip filter" chain=FORWARD' "$dir/server.log" || die 'it is not named'
while read -ra words; do run $s "${words[@]}"; done < <(grep '^    nft insert rule' "$dir/server.log")
reached
run $s nft delete table ip filter
down client server; ok

expect 'so is one that ends with a rule which refuses, also in a chain to which it jumps'
for ends in 'reject with icmpx admin-prohibited' 'counter log prefix "forward " drop' 'jump rest'; do
    in_ns $s nft -f - <<NFT
table inet wall {
    chain rest { meta mark 7 accept; reject; }
    chain pass { type filter hook forward priority filter + 10; policy accept; ct state established,related accept; $ends; }
}
NFT
    server auto; client
    ! fetch 198.51.100.2 2 || die 'there is no firewall'
    grep -q 'a firewall drops forwarded packets.* table="inet wall" chain=pass' "$dir/server.log" || die "it is not named: $ends"
    while read -ra words; do run $s "${words[@]}"; done < <(grep '^    nft insert rule' "$dir/server.log")
    reached
    run $s nft delete table inet wall
    down client server
done
in_ns $s nft 'table inet wall { chain pass { type filter hook forward priority filter; iifname "elsewhere" drop; ct state invalid drop; }; }'
server auto; client; reached
! grep -q 'a firewall drops' "$dir/server.log" || die 'one that lets clients through is named'
run $s nft delete table inet wall
down client server; ok

expect 'another program switches forwarding off: it is on again, and the log says so'
server auto; client
for device in in fern0; do
    said=$(times server 'switched forwarding off')
    run $s sysctl -qw net.ipv4.conf.$device.forwarding=0
    within 5 more server 'switched forwarding off' "$said"
    await reached
done
run $s sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
run $s sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
await reached
down client server; put_back; ok

expect 'nft is killed: the rules come again, and so do connections'
mkdir "$dir/bin"
printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v nft)" >"$dir/bin/nft"
chmod +x "$dir/bin/nft"
PATH=$dir/bin:$PATH server auto; client; reached
child=$(nft_of_server); kill -KILL "$child"
another() { nft_of_server | grep -vx "$child"; }
await another
await in_ns $s nft list table inet fernvpn-nat-fern0
reached; ok
expect 'nft is killed and does not start again: the server ends, rather than forward without rules'
printf '#!/bin/sh\nexit 1\n' >"$dir/bin/nft"
kill -KILL "$(nft_of_server)"
ends server
[ "$ended" != 0 ] || die 'it ended as if all were well'
down client
grep -q 'rules of NAT are gone' "$dir/server.log" || die 'it did not say why'
await none; put_back; ok

expect 'after kill -9 a start with nat = no puts the sysctls back as well'
server auto; stop server KILL; await none; changed
server no; put_back; down server; ok

expect 'nat = no: nothing is touched'
server no; put_back; down server; ok

expect 'hosts in a private network that is pushed may open connections to clients, others may not'
address $s out 192.168.50.1/24
address $w eth 192.168.50.2/24
ip -n $w route add 10.8.0.0/24 via 192.168.50.1
asks() { in_ns $w ping -c 2 -i 0.2 -W 1 -I "$1" "$(address4 client)" >/dev/null; }
for push in 192.168.50.0/24,198.51.100.0/24 0.0.0.0/0; do
    server auto; client
    [ "$(fetch 192.168.50.2)" = 192.168.50.1 ] || die 'the client does not get out'
    ! asks 198.51.100.2 || die 'a public host got in'
    if [ $push = 0.0.0.0/0 ]; then
        ! asks 192.168.50.2 || die 'all the world was pushed, and a host got in'
    else
        await asks 192.168.50.2
    fi
    down client server
done
ok

# Port shadow: the attacker is a client. It connects from the server's own port to the place from which a victim will come.
# A NAT that keeps ports then takes the victim's connection to the server for the answer.
in_ns $w nft 'table inet seen { counter deaf { }; chain in { type filter hook input priority 0; tcp dport 40001 tcp flags & (syn | ack) == syn counter name deaf drop; }; }'
deaf() { [ "$(counted $w seen deaf)" -gt 0 ]; }
cat >"$dir/connect.py" <<'PYTHON'
import socket, sys, time
own, port, to, there = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
end = socket.socket()
end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
end.bind((own, port))
end.connect((to, there))
print("has it", flush=True)
time.sleep(1000)
PYTHON
# shadow: the attacker waits, then the victim comes and is connected.
shadow() {
    in_ns $w nft reset counters >/dev/null
    start attacker $c python3 "$dir/connect.py" "$(address4 client)" 12345 198.51.100.2 40001
    await deaf
    start victim $w python3 "$dir/connect.py" 198.51.100.2 40001 198.51.100.1 12345
    logged victim 'has it'
}
server_has_it() { [ -n "$(in_ns $s ss -Htn state established 'sport = :12345' dst 198.51.100.2:40001)" ]; }
push=198.51.100.0/24 at=0.0.0.0:12345
expect 'port shadow, CVE-2021-3773: under a plain NAT the attacker gets the connection that is for the server'
server no
in_ns $s nft 'table ip plain { chain out { type nat hook postrouting priority srcnat; ip saddr 10.8.0.0/24 oifname "out" masquerade; }; }'
in_ns $s sysctl -qw net.ipv4.ip_forward=1
client
shadow
logged attacker 'has it'
! server_has_it || die 'both have it'
for name in attacker victim; do stop $name KILL; done
down client server; ok
in_ns $s nft delete table ip plain
in_ns $s sysctl -qw net.ipv4.ip_forward=0
expect "under fernvpn's NAT the server gets it"
server auto; client
shadow
await server_has_it
! grep -q 'has it' "$dir/attacker.log" || die 'the attacker has the connection'
in_ns $s nft list table inet fernvpn-nat-fern0 | grep 'masquerade to :32768-60999' >/dev/null || die 'which ports?'
for name in attacker victim; do stop $name KILL; done
down client server; ok
