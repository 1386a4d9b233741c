#!/bin/bash
# Other programs change a machine's network, too. A firewall is loaded anew, a network service removes what it does not know, or
# a person sets the device down. Is the tunnel's network repaired at once, and do packets go past the tunnel meanwhile?
#
#   $c: client, eth0 192.0.2.2 ──── $r: router, web server 203.0.113.9 ──── $s: server, eth0 198.51.100.2
#   inner0 172.30.0.1 (bridge) ─ $k: container 172.30.0.2
. "$(dirname "$0")/common/network.sh"
needs ip nft ping curl python3

c=$id-c r=$id-r s=$id-s k=$id-k
namespaces $c $r $s $k
uplink $c $r c 192.0.2 2001:db8:c
uplink $s $r s 198.51.100 2001:db8:5
address $r lo 203.0.113.9/32 2001:db8:9::9/128
ip -n $r route add 10.8.0.0/24 via 198.51.100.2 # the server makes no NAT here: this is the way back
ip -n $r route add fd0f:e12e::/64 via 2001:db8:5::2
forwards $r; forwards $s
in_ns $r nft -f - <<'NFT'
table inet seen {
    counter leaked { }
    chain from_client {
        type filter hook prerouting priority -300
        iifname != "c" return
        ip daddr 198.51.100.2 tcp dport 12345 return
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } return
        tcp sport 8080 return
        counter name leaked
    }
}
NFT
start web $r python3 "$tests/common/web.py" 8000
await listening $r 8000

umask 077
key=$("$fernvpn" genkey)
echo "$key" >"$dir/alice.key"
write_server() { printf '[server]\nlisten = 198.51.100.2:12345\nname = %s\nnat = no\npush-routes = 0.0.0.0/0, ::/0\n[peer]\nname = alice\nkey = %s\nroutes = 192.168.77.0/24\n%s\n' $id-server "$key" "${1:-}" >"$dir/server.conf"; }
write_server
client() { fern client $c client -k "$dir/alice.key" --connect 198.51.100.2:12345 "$@"; }
asked() { [[ $(in_ns $c curl -s --max-time 2 "http://$1:8000/") == $2 ]]; }    # ADDRESS PATTERN: as whom
through() { asked 203.0.113.9 '10.8.0.*' && asked '[2001:db8:9::9]' 'fd0f:e12e::*'; }
leaked() { counted $r seen leaked; }
# what NAMESPACE: prints the state that the tunnel needs there.
what() {
    in_ns "$1" sh -c 'ip -4 rule; ip -6 rule; ip -4 route show table 12345; ip -6 route show table 12345; ip route show dev fern0
        ip -o link show dev fern0; ip -o address show dev fern0; nft list tables | sort | xargs -rn 3 nft --terse list' 2>&1 |
        sed 's/ *valid_lft.*//; s/^[0-9]*: fern0/fern0/' | grep -v 'fe80:\|^fe80'
}
as_it_was() { diff "$dir/$1" <(what "$2") >"$dir/difference.log"; }    # FILE NAMESPACE
# harm NAMESPACE FILE COMMAND: runs COMMAND. The state is as before within 2 s, and the log says so.
harm() {
    local ns=$1 file=$2 name before; shift 2
    [ $ns = $c ] && name=client || name=server
    before=$(times $name 'restored\|creating it again')
    run $ns sh -c "$*"
    within 2 as_it_was "$file" "$ns"
    within 2 more $name 'restored\|creating it again' "$before"
}
rules='ip -4 rule del priority 12345; ip -6 rule del priority 12345'
harms=(
    "$rules"
    'ip -4 route flush table 12345; ip -6 route flush table 12345'
    'ip route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 table 12345'
    'ip route add 203.0.113.9/32 via 192.0.2.1 dev eth0 table 12345; ip -6 route add 2001:db8:9::9/128 via 2001:db8:c::1 dev eth0 table 12345'
    'ip -6 route append ::/0 via 2001:db8:c::1 dev eth0 table 12345'
    'ip address flush dev fern0'
    'ip link set dev fern0 down'
    'ip link set dev fern0 down; ip link set dev fern0 up'
    'ip link set dev fern0 mtu 1300'
    'ip link delete dev fern0'
    'nft delete table inet fernvpn-fern0'
    'nft flush chain inet fernvpn-fern0 leaving'
    'nft insert rule inet fernvpn-fern0 arriving accept'
    'nft flush ruleset'
)

expect 'what another program removes from a client is there again within 2 s, and the log says so'
fern server $s server -c "$dir/server.conf"
client
await through
what $c >"$dir/client-has"
for one in "${harms[@]}"; do harm $c client-has "$one"; through || die "past the tunnel"; ok "$one"; done

