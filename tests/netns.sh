#!/bin/bash
# A server and two clients on three machines, with real devices, packets and accidents. As root.
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
# Each test begins with a line "== what is expected". Each command that changes something is shown. Nothing waits for a
# fixed time: conditions are awaited, with a deadline. Names are unique, so several runs do not meet.
#
#   FERNVPN=target/release/fernvpn    the program            NETNS_MIB=1024    the size of the file, 256 otherwise
#   KEEP_LOGS=1                       show all logs at the end
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
mib=${NETNS_MIB:-256}
passed=0

skip() {
    printf '\n%s\n%s\n%s\n\n' '================================================================' \
        "SKIPPED: the tests in network namespaces: $*" '================================================================'
    echo 'netns: 0 passed, 0 failed, 1 skipped'
    exit 0
}
[ "$(id -u)" = 0 ] || skip 'they need root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'this root may not make network namespaces'
for tool in ip nft ping curl iperf3 nstat python3 ss; do
    command -v $tool >/dev/null || { echo "netns.sh needs $tool (Debian: iproute2 nftables iputils-ping curl iperf3 python3)" >&2; exit 1; }
done
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

id=fern$$
a=$id-a b=$id-b s=$id-s r=$id-r
dir=$(mktemp -d)
declare -A pids=()

clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null # what the shell says of those it kills
    if [ $status != 0 ] || [ -n "${KEEP_LOGS:-}" ]; then
        for log in "$dir"/*.log; do [ -s "$log" ] && printf -- '--- %s\n' "${log##*/}" && tail -n 40 "$log"; done
    fi
    for ns in $a $b $s $r; do
        ip netns pids $ns 2>/dev/null | xargs -r kill -KILL 2>/dev/null
        ip netns del $ns 2>/dev/null
    done
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$dir"
    if [ $status = 0 ]; then echo "netns: $passed passed, 0 failed"; else echo "netns: $passed passed, 1 failed (status $status)"; fi
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- words of this script

