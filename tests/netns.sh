#!/bin/bash
# Do a server and two clients on three machines work, with real devices, packets and accidents? As root.
#
#   ┌─ $a: alice ────────┐        ┌─ $r: the internet ───────┐        ┌─ $s: the server ─────┐
#   │ eth0 192.0.2.2/24 ─┼────────┼─ a 192.0.2.1             │        │                      │
#   │      2001:db8:a::2 │        │    2001:db8:a::1         │        │ eth0 203.0.113.2/24  │
#   │ fern0 10.8.0.x     │        │            203.0.113.1 s ┼────────┼─     2001:db8:5::2   │
#   └────────────────────┘        │          2001:db8:5::1   │        │ fern0 10.8.0.1/24    │
#   ┌─ $b: bob ──────────┐        │                          │        │       fd0f:e12e::1   │
#   │ eth0 198.51.100.2 ─┼────────┼─ b 198.51.100.1          │        └──────────────────────┘
#   │      2001:db8:b::2 │        │    2001:db8:b::1         │
#   │ fern0 10.8.0.y     │        │                          │
#   └────────────────────┘        └──────────────────────────┘
#
#   NETNS_MIB=1024    the size of the file (default: 256)
. "$(dirname "$0")/common/network.sh"
needs ip nft ping curl iperf3 nstat python3 ss
mib=${NETNS_MIB:-256}

# ---- words of this script

server() { fern server $s server -k "$dir/server.key" --listen '[::]:12345' "$@"; }
alice() { fern alice $a client -k "$dir/alice.key" --connect 203.0.113.2:12345; alice4=$(address4 alice) alice6=$(address6 alice); }
bob() { fern bob $b client -k "$dir/bob.key" --connect '[2001:db8:5::2]:12345'; bob4=$(address4 bob) bob6=$(address6 bob); }
up() { server "$@"; alice; bob; }
down() { for name in alice bob server; do stop $name; [ $ended = 0 ] || die "$name ended with status $ended"; done; }

# loss_below_2 LOG: fails at 2 % or more.
loss_below_2() { awk -F '[ %]+' '/packet loss/ { for (i = 1; i <= NF; i++) if ($i == "packet") below = $(i - 1) < 2 } END { exit !below }' "$1"; }
# iperf NAMESPACE ADDRESS [OPTION...]: sends to or from the server for a second.
iperf() {
    local ns=$1 address=$2; shift 2
    start iperf $s iperf3 --server --one-off --forceflush
    logged iperf listening
    run "$ns" iperf3 --client "$address" --time 1 "$@"
    ends iperf
    [ $ended = 0 ] || die "iperf3 ended with status $ended"
}
# overflowed NAMESPACE: the number of datagrams from the tunnel that found the receiver's buffer full.
overflowed() { in_ns "$1" nstat -asz UdpRcvbufErrors Udp6RcvbufErrors | awk '/Rcvbuf/ { sum += $2 } END { print sum + 0 }'; }
# serve NAMESPACE: serves the file by HTTP, at all addresses, port 8000.
serve() {
    start shelf "$1" python3 -m http.server --bind :: --directory "$dir/shelf" 8000
    await listening "$1" 8000
}
# same_file NAMESPACE URL
same_file() {
    run "$1" curl --fail --silent --show-error --max-time 600 --output "$dir/fetched" \
        --write-out '%{size_download} bytes, %{speed_download} bytes/s' "$2"
    cmp "$dir/shelf/file" "$dir/fetched" || die 'the file has changed on its way'
    ok "$(<"$dir/run.log")"
}
# since: milliseconds since $before
since() { echo "$(($(now) - before)) ms"; }
none_left() { no_device "$1" || die 'a device is left'; nobody_in "$1" || die 'a process is left'; }

# ---- the topology

a=$id-a b=$id-b s=$id-s r=$id-r
namespaces $a $b $s $r
uplink $a $r a 192.0.2 2001:db8:a
uplink $b $r b 198.51.100 2001:db8:b
uplink $s $r s 203.0.113 2001:db8:5
forwards $r
for from in $a $b; do for to in 203.0.113.2 2001:db8:5::2; do await in_ns $from ping -c 1 -W 1 $to; done; done
keys alice bob
mkdir "$dir/shelf"
head -c "${mib}M" /dev/urandom >"$dir/shelf/file"