expect "a client's address changes: nothing goes past the tunnel"
start pings $c ping -i 0.01 203.0.113.9
start pings6 $c ping -i 0.01 2001:db8:9::9
logged pings 'icmp_seq=20'; logged pings6 'icmp_seq=20'
in_ns $r nft reset counters >/dev/null
for address in 10.8.0.7 10.8.0.9,fd0f:e12e::9 10.8.0.8 10.8.0.7,fd0f:e12e::7; do
    lines=$(times client '^connected')
    write_server "address = $address"
    run $s "$fernvpn" reload $id-server
    await more client '^connected' "$lines"
    through || die 'past the tunnel'
    [ "$(in_ns $c ip -4 -o address show dev fern0 | wc -l)" = 1 ] || die 'an old address is left'
done
[ "$(leaked)" = 0 ] || die "$(leaked) packets went past the tunnel"
ok

expect 'with the kill switch, nothing goes past the tunnel, whatever is removed and at any moment'
stop client; client --kill-switch
what $c >"$dir/client-has"
in_ns $r nft reset counters >/dev/null
for one in "${harms[@]}" 'nft delete table inet fernvpn-fern0-lock' 'nft flush chain inet fernvpn-fern0-lock locked'; do
    sleep "0.$((RANDOM % 300 + 100))" # a moment that nothing else decides
    harm $c client-has "$one"
    [ "$(leaked)" = 0 ] || die "$one: $(leaked) packets went past the tunnel"
done
[ "$(leaked)" = 0 ] || die "$(leaked) packets went past the tunnel"
ok "${#harms[@]} kinds"
run $c ip rule del priority 12345
stop client KILL
for name in pings pings6; do stop $name INT; done
in_ns $r nft reset counters >/dev/null
! in_ns $c ping -c 2 -i 0.1 -W 0.3 203.0.113.9 >/dev/null || die 'asked past it'
[ "$(leaked)" = 0 ] || die 'past it'
ok 'and it is still there after kill -9'
run $c "$fernvpn" unlock

expect 'a killed client with another device and the same address does not disturb a new one'
client --tun other0
through || die 'not through the tunnel'
stop client KILL
client
through || die 'not through the tunnel'
[ -z "$(in_ns $c nft list tables | grep other0)" ] || die 'its table is left'
[ "$(in_ns $c ip rule show priority 12345 | wc -l)" = 1 ] || die 'its rule is left'
ok
expect 'a client that lives keeps its network'
what $c >"$dir/client-has"
run $c "$fernvpn" clean-up --tun other0
as_it_was client-has $c || die 'it has less'
through || die 'not through the tunnel'
ok
expect 'if a default route without a device leads into the tunnel, the log says how to write it'
run $c ip route del default
run $c ip route add default via 192.0.2.1
within 5 logged client 'default route leads into the tunnel'
run $c ip route replace default via 192.0.2.1 dev eth0
stop client
ok

expect 'a repair that fails is logged once, and tried again'
mkdir "$dir/bin"
printf '#!/bin/sh\n[ ! -e %s/refuse ] || { echo refused >&2; exit 1; }\nexec %s "$@"\n' "$dir" "$(command -v nft)" >"$dir/bin/nft"
chmod +x "$dir/bin/nft"
client_path=$PATH; PATH=$dir/bin:$PATH
client
PATH=$client_path
what $c >"$dir/client-has"
touch "$dir/refuse"
run $c nft delete table inet fernvpn-fern0
logged client 'cannot be restored.*refused' 2
run $c ip address flush dev fern0 # which is, all the same
within 2 in_ns $c sh -c 'ip -o address show dev fern0 | grep -q 10.8.0'
[ "$(times client 'cannot be restored')" = 1 ] || die 'said again'
rm "$dir/refuse"
within 4 as_it_was client-has $c
logged client 'is right again' 2
ok
stop client

expect 'what another program removes from a server is there again'
client
what $s >"$dir/server-has"
for one in 'ip address flush dev fern0' 'ip link set dev fern0 down' 'ip link set dev fern0 mtu 1300' 'ip route del 192.168.77.0/24' \
    'ip link delete dev fern0'; do
    harm $s server-has "$one"; await through; ok "$one"
done
stop client

expect 'a UDP service answers questions from outside, whatever its port and its address are'
cat >"$dir/echo.py" <<'PYTHON'
import socket, sys, threading
def answer(address, port):
    own = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    own.bind((address, port))
    while True: own.sendto(*own.recvfrom(99))
for at in sys.argv[1:]:
    address, port = at.rsplit("/", 1)
    threading.Thread(target=answer, args=(address, int(port))).start()
