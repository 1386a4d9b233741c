#!/bin/bash
# Do tunnels inside the tunnel work? The kernel leaves the checksum of an inner packet open, at a place that the device's header names.
#
#   client 192.0.2.2 ── 192.0.2.1 server       and over their addresses in the tunnel: VXLAN, GENEVE, GRE, IP in IP
. "$(dirname "$0")/common/network.sh"
needs ip curl python3 ping ss

c=$id-c s=$id-s
namespaces $c $s
link $c eth $s eth
address $c eth 192.0.2.2/24
address $s eth 192.0.2.1/24
keys client
fern server $s server -k "$dir/server.key" --listen 192.0.2.1:12345
fern client $c client -k "$dir/client.key" --connect 192.0.2.1:12345
head -c 3000000 /dev/urandom >"$dir/file"
start web $s python3 -m http.server 80 --bind 0.0.0.0 --directory "$dir"
await listening $s 80
offload_drops() { "$fernvpn" status "$id-$1" --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["peers"][0]["dropped_packets"]["offload"])'; }

near4=$(address4 client) near6=$(address6 client)
declare -A PROBE=([vxlan]='id 9 dstport 9' [geneve]='id 9 remote 192.0.2.1' [ipip]='remote 192.0.2.1' [gre]='remote 192.0.2.1' [ip6gre]='remote fd00::1')
# over KIND FAR NEAR WORD...: makes a link `inside` at both ends, and sends TCP through it in both directions.
over() {
    local kind=$1 far=$2 near=$3; shift 3
    expect "$kind over ${far//*:*/IPv6}: TCP passes in both directions"
    in_ns $c ip link add name probe type $kind ${PROBE[$kind]} 2>/dev/null || { echo '   this kernel has none'; return 0; }
    ip -n $c link del dev probe
    # shellcheck disable=SC2086 # the words must be split
    case $kind in
        vxlan | geneve)
            ip -n $c link add inside type $kind id 7 remote $far "$@" ${near:+local $near}
            ip -n $s link add inside type $kind id 7 remote "$(address_of $far)" "$@" ${near:+local $far} ;;
        *)
            ip -n $c link add inside type $kind remote $far local $near
            ip -n $s link add inside type $kind remote $near local $far ;;
    esac
    address $c inside 192.168.200.2/24
    address $s inside 192.168.200.1/24
    await in_ns $c ping -c 1 -W 1 192.168.200.1
    in_ns $c curl -sgm 20 -o "$dir/copy" http://192.168.200.1/file || die "curl: $?"
    cmp "$dir/file" "$dir/copy"
    in_ns $c curl -sgm 20 -o /dev/null -H "X-Long: $(head -c 30000 /dev/zero | tr '\0' x)" http://192.168.200.1/file || die "curl: $?"
    for end in client server; do [ "$(offload_drops $end)" = 0 ] || die "the $end has dropped some"; done
    ip -n $c link del dev inside
    ip -n $s link del dev inside
    ok
}
address_of() { if [[ $1 == *:* ]]; then echo "$near6"; else echo "$near4"; fi; }
for far in 10.8.0.1 fd0f:e12e::1; do
    over vxlan $far "$(address_of $far)" dstport 4789
    over geneve $far ''
done
over ipip 10.8.0.1 "$near4"
over gre 10.8.0.1 "$near4"
over ip6gre fd0f:e12e::1 "$near6"
