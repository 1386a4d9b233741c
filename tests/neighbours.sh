#!/bin/bash
# A server shares its machine with others: containers, a router, a second server. Does it change anything for them, while it
# runs or when it stops? Do its own switches let other packets through?
#
#                     k 172.17.0.2 (a container: bridge docker0, its port 80 is 8080 outside)
#                      │
#   client 192.0.2.2 ──┴─ server ── 198.51.100.2, 203.0.113.2 web
#          2001:db8:a::2            2001:db8:b::2
. "$(dirname "$0")/common/network.sh"
needs curl ip nft ping python3 ss

c=$id-c s=$id-s w=$id-w k=$id-k
namespaces $c $s $w $k
link $c eth $s in
link $s out $w eth
address $c eth 192.0.2.2/24 2001:db8:a::2/64
address $s in 192.0.2.1/24 2001:db8:a::1/64
address $s out 198.51.100.1/24 203.0.113.1/24 2001:db8:b::1/64
address $w eth 198.51.100.2/24 203.0.113.2/24 2001:db8:b::2/64
ip -n $w route add default via 198.51.100.1
ip -n $w route add default via 2001:db8:b::1
keys client other
start web $w python3 "$tests/common/web.py" 80
await listening $w 80

# server NAME NUMBER OPTION...: starts a server with the device fernNUMBER, at port 12345 + NUMBER, which pushes $push.
server() {
    local name=$1 number=$2; shift 2
    fern "$name" $s server -k "$dir/server.key" --listen 192.0.2.1:$((12345 + number)) --tun fern$number --push-routes "$push" "$@"
}
client() { fern "$1" $c client -k "$dir/${3:-client}.key" --connect 192.0.2.1:$((12345 + $2)) --tun fern$2; } # NAME NUMBER [KEY]
down() { local name; for name; do stop "$name"; [ "$ended" = 0 ] || die "$name ended with status $ended"; done; }
fetch() { in_ns "$1" curl -sgm "${3:-3}" "http://$2/"; } # NAMESPACE HOST
asks() { [ "$(fetch "$1" "$2")" = "$3" ]; }              # NAMESPACE HOST AS-WHOM
value() { in_ns $s cat "/proc/sys/net/$1"; }
holds() { [ "$(value "$1")" = "$2" ]; }
same() { diff "$dir/before" <(settings $s) || die 'settings have changed'; }
# Whether the web server's machine can use the server's as its router.
is_router4() { in_ns $w ping -c 1 -W 1 192.0.2.2 >/dev/null; }
is_router6() { in_ns $w ping -c 1 -W 1 2001:db8:a::2 >/dev/null; }
ip -n $c route add 198.51.100.0/24 via 192.0.2.1
ip -n $c route add 2001:db8:b::/64 via 2001:db8:a::1
push=203.0.113.0/24,2001:db8:b::/64

settings $s >"$dir/before"
expect 'a host stays a host for all others: it only forwards for the tunnel, in both families'
server host 0
client alice 0
asks $c 203.0.113.2 203.0.113.1
asks $c '[2001:db8:b::2]' 2001:db8:b::1
! is_router4 || die 'it routes IPv4 for others'
! is_router6 || die 'it routes IPv6 for others'
down alice host
same; ok

expect 'a later device forwards too, and still only for the tunnel'
server host 0
client alice 0
link $s late $w late
address $s late 192.168.77.1/24
address $w late 192.168.77.2/24
address $w lo 203.0.113.99/32
ip -n $s route add 203.0.113.99/32 via 192.168.77.2
within 5 asks $c 203.0.113.99 192.168.77.1
! in_ns $w ping -c 1 -W 1 -I 192.168.77.2 192.0.2.2 >/dev/null || die 'it routes for others'
in_ns $s sysctl -qw net.ipv4.conf.late.forwarding=0
within 5 asks $c 203.0.113.99 192.168.77.1
down alice host
holds ipv4/conf/late/forwarding 0 || die 'the new device still forwards'
ip -n $s link del dev late
same; ok