PYTHON
start echo $c python3 "$dir/echo.py" 0.0.0.0/1194 0.0.0.0/51820 192.0.2.2/51821 ::/51822 2001:db8:c::2/51823
udp() { [ -n "$(in_ns $r python3 -c 'import socket, sys
own = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
own.settimeout(1); own.connect((sys.argv[1], int(sys.argv[2]))); own.send(b"x"); print(own.recv(9))' "$@" 2>/dev/null)" ]; }
services=('192.0.2.2 1194' '192.0.2.2 51820' '192.0.2.2 51821' '192.0.2.2 51822' '2001:db8:c::2 51822' '2001:db8:c::2 51823')
for one in "${services[@]}"; do await udp $one; done
for switch in '' --kill-switch; do
    client $switch
    for one in "${services[@]}"; do udp $one || die "no answer from $one"; udp $one || die "$one: only once"; done
    stop client
    ok "${switch:-without}"
done
stop echo

expect 'containers behind a bridge without an uplink stay local and reach the world by the tunnel, also with the kill switch'
ip -n $c link add inner0 type bridge
link $k eth0 $c veth-k
ip -n $c link set dev veth-k master inner0 up
address $c inner0 172.30.0.1/24 fd00:30::1/64
address $k eth0 172.30.0.2/24 fd00:30::2/64
ip -n $k route add default via 172.30.0.1
ip -n $k route add default via fd00:30::1
forwards $c
in_ns $c nft 'table inet engine { chain pre { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8080 dnat ip to 172.30.0.2:8000; };
    chain post { type nat hook postrouting priority srcnat; ip saddr 172.30.0.0/24 oifname != "inner0" masquerade; ip6 saddr fd00:30::/64 oifname != "inner0" masquerade; }; }'
start inner-web $k python3 "$tests/common/web.py" 8000
await listening $k 8000
got() { [[ $(in_ns "$1" curl -s --max-time 2 "http://$2/") == $3 ]]; }   # NAMESPACE WHERE AS WHOM
both_ways() {
    got $c 172.30.0.2:8000 172.30.0.1 && got $c '[fd00:30::2]:8000' fd00:30::1 || die 'the host does not reach its container'
    got $k 203.0.113.9:8000 '10.8.0.*' && got $k '[2001:db8:9::9]:8000' 'fd0f:e12e::*' || die 'the container does not reach the world'
    got $r 192.0.2.2:8080 192.0.2.1 || die 'a published port does not answer'
}
for switch in '' --kill-switch; do
    client $switch
    in_ns $r nft reset counters >/dev/null
    both_ways
    [ "$(leaked)" = 0 ] || die "$(leaked) packets went past the tunnel"
    ok "${switch:-without}"
    stop client
done
expect 'a later bridge counts as local, but not one with an uplink'
client --kill-switch
ip -n $c link add inner1 type bridge
address $c inner1 172.31.0.1/24
within 2 in_ns $c sh -c 'ip route show table 12345 | grep -q "^172.31.0.0/24 dev inner1"'
within 2 in_ns $c sh -c 'nft list chain inet fernvpn-fern0-lock locked | grep -q inner1'
ip -n $c link add outer0 type bridge
address $c outer0 203.0.113.1/24
ip -n $c route add 198.18.0.0/15 via 203.0.113.2 dev outer0 # a router: this is an uplink
run $c ip link delete dev inner1
within 2 fails in_ns $c sh -c 'nft list chain inet fernvpn-fern0-lock locked | grep -q inner1'
within 2 in_ns $c sh -c '! ip route show table 12345 | grep outer0' || die 'a network that anybody could call local'
ip -n $c link delete dev outer0
stop client
ok

expect 'a program on this machine that carries the tunnel causes no loop, and the log names it'
cat >"$dir/carry.py" <<'PYTHON'
import socket, threading
near = socket.create_server(("127.0.0.1", 4444))
def copy(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
    except OSError: pass
    for end in (a, b): end.close()
while True:
    one, _ = near.accept()
    try: two = socket.create_connection(("198.51.100.2", 12345), 2)
    except OSError: one.close(); continue
    two.settimeout(None)
    for pair in ((one, two), (two, one)): threading.Thread(target=copy, args=pair, daemon=True).start()
PYTHON
ip -n $c rule >"$dir/rules"
start carry $c python3 "$dir/carry.py"
await listening $c 4444
fern client $c client -k "$dir/alice.key" --connect 127.0.0.1:4444
logged client 'carries the tunnel.*198.51.100.2:12345'
within 5 through
lines=$(times client '^connected')
stop server; fern server $s server -c "$dir/server.conf"
await more client '^connected' "$lines"
within 5 through
stop client
diff "$dir/rules" <(ip -n $c rule) || die 'something is left'
ok 'also after the server was started again'