# ---- the tests, in both suites

for suite in aes-256-gcm fernet; do
    printf '\n######## suite %s\n' $suite
    up --suite $suite
    grep -q "suite $suite" "$dir/alice.log" || die 'another suite was agreed'

    expect 'clients reach the server: ping and TCP, IPv4 and IPv6'
    for from in $a $b; do for to in 10.8.0.1 fd0f:e12e::1; do
        run $from ping -c 5 -i 0.01 -W 2 $to; ok "$(grep rtt "$dir/run.log")"
    done; done
    iperf $a 10.8.0.1; ok "$(awk '/receiver/ { print $7, $8 }' "$dir/run.log") up, IPv4"
    iperf $b fd0f:e12e::1 --reverse; ok "$(awk '/receiver/ { print $7, $8 }' "$dir/run.log") down, IPv6"

    expect 'large pings come back whole: one packet, and fragments'
    for size in 1472 4000 20000; do run $a ping -c 2 -i 0.05 -W 2 -s $size 10.8.0.1; ok "$size bytes"; done
    for size in 1452 20000; do run $b ping -c 2 -i 0.05 -W 2 -s $size fd0f:e12e::1; ok "$size bytes, IPv6"; done
    run $a ping -c 2 -i 0.05 -W 2 -s 8972 -M do 10.8.0.1; ok 'at the MTU, whole'
    refused $a ping -c 1 -W 1 -s 8973 -M do 10.8.0.1; ok 'above the MTU, refused by the kernel'

    expect 'UDP both ways, with little loss in the tunnel'
    for way in '' --reverse; do
        [ -z "$way" ] && receiver=$s || receiver=$a
        # On a busy machine iperf3 may read too late. That is not the tunnel's loss.
        before=$(overflowed $receiver)
        iperf $a 10.8.0.1 --udp --bitrate 50M --length 1400 $way
        read -r lost sent <<<"$(sed -n 's/.* \([0-9]*\)\/\([0-9]*\) (.*receiver.*/\1 \2/p' "$dir/run.log")"
        late=$(($(overflowed $receiver) - before))
        [ $(((lost - late) * 50)) -lt "$sent" ] || die "lost $lost of $sent, of which $late after the tunnel"
        ok "lost $lost of $sent ${way:-up}${late:+, of which $late after the tunnel}"
    done

    expect "clients do not reach each other: isolation is the default"
    for to in $bob4 $bob6; do refused $a ping -c 2 -i 0.1 -W 1 "$to"; ok; done
    refused $b ping -c 2 -i 0.1 -W 1 "$alice4"; ok

    expect "a file of $mib MiB arrives unchanged, while bob pings with less than 2 % loss"
    serve $s
    start pings $b ping -i 0.02 -W 2 10.8.0.1
    same_file $a http://10.8.0.1:8000/file
    [ $suite = fernet ] || same_file $a 'http://[fd0f:e12e::1]:8000/file'
    stop pings INT
    tail -n 2 "$dir/pings.log"
    loss_below_2 "$dir/pings.log" || die 'too much loss'
    ok
    stop shelf

    down

    expect 'with --client-to-client they do: ping and TCP, IPv4 and IPv6'
    up --suite $suite --client-to-client
    for to in $bob4 $bob6; do run $a ping -c 5 -i 0.01 -W 2 "$to"; ok "$(grep rtt "$dir/run.log")"; done
    serve $b
    same_file $a "http://$bob4:8000/file"
    same_file $a "http://[$bob6]:8000/file"
    stop shelf

    expect 'a peer with a smaller MTU, outside and inside'
    run $b ip link set dev eth0 mtu 1300
    run $r ip link set dev b mtu 1300
    run $b ip link set dev fern0 mtu 1280
    run $a ping -c 2 -i 0.1 -W 2 -s 1472 "$bob4"
    serve $b
    same_file $a "http://$bob4:8000/file"
    stop shelf
    serve $a
    same_file $b "http://[$alice6]:8000/file"
    stop shelf
    run $b ip link set dev eth0 mtu 1500
    run $r ip link set dev b mtu 1500
    run $b ip link set dev fern0 mtu 9000

    down
