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
# start_server NAT
start_server() {
    : >"$dir/server.out"
    ip netns exec "$s" "$fernvpn" server -k "$dir/key" --listen 192.0.2.1:12345 --push-routes 198.51.100.0/24,2001:db8:b::/64 --nat "$1" \
        >"$dir/server.out" 2>"$dir/server.log" &
    server=$!
    until_ok grep -q 'listening on' "$dir/server.out"
}
start_client() {
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

part 'nat = no: nothing is touched'
start_server no
none && [ "$(sysctls)" = "$before" ] || die 'something was'
stop $server TERM; server=''
echo "nat: $parts passed, 0 failed"
