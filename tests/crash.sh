#!/bin/bash
# What does fernvpn leave when it is killed at any moment? Only what the next start, or `fernvpn clean-up`, removes.
#
#   $c: client 192.0.2.2 ───── 192.0.2.1 $s: server, which forwards
#
# Each round starts a client or a server, and kills it (kill -9) at a random moment: while it starts, runs or stops. Then it
# compares rules, routes, links, addresses, firewall, kernel settings and mounts with those from before. As root.
#   SEED=1 ROUNDS=18    the choice of the moments, and their number
. "$(dirname "$0")/common/network.sh"
needs ip nft ping sysctl findmnt
seed=${SEED:-$((SRANDOM % 32768))} rounds=${ROUNDS:-18}
RANDOM=$seed
echo "SEED=$seed"

c=$id-c s=$id-s
namespaces $c $s
uplink $c $s eth0 192.0.2 2001:db8:a
for to in 192.0.2.1 2001:db8:a::1; do await in_ns $c ping -c 1 -W 1 $to; done
# With strict reverse path filtering, a client changes a kernel setting.
in_ns $c sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1
keys client

client() { start client $c "$fernvpn" client --name "$c" -k "$dir/client.key" --connect 192.0.2.1:12345 "$@"; }
server() { start server $s "$fernvpn" server --name "$s" -k "$dir/server.key" --listen 192.0.2.1:12345 --push-routes '0.0.0.0/0,::/0' "$@"; }
in_order() { stop "$1"; [ "$ended" = 0 ] || die "$1 ended with status $ended"; }
kinds=(client client-locked server command)
moments=(start run stop)
for ((round = 0; round < rounds; round++)); do
    kind=${kinds[round % 4]} moment=${moments[round / 4 % 3]}
    expect "$kind, killed at its $moment"
    case $kind in server) ns=$s name=server ;; *) ns=$c name=client ;; esac
    state $ns >"$dir/before"
    # A client needs its server.
    if [ $name = client ]; then server --nat no; ready server; fi
    case $kind in
        server) server ;;
        client) client ;;
        client-locked) client --kill-switch ;;
        command) client -- sleep 1000 ;;
    esac
    [ $moment = start ] || ready $name
    [ $moment != stop ] || kill -TERM "${pids[$name]}"
    printf -v delay '0.%03d' $((RANDOM % 200))
    sleep "$delay" # the random moment
    kill -KILL "${pids[$name]}" 2>/dev/null || true # it may just have stopped
    ends $name
    await nobody_in $ns
    state $ns >"$dir/after"
    echo "after $delay s: $(diff "$dir/before" "$dir/after" | grep -c '^>' || true) lines left"
    no_device $ns || die 'the device is left'
    locked() { in_ns $ns nft list table inet fernvpn-fern0-lock >/dev/null 2>&1; }
    was_locked=''; ! locked || was_locked=yes
    [ -z "$was_locked" ] || [ $kind = client-locked ] || die 'a kill switch that nobody asked for'
    [ $kind != client-locked ] || [ $moment != run ] || [ $was_locked ] || die 'the kill switch has gone'
    # One way or the other.
    if ((RANDOM % 2)); then
        run $ns "$fernvpn" clean-up
        [ ! -e "/run/fernvpn/$ns.sock" ] || die 'its socket is left'
        how=clean-up
    else
        if [ $name = client ]; then client; else server --nat no; fi
        ready $name
        in_order $name
        how='the next start'
    fi
    if [ $was_locked ]; then
        locked || die "$how has ended the kill switch"
        run $ns "$fernvpn" unlock
    fi
    [ $name = server ] || in_order server
    await nobody_in $ns
    diff "$dir/before" <(state $ns) || die "something is left after $how"
    ok "nothing after $how"
done