done

# ---- sources

printf '\n######## sources\n'
up --client-to-client
expect "a source that is not alice's never leaves the server"
in_ns $s nft -f - <<NFT
table inet seen {
    counter honest { }
    counter spoofed { }
    chain from_tunnel {
        type filter hook prerouting priority -300
        iifname fern0 ip saddr $alice4 counter name honest
        iifname fern0 ip saddr != { $alice4, $bob4 } counter name spoofed
        iifname fern0 ip6 saddr != { $alice6, $bob6, fe80::/10 } counter name spoofed
    }
}
NFT
in_ns $b nft -f - <<NFT
table inet seen {
    counter spoofed { }
    chain from_tunnel {
        type filter hook prerouting priority -300
        iifname fern0 ip saddr != { $alice4, 10.8.0.1 } counter name spoofed
        iifname fern0 ip6 saddr != { $alice6, fd0f:e12e::1, fe80::/10 } counter name spoofed
    }
}
NFT
in_ns $a nft -f - <<NFT
table inet seen {
    counter spoofed { }
    chain to_tunnel {
        type filter hook postrouting priority 300
        oifname fern0 ip saddr != $alice4 counter name spoofed
        oifname fern0 ip6 saddr != { $alice6, fe80::/10 } counter name spoofed
    }
}
NFT
run $a ping -c 3 -i 0.05 -W 1 10.8.0.1
[ "$(counted $s seen honest)" -ge 3 ] || die 'the counter does not count'
ok 'the counter sees an honest ping'
for spoofed in 10.8.0.77/32 "$bob4/32" 10.8.0.1/32 192.0.2.2/24 8.8.8.8/32 fd0f:e12e::77/128 "$bob6/128" 2001:db8:bad::1/128; do
    case $spoofed in
        *:*) nodad=nodad targets="fd0f:e12e::1 $bob6" ;;
        *) nodad='' targets="10.8.0.1 $bob4" ;;
    esac
    [ $spoofed = 192.0.2.2/24 ] || run $a ip address add $spoofed dev fern0 $nodad
    for to in $targets; do
        [ "$to" = "${spoofed%/*}" ] || refused $a ping -c 2 -i 0.02 -W 0.2 -I ${spoofed%/*} "$to"
    done
    [ $spoofed = 192.0.2.2/24 ] || run $a ip address del $spoofed dev fern0
done
sent=$(counted $a seen spoofed)
[ "$sent" -ge 20 ] || die "only $sent packets went into alice's device"
run $a ping -c 3 -i 0.05 -W 1 10.8.0.1 # behind them, in order
[ "$(counted $s seen spoofed)" = 0 ] || die "the server let $(counted $s seen spoofed) packets out"
[ "$(counted $b seen spoofed)" = 0 ] || die 'bob got one'
ok "$sent went into alice's device; none came out at the server, none at bob"
for ns in $a $b $s; do run $ns nft delete table inet seen; done

expect 'a server is no router of its clients'\'' link: they take no route from it that they were not pushed'
cat >"$dir/router.py" <<'PYTHON'
# This sends a Router Advertisement (RFC 4861, section 4.2) into the device: a default route, for half an hour.
import socket, struct, sys
source, target = (socket.inet_pton(socket.AF_INET6, text) for text in ("fe80::1", sys.argv[1]))
message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
total = sum(struct.unpack("!28H", source + target + struct.pack("!II", len(message), 58) + message))
total = (total & 0xFFFF) + (total >> 16)
message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
packet = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source + target + message
socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM).sendto(packet, ("fern0", 0x86DD))
PYTHON
run $a sysctl -w net.ipv6.conf.fern0.accept_ra=1
run $s python3 "$dir/router.py" $alice6
run $a ping -c 3 -i 0.05 -W 1 fd0f:e12e::1 # behind it, in order
[ -z "$(ip -n $a -6 route show proto ra)" ] || die "$(ip -n $a -6 route show proto ra)"
ok

# ---- accidents: connections from alice to the server and to bob, in IPv4 and IPv6, are open and stay open

printf '\n######## accidents\n'
start echo-server $s python3 "$tests/common/talk.py" listen 9000
start echo-bob $b python3 "$tests/common/talk.py" listen 9000
for ns in $s $b; do await listening $ns 9000; done
talk talk-server $a 10.8.0.1 9000
talk talk-bob $a "$bob6" 9000
both_go_on() { goes_on talk-server; goes_on talk-bob; ok 'the connections went on'; }

expect 'kill -9 of the server and a restart: the tunnel is back within 5 s, and open connections survive'
stop server KILL
await no_device $s; ok 'its device went with it'
logged alice 'connection lost'
grep 'connection lost' "$dir/alice.log" | tail -1
before=$(now)
server --client-to-client
within 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
within 5 in_ns $b ping -c 1 -W 0.2 fd0f:e12e::1
ok "the tunnel was back after $(since)"
both_go_on
[ "$(times alice "^connected: $alice4/")" = 2 ] || die 'alice has another address now'
ok 'the same addresses as before'

expect "alice's outer address changes: the tunnel is back within 5 s, and open connections survive"
before=$(now)
run $a ip address del 192.0.2.2/24 dev eth0
run $a ip address add 192.0.2.99/24 dev eth0
run $a ip route add default via 192.0.2.1
within 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
ok "the tunnel was back after $(since)"
both_go_on
logged server 'client=alice from=\S*192.0.2.99'; ok 'the server knows the new address'

expect "bob's network is away for 3 s without a word: the same"
run $r ip link set dev b down
await fails in_ns $a ping -c 1 -W 0.2 "$bob6"
sleep 3 # the accident itself
run $r ip link set dev b up
run $r ip address replace 2001:db8:b::1/64 dev b nodad # a link that goes down loses its IPv6 addresses
within 10 in_ns $a ping -c 1 -W 0.2 "$bob6"
both_go_on

expect 'a carrier that is cut is reported as a truncation, and made again'
connections=$(times alice '^connected') truncations=$(times alice 'connection lost.*truncated')
run $r nft 'add table ip cut; add chain ip cut c { type filter hook forward priority 0; }; add rule ip cut c ip saddr 192.0.2.99 tcp dport 12345 tcp flags != syn reject with tcp reset'
await more alice 'connection lost.*truncated' "$truncations"
run $r nft delete table ip cut
grep 'connection lost' "$dir/alice.log" | tail -1
within 10 more alice '^connected' "$connections"
within 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
both_go_on

expect 'kill -9 of a client: no device is left, the server notices, and it comes back with the same address'
for name in talk-server talk-bob echo-server echo-bob; do stop $name; done
old=$alice4
stop alice KILL
await no_device $a; ok 'no device'
logged server 'client lost.*client=alice' 5; grep 'client lost' "$dir/server.log" | tail -1; ok
alice
[ "$alice4" = "$old" ] || die "it was $old and is $alice4"
ok "still $alice4"

expect 'an orderly stop: Close arrives, and nothing is left'
stop alice TERM
[ $ended = 0 ] || die "status $ended"
logged server 'client disconnected.*client=alice.*closed'; grep 'client disconnected' "$dir/server.log" | tail -1; ok 'told the server'
[ -z "$(in_ns $a ip -o address show | grep -e 10.8.0 -e fd0f)" ] || die 'an address is left'
[ -z "$(in_ns $a ip route show | grep 10.8.0)" ] || die 'a route is left'
none_left $a
ok 'no device, address, route or process'
alice
stop server INT
[ $ended = 0 ] || die "status $ended"
for name in alice bob; do logged $name 'connection lost.*the server stops'; done; ok 'told the clients'
none_left $s
ok 'nothing is left'
for name in alice bob; do
    stop $name
    [ $ended = 0 ] || die "$name, which connects again, ended with status $ended"
done
none_left $a; none_left $b
ok 'clients that are connecting again stop as well'

expect 'a device that is taken away: the program makes it again and says so, and the tunnel goes on'
up
for name in alice server; do
    case $name in alice) ns=$a ;; server) ns=$s ;; esac
    run $ns ip link delete fern0
    logged $name 'the device was removed; creating it again.*name=fern0'
    await in_ns $a ping -c 1 -W 1 10.8.0.1 >/dev/null
    await in_ns $b ping -c 1 -W 1 10.8.0.1 >/dev/null
    ok $name
done
down
