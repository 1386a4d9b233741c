#!/bin/bash
# Tool: ip of iproute2 6.1.0 (Debian 12, iproute2 6.1.0-3), beside the C library and what uses it. It needs root.
# Behaviour: ip takes addresses of fewer than four numbers, and fills up with zeros at the end: 10.1 is 10.1.0.0. Everything that
#   uses the C library fills up before the last number: 10.1 is 10.0.0.1. So "ip address add 10.1/8" followed by "ping 10.1" is
#   about two addresses, and neither complains.
# Expected otherwise: ip-address(8): an IPv4 address is a dotted quad. inet_aton(3): in "a.b", b is the last three bytes.
# Seen: ip gives the device 10.1.0.0; inet_aton and getaddrinfo say 10.0.0.1; so for 10.1.2, 10.1.2.0 and 10.1.0.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download iproute2=6.1.0-3)
dpkg -x "$dir"/iproute2_*.deb "$dir"
as_described=yes
"$dir/bin/ip" -Version
for short in 10.1 10.1.2; do
    by_ip=$(unshare --net sh -c '"$0" address add "$1/8" dev lo && "$0" -o -4 address show dev lo' "$dir/bin/ip" $short | awk '{ print $4 }')
    by_aton=$(python3 -c 'import socket, sys; print(socket.inet_ntoa(socket.inet_aton(sys.argv[1])))' $short)
    by_name=$(getent ahostsv4 $short | awk 'NR == 1 { print $1 }')
    echo "$short: ip $by_ip, inet_aton $by_aton, getaddrinfo $by_name"
    case "$short $by_ip $by_aton $by_name" in
    '10.1 10.1.0.0/8 10.0.0.1 10.0.0.1' | '10.1.2 10.1.2.0/8 10.1.0.2 10.1.0.2') ;;
    *) as_described=no ;;
    esac
done
[ $as_described = yes ] || { echo 'this has changed'; exit 1; }
echo 'as described'
