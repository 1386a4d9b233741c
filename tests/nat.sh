#!/bin/bash
# A client reaches a web server behind the VPN server, under the VPN server's address, and nothing of it outlives the server.
#
#   client 192.0.2.2 ── 192.0.2.1 server 198.51.100.1 ── 198.51.100.2 web
#          2001:db8:a::2     ::1         2001:db8:b::1     ::2          (which has no route back to the tunnel's addresses)
#
#   FERNVPN=target/release/fernvpn    the program; as root
set -euo pipefail
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
skip() { echo "SKIPPED: nat: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'no network namespaces'
command -v nft >/dev/null || skip 'there is no nft'
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

c=nat$$-c s=nat$$-s w=nat$$-w dir=$(mktemp -d)
server='' client='' web=''
clean_up() {
    status=$?
    set +e
    [ $status = 0 ] || tail -n 30 "$dir"/*.log "$dir/web"
    for pid in $server $client $web; do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    for ns in "$c" "$s" "$w"; do ip netns del "$ns" 2>/dev/null; done
    rm -rf "$dir"
    exit $status
}
trap clean_up EXIT
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
parts=0
part() { parts=$((parts + 1)); echo "== $*"; }
die() { echo "!! $*"; exit 1; }
until_ok() { local end=$((SECONDS + 15)); until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.05; done; }

for ns in "$c" "$s" "$w"; do ip netns add "$ns"; ip -n "$ns" link set lo up; done
ip link add eth netns "$c" type veth peer name in netns "$s"
ip link add out netns "$s" type veth peer name eth netns "$w"
for end in "$c eth 2 192.0.2 a" "$s in 1 192.0.2 a" "$s out 1 198.51.100 b" "$w eth 2 198.51.100 b"; do
    read -r ns device host four six <<<"$end"
    ip -n "$ns" address add "$four.$host/24" dev "$device"
    ip -n "$ns" address add "2001:db8:$six::$host/64" dev "$device" nodad
    ip -n "$ns" link set "$device" up
done
(umask 077; "$fernvpn" genkey >"$dir/key")
ip netns exec "$w" python3 -c '
import http.server, socket
class From(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_): pass
class Both(http.server.HTTPServer):
    address_family = socket.AF_INET6
Both(("::", 80), From).serve_forever()' >"$dir/web" 2>&1 &
web=$!

sysctls() { in_ns "$s" sh -c 'cd /proc/sys/net; for f in ipv[46]/conf/all/forwarding ipv6/conf/*/accept_ra ipv[46]/conf/in/forwarding ipv[46]/conf/out/*forwarding; do echo $f $(cat $f); done' | grep -v fern0; }
tables() { in_ns "$s" nft list tables; }
none() { [ -z "$(tables)" ]; }
push=198.51.100.0/24,2001:db8:b::/64 at=192.0.2.1:12345
# start_server NAT: pushes $push, listens at $at.
start_server() {
    : >"$dir/server.out"
    ip netns exec "$s" "$fernvpn" server -k "$dir/key" --listen $at --push-routes $push --nat "$1" \
        >"$dir/server.out" 2>"$dir/server.log" &
    server=$!
    until_ok grep -q 'listening on' "$dir/server.out"
}
start_client() {
    : >"$dir/client.out"
    ip netns exec "$c" "$fernvpn" client -k "$dir/key" --connect 192.0.2.1:12345 >"$dir/client.out" 2>"$dir/client.log" &
    client=$!
    until_ok grep -q '^connected: ' "$dir/client.out"
}
stop() { kill "-$2" "$1"; wait "$1" 2>/dev/null || true; }
fetch() { in_ns "$c" curl -sgm 3 "http://$1/"; }
reached() { # IPv4 and IPv6, both from the server's own address
    [ "$(fetch 198.51.100.2)" = ::ffff:198.51.100.1 ] || die "IPv4: $(fetch 198.51.100.2)"
    [ "$(fetch '[2001:db8:b::2]')" = 2001:db8:b::1 ] || die "IPv6: $(fetch '[2001:db8:b::2]')"
}
until_ok in_ns "$w" curl -sgm 3 'http://[::1]/'
before=$(sysctls)

for nat in auto out; do
    part "nat = $nat: the web server is reached by IPv4 and IPv6"
    start_server $nat; start_client; reached
    in_ns "$s" nft list table inet fernvpn-nat-fern0 | grep 'maxseg size set rt mtu' >/dev/null || die 'no MSS clamping'
    part 'a slow or stopped nft holds up nobody'
    child=$(pgrep -P $server -x nft); kill -STOP "$child"; reached; kill -CONT "$child"
    part 'an orderly stop leaves the machine as it was'
    stop $client TERM; client=''; stop $server TERM; server=''
    none || die "left: $(tables)"
    [ "$(sysctls)" = "$before" ] || die "left: $(diff <(echo "$before") <(sysctls))"
    part 'after kill -9 no table is left, and the next start and stop put the sysctls back'
    start_server $nat; [ "$(sysctls)" != "$before" ] || die 'nothing was changed'
    stop $server KILL; server=''; until_ok none
    start_server $nat; stop $server TERM; server=''
    [ "$(sysctls)" = "$before" ] || die "left: $(diff <(echo "$before") <(sysctls))"
done

part 'nat = in: nothing leaves by another device'
start_server in; start_client
! fetch 198.51.100.2 || die 'it left'
stop $client TERM; client=''; stop $server TERM; server=''

part 'nft is killed: the rules come again, and so do connections'
mkdir "$dir/bin"
printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v nft)" >"$dir/bin/nft"
chmod +x "$dir/bin/nft"
PATH=$dir/bin:$PATH start_server auto; start_client; reached
child=$(pgrep -P $server -x nft); kill -KILL "$child"
another() { pgrep -P $server -x nft | grep -vx "$child" && tables | grep fernvpn-nat; }
until_ok another
until_ok in_ns "$s" nft list table inet fernvpn-nat-fern0
reached
part 'nft is killed and does not start again: the server ends, rather than forward without rules'
printf '#!/bin/sh\nexit 1\n' >"$dir/bin/nft"
kill -KILL "$(pgrep -P $server -x nft)"
! wait $server || die 'it ended as if all were well'
server=''; stop $client TERM; client=''
grep -q 'rules of NAT are gone' "$dir/server.log" || die 'it did not say why'
none && [ "$(sysctls)" = "$before" ] || die "left: $(tables) $(diff <(echo "$before") <(sysctls))"

part 'after kill -9 a start with nat = no puts the sysctls back as well'
start_server auto; stop $server KILL; server=''
[ "$(sysctls)" != "$before" ] || die 'nothing was changed'
start_server no
none && [ "$(sysctls)" = "$before" ] || die "left: $(diff <(echo "$before") <(sysctls))"
stop $server TERM; server=''

part 'nat = no: nothing is touched'
start_server no
none && [ "$(sysctls)" = "$before" ] || die 'something was'
stop $server TERM; server=''

part 'hosts in a private network that is pushed may open connections to clients, others may not'
ip -n "$s" address add 192.168.50.1/24 dev out
ip -n "$w" address add 192.168.50.2/24 dev eth
ip -n "$w" route add 10.8.0.0/24 via 192.168.50.1
asks() { in_ns "$w" ping -c 2 -i 0.2 -W 1 -I "$1" "$own" >/dev/null; }
for push in 192.168.50.0/24,198.51.100.0/24 0.0.0.0/0; do
    start_server auto; start_client
    own=$(sed -n 's/^connected: \([0-9.]*\).*/\1/p' "$dir/client.out")
    [ "$(fetch 192.168.50.2)" = ::ffff:192.168.50.1 ] || die 'the client does not get out'
    ! asks 198.51.100.2 || die 'a public host got in'
    if [ $push = 0.0.0.0/0 ]; then
        ! asks 192.168.50.2 || die 'all the world was pushed, and a host got in'
    else
        asks 192.168.50.2 || die 'a host of the site did not get in'
    fi
    stop $client TERM; client=''; stop $server TERM; server=''
done

# Port shadow: the attacker, a client, connects from the port at which the server listens to the place from which a
# victim will come. Under a NAT that keeps ports, the victim's connection to the server is then taken for the answer.
in_ns "$w" nft 'table ip deaf { chain in { type filter hook input priority 0; tcp dport 40001 tcp flags & (syn | ack) == syn counter drop; }; }'
deaf() { in_ns "$w" nft list table ip deaf | grep 'packets [1-9]'; }
cat >"$dir/connect.py" <<'PYTHON'
import socket, sys
own, port, to, there = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
with socket.socket() as end:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.settimeout(4)
    end.bind((own, port))
    sys.exit(end.connect_ex((to, there)) != 0)
PYTHON
# shadow: whether the attacker has the victim's connection.
shadow() {
    own=$(sed -n 's/^connected: \([0-9.]*\).*/\1/p' "$dir/client.out")
    in_ns "$w" nft reset counters table ip deaf >/dev/null
    in_ns "$w" nft 'flush chain ip deaf in; add rule ip deaf in tcp dport 40001 tcp flags & (syn | ack) == syn counter drop'
    in_ns "$c" python3 "$dir/connect.py" "$own" 12345 198.51.100.2 40001 & attacker=$!
    until_ok deaf
    in_ns "$w" python3 "$dir/connect.py" 198.51.100.2 40001 198.51.100.1 12345 || die 'the victim connects to nobody'
    wait $attacker
}
push=198.51.100.0/24 at=0.0.0.0:12345
part 'port shadow, CVE-2021-3773: under a plain NAT the attacker gets the connection that is for the server'
start_server no
in_ns "$s" nft 'table ip plain { chain out { type nat hook postrouting priority srcnat; ip saddr 10.8.0.0/24 oifname "out" masquerade; }; }'
in_ns "$s" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
start_client
shadow || die 'the attack does not work'
stop $client TERM; client=''; stop $server TERM; server=''
in_ns "$s" nft delete table ip plain
in_ns "$s" sh -c 'echo 0 >/proc/sys/net/ipv4/ip_forward'
part "under fernvpn's NAT the server gets it"
start_server auto; start_client
! shadow || die 'the attacker has the connection'
in_ns "$s" nft list table inet fernvpn-nat-fern0 | grep 'masquerade to :32768-60999' >/dev/null || die 'which ports?'
stop $client TERM; client=''; stop $server TERM; server=''
echo "nat: $parts passed, 0 failed"