show() { printf '%s\n' "$*"; }
expect() { show ''; show "== $*"; }
ok() { passed=$((passed + 1)); show "   ok${1:+: $*}"; }
die() { show "!! $*"; exit 1; }
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
# run NAMESPACE COMMAND...: shows it, runs it there.
run() { local ns=$1; shift; show "[${ns##*-}] $*"; in_ns "$ns" "$@"; }
# quiet NAMESPACE COMMAND...: the same, with its output only if it fails.
quiet() { local ns=$1; shift; show "[${ns##*-}] $*"; in_ns "$ns" "$@" >"$dir/quiet" 2>&1 || { local status=$?; cat "$dir/quiet"; die "failed with status $status"; }; }
# refused NAMESPACE COMMAND...: it must fail.
refused() { local ns=$1; shift; show "[${ns##*-}] $*    (must fail)"; ! in_ns "$ns" "$@" >"$dir/quiet" 2>&1 || { cat "$dir/quiet"; die 'it did not fail'; }; }
now() { date +%s%N; }
# until_ok SECONDS COMMAND...: waits until it succeeds.
until_ok() {
    local deadline=$(($(now) + $1 * 1000000000)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt $deadline ] || die "not within the time: $*"
        sleep 0.05
    done
}
# start NAME NAMESPACE COMMAND...: in the background, output to NAME.log.
start() {
    local name=$1 ns=$2; shift 2
    show "[${ns##*-}] $* &"
    : >"$dir/$name.log" # before it starts, so that nobody takes an older log for its own
    ip netns exec "$ns" "$@" >"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}
# stop NAME [SIGNAL]: ends it and waits; its status is in $ended.
stop() {
    show "kill -${2:-TERM} $1"
    kill "-${2:-TERM}" "${pids[$1]}"
    ended=0
    wait "${pids[$1]}" 2>/dev/null || ended=$?
    unset "pids[$1]"
}
logged() { until_ok "$3" grep -q -- "$2" "$dir/$1.log"; }

server() { start server $s "$fernvpn" server -k "$dir/server.key" --listen '[::]:12345' "$@"; logged server '^listening on' 10; }
# client NAME NAMESPACE [OPTION...]: connects to the server's address for IPv4 unless told otherwise.
client() {
    local name=$1 ns=$2; shift 2
    start "$name" "$ns" "$fernvpn" client -k "$dir/$name.key" "$@"
    logged "$name" '^connected: ' 10
    eval "${name}4=$(sed -n 's/^connected: \([0-9.]*\).*/\1/p' "$dir/$name.log" | tail -1)"
    eval "${name}6=$(sed -n 's/^connected: .*, \([0-9a-f:]*\)\/64.*/\1/p' "$dir/$name.log" | tail -1)"
}
up() { server "$@"; client alice $a --connect 203.0.113.2:12345; client bob $b --connect '[2001:db8:5::2]:12345'; }
down() { for name in alice bob server; do stop $name; [ $ended = 0 ] || die "$name ended with status $ended"; done; }

# lossy COUNT TARGET: pings from bob; fails at 2 % loss or more.
loss_below_2() { awk -F '[ %]+' '/packet loss/ { for (i = 1; i <= NF; i++) if ($i == "packet") exit !($(i - 1) < 2) }' "$1"; }
# counted NAMESPACE NAME: what an nft counter there has seen.
counted() { in_ns "$1" nft list counter inet seen "$2" | awk '/packets/ { print $2 }'; }
# overflowed NAMESPACE: datagrams that came out of the tunnel there and found the receiver's buffer full.
overflowed() { in_ns "$1" nstat -asz UdpRcvbufErrors Udp6RcvbufErrors | awk '/Rcvbuf/ { sum += $2 } END { print sum + 0 }'; }
no_device() { ! in_ns "$1" ip link show dev fern0 >/dev/null 2>&1; }
only_own_processes() { [ -z "$(ip netns pids "$1")" ]; }
# serve NAME NAMESPACE FOLDER: an HTTP server on all addresses, port 8000.
serve() {
    start "$1" "$2" python3 -m http.server --bind :: --directory "$3" 8000
    until_ok 10 in_ns "$2" curl -s -o "$dir/null" 'http://[::1]:8000/'
}
# same_file NAMESPACE URL
same_file() {
    run "$1" curl --fail --silent --show-error --max-time 600 --output "$dir/fetched" \
        --write-out '   %{size_download} bytes, %{speed_download} bytes/s\n' "$2"
    cmp "$dir/shelf/file" "$dir/fetched" || die 'the file has changed on its way'
    rm "$dir/fetched"
}

# One TCP connection that says a number every 50 ms and wants it back; "alive N" in its log. It never connects again.
cat >"$dir/talk.py" <<'PYTHON'
import socket, sys, threading, time
role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if role == "listen":
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    def echo(peer):
        while data := peer.recv(65536):
            peer.sendall(data)
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=echo, args=(peer,), daemon=True).start()
talker = socket.create_connection((host, port), timeout=30)
lines = talker.makefile("r")
for number in range(1 << 30):
    talker.sendall(b"%d\n" % number)
    assert lines.readline() == f"{number}\n", "the connection broke"
    print("alive", number, time.time(), flush=True)
    time.sleep(0.05)
PYTHON
# goes_on NAME SECONDS: its connection says something new within the time.
goes_on() {
    local before; before=$(wc -l <"$dir/$1.log")
    until_ok "$2" bash -c "[ \$(wc -l <'$dir/$1.log') -gt $before ]"
    kill -0 "${pids[$1]}" || die "$1 has ended"
}

# ---- the topology

show "namespaces: alice $a, bob $b, server $s, router $r"
for ns in $a $b $s $r; do
    ip netns add $ns
    quiet $ns ip link set dev lo up
done
link() { # NAMESPACE ROUTER'S-END NETWORK4 NETWORK6
    ip link add name eth0 netns "$1" type veth peer name "$2" netns $r
    quiet $r ip address add "$3.1/24" dev "$2"
    quiet $r ip address add "$4::1/64" dev "$2" nodad
    quiet $r ip link set dev "$2" up
    quiet "$1" ip address add "$3.2/24" dev eth0
    quiet "$1" ip address add "$4::2/64" dev eth0 nodad
    quiet "$1" ip link set dev eth0 up
    quiet "$1" ip route add default via "$3.1"
    quiet "$1" ip route add default via "$4::1"
}
link $a a 192.0.2 2001:db8:a
link $b b 198.51.100 2001:db8:b
link $s s 203.0.113 2001:db8:5
quiet $r sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
until_ok 10 in_ns $a ping -c 1 -W 1 203.0.113.2
until_ok 10 in_ns $b ping -c 1 -W 1 2001:db8:5::2