expect 'another program may begin to forward while the server runs, and goes on after the stop'
# it_forwards: switches forwarding on as Docker does, and then adds its firewall.
it_forwards() {
    in_ns $s sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    in_ns $s nft 'table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; ip daddr 192.0.2.2 accept; ip saddr 192.0.2.2 accept; }; }'
}
server host 0
! is_router4 || die 'it forwards already'
it_forwards
within 5 is_router4
within 5 is_router6
logged host 'a firewall drops forwarded packets.* table="ip filter" chain=FORWARD' 5
down host
{ is_router4 && is_router6; } || die 'it has been switched off for the other program'
in_ns $s nft delete table ip filter
in_ns $s sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
same; ok

expect 'containers reach the world, and the world reaches their ports, whatever the server does'
link $k eth $s port
ip -n $s link add dev docker0 type bridge
ip -n $s link set dev port master docker0 up
address $s docker0 172.17.0.1/16
address $k eth 172.17.0.2/16
ip -n $k route add default via 172.17.0.1
in_ns $s sysctl -qw net.ipv4.ip_forward=1
in_ns $s nft 'table ip docker { chain pre { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 8080 dnat to 172.17.0.2:80; }
    chain post { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != "docker0" masquerade; }; }'
start container $k python3 "$tests/common/web.py" 80
await listening $k 80
containers() { asks $k 198.51.100.2 198.51.100.1 && asks $w 198.51.100.1:8080 198.51.100.2; }
containers
settings $s >"$dir/before"
for nat in auto out; do
    server host 0 --nat $nat
    client alice 0
    containers || die "cut off with nat = $nat"
    asks $c 203.0.113.2 203.0.113.1
    asks $c '[2001:db8:b::2]' 2001:db8:b::1
    ! is_router6 || die 'it routes IPv6 for others'
    diff <(grep ipv4 "$dir/before") <(settings $s | grep ipv4) || die 'settings of IPv4 have changed'
    down alice host
    containers || die 'cut off after the stop'
    same
done
ok

expect 'of two servers on one machine, the other one goes on when one is stopped or killed, in any order'
push=198.51.100.0/24 ; push0=$push push1=203.0.113.0/24,2001:db8:b::/64
both() {
    push=$push0 server one 0 --address 10.10.0.1/24
    push=$push1 server two 1 --address 10.11.0.1/24,fd11::1/64
    client alice 0
    client bob 1 other
    first && second
}
first() { asks $c 198.51.100.2 198.51.100.1; }
second() { asks $c 203.0.113.2 203.0.113.1 && asks $c '[2001:db8:b::2]' 2001:db8:b::1; }
# IPv4 of a host without containers, and of one with them.
for forwards in 0 1; do
    in_ns $s sysctl -qw net.ipv4.ip_forward=$forwards
    settings $s >"$dir/before"
    both; down one; second || die 'the first one stopped, and the second is cut off'
    down alice two bob; same
    both; down two; first || die 'the second one stopped, and the first is cut off'
    down bob one alice; same
    both; stop one KILL; second || die 'the first one was killed, and the second is cut off'
    push=$push0 server one 0 --address 10.10.0.1/24
    within 20 first; second || die 'the first one came back, and the second is cut off'
    stop two KILL; first || die 'the second one was killed, and the first is cut off'
    down one
    push=$push1 server two 1 --address 10.11.0.1/24,fd11::1/64
    within 20 second
    down two alice bob; same
done
ok

# Linux before 6.17 forwards IPv6 on all devices or on none. A file without a number stands for a missing one.
older() { # NAME NUMBER OPTION...
    local name=$1 number=$2; shift 2
    start "$name" $s sh -c 'mount --bind /dev/null /proc/sys/net/ipv6/conf/all/force_forwarding && exec "$@"' - \
        "$fernvpn" server --name "$id-$name" -k "$dir/server.key" --listen 192.0.2.1:$((12345 + number)) --tun fern$number --push-routes "$push" "$@"
    ready "$name"
}
push=203.0.113.0/24,2001:db8:b::/64
expect 'older kernel: a host goes on listening to its router, and does not route for others'
older host 0
client alice 0
asks $c '[2001:db8:b::2]' 2001:db8:b::1
! is_router6 || die 'it routes IPv6 for others'
holds ipv6/conf/out/accept_ra 2 || die 'it does not listen to its router'
link $s late $w late
within 5 holds ipv6/conf/late/accept_ra 2
ip -n $s link del dev late
down alice host
same; ok
expect 'older kernel: a host that becomes a router while the server runs listens to no router'
older host 0
in_ns $s sysctl -qw net.ipv6.conf.all.forwarding=1
within 5 is_router6
within 5 holds ipv6/conf/out/accept_ra 1
down host
is_router6 || die 'it has been switched off for the other program'
ok
expect 'older kernel: a router listens to no other one, and its settings stay'
settings $s | grep ipv6 >"$dir/router"
older host 0
diff "$dir/router" <(settings $s | grep ipv6) || die 'settings have changed'
down host
diff "$dir/router" <(settings $s | grep ipv6) || die 'settings are left'
in_ns $s sysctl -qw net.ipv6.conf.all.forwarding=0
same; ok
expect 'older kernel: a server that stops leaves on what a second one needs'
push=198.51.100.0/24 older one 0 --address 10.10.0.1/24,fd10::1/64
older two 1 --address 10.11.0.1/24,fd11::1/64
client bob 1 other
second
down one
second || die 'the second one is cut off'
holds ipv6/conf/out/accept_ra 2 || die 'it does not listen to its router any more'
down bob two
same; ok

expect 'it is no error if a setting is right already and cannot be written'
in_ns $s sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
start fixed $s sh -c 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"' - \
    "$fernvpn" server --name "$id-fixed" -k "$dir/server.key" --listen 192.0.2.1:12345 --push-routes 0.0.0.0/0,::/0
ready fixed
client alice 0
down alice fixed
in_ns $s sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
start fixed $s sh -c 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"' - \
    "$fernvpn" server --name "$id-fixed" -k "$dir/server.key" --listen 192.0.2.1:12345 --push-routes 0.0.0.0/0,::/0
ends fixed
grep -q 'cannot set .*forwarding.*: Read-only file system.*Try: ' "$dir/fixed.log" || die 'it does not say what to do'
ok