umask 077
for name in alice bob; do
    "$fernvpn" genkey >"$dir/$name.key"
    echo "$(<"$dir/$name.key")  # $name" >>"$dir/server.key"
done
umask 022
mkdir "$dir/shelf"
head -c "${mib}M" /dev/urandom >"$dir/shelf/file"

# ---- the tests, in both suites

for suite in aes-256-gcm fernet; do
    show ''; show "######## suite $suite"
    up --suite $suite
    grep -q "suite $suite" "$dir/alice.log" || die 'another suite was agreed'

    expect 'clients reach the server: ping and TCP, IPv4 and IPv6'
    for from in $a $b; do for to in 10.8.0.1 fd0f:e12e::1; do
        quiet $from ping -c 5 -i 0.01 -W 2 $to; ok "$(grep rtt "$dir/quiet")"
    done; done
    start iperf $s iperf3 --server --one-off --forceflush
    logged iperf listening 5
    quiet $a iperf3 --client 10.8.0.1 --time 1; ok "$(awk '/receiver/ { print $7, $8 }' "$dir/quiet") up, IPv4"
    wait "${pids[iperf]}"
    start iperf $s iperf3 --server --one-off --forceflush
    logged iperf listening 5
    quiet $b iperf3 --client fd0f:e12e::1 --time 1 --reverse; ok "$(awk '/receiver/ { print $7, $8 }' "$dir/quiet") down, IPv6"
    wait "${pids[iperf]}"

    expect 'large pings come back whole: one packet, and fragments'
    for size in 1472 4000 20000; do quiet $a ping -c 2 -i 0.05 -W 2 -s $size 10.8.0.1; ok "$size bytes"; done
    for size in 1452 20000; do quiet $b ping -c 2 -i 0.05 -W 2 -s $size fd0f:e12e::1; ok "$size bytes, IPv6"; done
    quiet $a ping -c 2 -i 0.05 -W 2 -s 1472 -M do 10.8.0.1; ok 'at the MTU, whole'
    refused $a ping -c 1 -W 1 -s 1473 -M do 10.8.0.1; ok 'above the MTU, refused by the kernel'

    expect 'UDP both ways, with little loss in the tunnel'
    for way in '' --reverse; do
        [ -z "$way" ] && receiver=$s || receiver=$a
        # What iperf3 itself was too late to read, on a busy machine, is not the tunnel's loss.
        before=$(overflowed $receiver)
        start iperf $s iperf3 --server --one-off --forceflush
        logged iperf listening 5
        quiet $a iperf3 --client 10.8.0.1 --udp --bitrate 50M --length 1400 --time 1 $way
        wait "${pids[iperf]}"
        read -r lost sent <<<"$(sed -n 's/.* \([0-9]*\)\/\([0-9]*\) (.*receiver.*/\1 \2/p' "$dir/quiet")"
        late=$(($(overflowed $receiver) - before))
        [ $(((lost - late) * 50)) -lt "$sent" ] || { cat "$dir/quiet"; die "lost $lost of $sent, of which $late after the tunnel"; }
        ok "lost $lost of $sent ${way:-up}${late:+, of which $late after the tunnel}"
    done

    expect "clients do not reach each other: isolation is the default"
    for to in $bob4 $bob6; do refused $a ping -c 2 -i 0.1 -W 1 "$to"; ok; done
    refused $b ping -c 2 -i 0.1 -W 1 "$alice4"; ok

    expect "a file of $mib MiB arrives unchanged, while bob pings with less than 2 % loss"
    serve shelf $s "$dir/shelf"
    start pings $b ping -i 0.02 -W 2 10.8.0.1
    same_file $a http://10.8.0.1:8000/file; ok
    [ $suite = fernet ] || { same_file $a 'http://[fd0f:e12e::1]:8000/file'; ok 'IPv6'; }
    stop pings INT
    tail -n 2 "$dir/pings.log"
    loss_below_2 "$dir/pings.log" || die 'too much loss'
    ok
    stop shelf

    down

    expect 'with --client-to-client they do: ping and TCP, IPv4 and IPv6'
    up --suite $suite --client-to-client
    for to in $bob4 $bob6; do quiet $a ping -c 5 -i 0.01 -W 2 "$to"; ok "$(grep rtt "$dir/quiet")"; done
    serve shelf $b "$dir/shelf"
    same_file $a "http://$bob4:8000/file"; ok
    same_file $a "http://[$bob6]:8000/file"; ok
    stop shelf

    expect 'a peer with a smaller MTU, outside and inside'
    quiet $b ip link set dev eth0 mtu 1300
    quiet $r ip link set dev b mtu 1300
    quiet $b ip link set dev fern0 mtu 1280
    quiet $a ping -c 2 -i 0.1 -W 2 -s 1472 "$bob4"
    serve shelf $b "$dir/shelf"
    same_file $a "http://$bob4:8000/file"; ok 'from bob'
    stop shelf
    serve shelf $a "$dir/shelf"
    same_file $b "http://[$alice6]:8000/file"; ok 'to bob'
    stop shelf
    quiet $b ip link set dev eth0 mtu 1500
    quiet $r ip link set dev b mtu 1500
    quiet $b ip link set dev fern0 mtu 1500

    down