# If another link has the tunnel's network as well, everything looks connected but nothing passes.
push=''
plain() { # NAME NUMBER OPTION...: a server that pushes nothing
    local name=$1 number=$2; shift 2
    fern "$name" $s server -k "$dir/server.key" --listen 192.0.2.1:$((12345 + number)) --tun fern$number "$@"
}
status() { in_ns "$1" "$fernvpn" status "$id-$2" --format "${3:-text}"; } # NAMESPACE NAME [FORMAT]
expect "if the client's network is the tunnel's, log and status say so, and what to do"
plain host 0
link $c lan $w far
address $c lan 10.8.0.77/24
client alice 0
logged alice 'network 10.8.0.0/24 overlaps 10.8.0.0/24 of lan.*Try: .*address = ' 5
logged host 'message client=client text="warning: .*network 10.8.0.0/24 on another link.*Try: ' 5
! grep -q 'lan' "$dir/host.log" || die 'the server hears what the link is called'
status $c alice | grep -q 'warning .* 10.8.0.0/24 of lan' || die 'it is not in its status'
status $c alice json | python3 -c 'import json, sys; assert "10.8.0.0/24 of lan" in json.load(sys.stdin)["warnings"][0]'
[ "$(status $s host json | python3 -c 'import json, sys; print(json.load(sys.stdin)["warnings"])')" = '[]' ] || die 'the server has no overlap'
down alice host
ok
expect 'if a pushed route is also a network at home, the log says so'
push=192.168.9.0/24 server host 0
address $c lan 192.168.9.7/24
client alice 0
logged alice 'route 192.168.9.0/24 overlaps 192.168.9.0/24 of lan.*Try: .*routes = ' 5
down alice host
ip -n $c link del dev lan
ok
expect "if another device of the server has the default network, the tunnel takes another one, and says so"
address $s out 10.8.0.3/24 fd0f:e12e::3/64
plain host 0
logged host 'uses the default network already.*addresses="10.198.86.1/24, fd0f:e12e:1::1/64"' 5
client alice 0
await in_ns $c ping -c 1 -W 1 10.198.86.1
await in_ns $c ping -c 1 -W 1 fd0f:e12e:1::1
run $s "$fernvpn" reload "$id-host"
! grep -q 'needs a restart' "$dir/run.log" || die 'a reload wants the usual network back'
in_ns $c ping -c 1 -W 2 10.198.86.1 >/dev/null
down alice host
ok
expect 'a configured network stays, and the start, check and the status name the overlap'
plain host 0 --address 10.8.0.1/24
logged host 'network 10.8.0.0/24 overlaps 10.8.0.0/24 of out.*Try: ' 5
status $s host | grep -q 'warning .* 10.8.0.0/24 of out' || die 'it is not in its status'
down host
printf '[server]\naddress = 10.8.0.1/24\n' >"$dir/server.conf"
run $s "$fernvpn" check -c "$dir/server.conf"
grep -q 'network 10.8.0.0/24 overlaps 10.8.0.0/24 of out' "$dir/run.log" || die 'check does not say it'
ip -n $s address del 10.8.0.3/24 dev out
ip -n $s address del fd0f:e12e::3/64 dev out
run $s "$fernvpn" check -c "$dir/server.conf"
! grep -q overlaps "$dir/run.log" || die 'check sees an overlap where there is none'
ok
expect 'a second server on one machine with the same network is refused, also by check'
plain one 0
refused $s "$fernvpn" server --name "$id-two" -k "$dir/server.key" --listen 192.0.2.1:12346 --tun fern1
grep -q 'another server runs on this machine.*10.8.0.0/24 overlaps 10.8.0.0/24 of fern0.*Try: ' "$dir/run.log" || die 'it does not say why'
refused $s "$fernvpn" server --name "$id-two" -k "$dir/server.key" --listen 192.0.2.1:12346 --tun fern1 --address 10.8.0.129/25
printf '[server]\ninterface = fern1\naddress = 10.8.0.1/24\n' >"$dir/server.conf"
refused $s "$fernvpn" check -c "$dir/server.conf"
client alice 0
in_ns $c ping -c 1 -W 2 10.8.0.1 >/dev/null
plain two 1 --address 10.9.0.1/24
down two alice one
ok

# hangs_up NAMESPACE NAME IGNORED ARGUMENT...: runs fernvpn in a terminal that closes once fernvpn is ready.
cat >"$dir/terminal.py" <<'PYTHON'
import os, pty, signal, sys, time
log, ignored, words = sys.argv[1], sys.argv[2] == "ignored", sys.argv[3:]
pid, end = pty.fork()
if pid == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1); os.dup2(out, 2)
    os.execv(words[0], words)
print(pid, flush=True)
os.read(0, 1)
os.close(end)
print("closed", flush=True)
os.waitpid(pid, 0)
PYTHON
in_terminal() { # NAME IGNORED: its process is then $inside, and `hang_up` ends its terminal
    : >"$dir/$1.log"
    coproc TERMINAL { in_ns $s python3 "$dir/terminal.py" "$dir/$1.log" "$2" "$fernvpn" server --name "$id-$1" -k "$dir/server.key" \
        --listen 192.0.2.1:12345 --no-tun; }
    terminal=$TERMINAL_PID
    read -r inside <&"${TERMINAL[0]}"
    ready "$1"
}
hang_up() { local word; echo >&"${TERMINAL[1]}"; read -r word <&"${TERMINAL[0]}"; [ "$word" = closed ]; }
expect 'a terminal that closes ends the server, except under nohup; that server still reloads when it is asked to'
in_terminal plain default
hang_up
logged plain 'stopping signal=SIGHUP' 10
within 10 fails kill -0 "$inside"
wait "$terminal" || true
in_terminal held ignored
hang_up
asked() { kill -HUP "$inside"; grep -q 'reloaded: ' "$dir/held.log"; } # one that meets the terminal's own is lost in it
within 10 asked
kill -0 "$inside" || die 'it ended'
! grep -q stopping "$dir/held.log" || die 'it ended'
kill -TERM "$inside"
within 10 fails kill -0 "$inside"
ok