done

# ---- sources

show ''; show '######## sources'
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
quiet $a ping -c 3 -i 0.05 -W 1 10.8.0.1
[ "$(counted $s honest)" -ge 3 ] || die 'the counter does not count'
ok 'the counter sees an honest ping'
for spoofed in 10.8.0.77/32 "$bob4/32" 10.8.0.1/32 192.0.2.2/24 8.8.8.8/32 fd0f:e12e::77/128 "$bob6/128" 2001:db8:bad::1/128; do
    case $spoofed in
        *:*) nodad=nodad targets="fd0f:e12e::1 $bob6" ;;
        *) nodad='' targets="10.8.0.1 $bob4" ;;
    esac
    [ $spoofed = 192.0.2.2/24 ] || quiet $a ip address add $spoofed dev fern0 $nodad
    for to in $targets; do
        [ "$to" = "${spoofed%/*}" ] || refused $a ping -c 2 -i 0.02 -W 0.2 -I ${spoofed%/*} "$to"
    done
    [ $spoofed = 192.0.2.2/24 ] || quiet $a ip address del $spoofed dev fern0
done
sent=$(counted $a spoofed)
[ "$sent" -ge 20 ] || die "only $sent packets went into alice's device"
quiet $a ping -c 3 -i 0.05 -W 1 10.8.0.1 # behind them, in order
[ "$(counted $s spoofed)" = 0 ] || die "the server let $(counted $s spoofed) packets out"
[ "$(counted $b spoofed)" = 0 ] || die 'bob got one'
ok "$sent went into alice's device; none came out at the server, none at bob"
for ns in $a $b $s; do quiet $ns nft delete table inet seen; done

# ---- accidents: two connections are open, alice to server and alice to bob, in IPv4 and IPv6, and stay open

show ''; show '######## accidents'
start echo-server $s python3 "$dir/talk.py" listen 0.0.0.0 9000
start echo-bob $b python3 "$dir/talk.py" listen :: 9000
until_ok 5 in_ns $s ss -Hltn 'sport = 9000'
until_ok 5 bash -c "ip netns exec $s ss -Hltn | grep -q :9000 && ip netns exec $b ss -Hltn | grep -q :9000"
start talk-server $a python3 "$dir/talk.py" talk 10.8.0.1 9000
start talk-bob $a python3 "$dir/talk.py" talk "$bob6" 9000
goes_on talk-server 5
goes_on talk-bob 5

expect 'kill -9 of the server and a restart: the tunnel is back within 5 s, and open connections survive'
stop server KILL
until_ok 5 no_device $s; ok 'its device went with it'
logged alice 'connection lost' 5
grep 'connection lost' "$dir/alice.log" | tail -1
before=$(now)
server --client-to-client
until_ok 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
until_ok 5 in_ns $b ping -c 1 -W 0.2 fd0f:e12e::1
ok "the tunnel was back after $((($(now) - before) / 1000000)) ms"
goes_on talk-server 5; goes_on talk-bob 5; ok 'the connections went on'
[ "$(grep -c "^connected: $alice4/" "$dir/alice.log")" = 2 ] || die 'alice has another address now'
ok 'the same addresses as before'

expect "alice's outer address changes: the tunnel is back within 5 s, and open connections survive"
before=$(now)
quiet $a ip address del 192.0.2.2/24 dev eth0
quiet $a ip address add 192.0.2.99/24 dev eth0
quiet $a ip route add default via 192.0.2.1
until_ok 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
ok "the tunnel was back after $((($(now) - before) / 1000000)) ms"
goes_on talk-server 5; goes_on talk-bob 5; ok 'the connections went on'
logged server 'client=alice from=\S*192.0.2.99' 1; ok 'the server knows the new address'

expect "bob's network is away for 3 s without a word: the same"
quiet $r ip link set dev b down
until_ok 10 bash -c "! ip netns exec $a ping -c 1 -W 0.2 $bob6"
sleep 3 # the accident itself
quiet $r ip link set dev b up
quiet $r ip address replace 2001:db8:b::1/64 dev b nodad # a link that goes down loses its IPv6 addresses
until_ok 10 in_ns $a ping -c 1 -W 0.2 "$bob6"
goes_on talk-bob 10; ok 'the connection went on'

expect 'a carrier that is cut is reported as a truncation, and made again'
refresh=$(grep -c '^connected' "$dir/alice.log")
quiet $r nft 'add table ip cut; add chain ip cut c { type filter hook forward priority 0; }; add rule ip cut c ip saddr 192.0.2.99 tcp dport 12345 tcp flags != syn reject with tcp reset'
logged alice 'connection lost.*truncated.*Connection reset' 10
quiet $r nft delete table ip cut
grep 'connection lost' "$dir/alice.log" | tail -1
until_ok 10 bash -c "[ \$(grep -c '^connected' '$dir/alice.log') -gt $refresh ]"
until_ok 5 in_ns $a ping -c 1 -W 0.2 10.8.0.1
goes_on talk-server 5; ok

expect 'kill -9 of a client: no device is left, the server notices, and it comes back with the same address'
for name in talk-server talk-bob echo-server echo-bob; do stop $name; done
old=$alice4
stop alice KILL
until_ok 5 no_device $a; ok 'no device'
logged server 'client lost.*client=alice' 5; grep 'client lost' "$dir/server.log" | tail -1; ok
client alice $a --connect 203.0.113.2:12345
[ "$alice4" = "$old" ] || die "it was $old and is $alice4"
ok "still $alice4"

expect 'an orderly stop: Close arrives, and nothing is left'
stop alice TERM
[ $ended = 0 ] || die "status $ended"
logged server 'client disconnected.*client=alice.*closed' 5; grep 'client disconnected' "$dir/server.log" | tail -1; ok 'told the server'
no_device $a || die 'the device is left'
[ -z "$(in_ns $a ip -o address show | grep -e 10.8.0 -e fd0f)" ] || die 'an address is left'
[ -z "$(in_ns $a ip route show | grep 10.8.0)" ] || die 'a route is left'
only_own_processes $a || die 'a process is left'
ok 'no device, address, route or process'
client alice $a --connect 203.0.113.2:12345
stop server INT
[ $ended = 0 ] || die "status $ended"
for name in alice bob; do logged $name 'connection lost.*the server stops' 5; done; ok 'told the clients'
no_device $s || die 'the device is left'
only_own_processes $s || die 'a process is left'
ok 'nothing is left'
stop alice; stop bob
[ $ended = 0 ] || die "a client that connects again ended with status $ended"
no_device $a && no_device $b || die 'a device is left'
only_own_processes $a && only_own_processes $b || die 'a process is left'
ok 'clients that are connecting again stop as well'

expect 'a device that is taken away: the program that had it says so and ends, instead of going on half alive'
up
for name in alice server; do
    case $name in alice) ns=$a ;; server) ns=$s ;; esac
    quiet $ns ip link delete fern0
    until_ok 5 bash -c "! kill -0 ${pids[$name]}"
    ended=0; wait "${pids[$name]}" || ended=$?; unset "pids[$name]"
    [ $ended = 1 ] || die "$name ended with status $ended"
    logged $name '^fernvpn: .*cannot read from the device fern0' 1; tail -1 "$dir/$name.log"
done
logged server 'client disconnected.*client=alice.*the client leaves' 1
logged bob 'connection lost.*the server stops' 5; ok 'status 1, and the other side was told'
stop bob
