#!/bin/bash
# What does a fernvpn leave that is killed at any moment? Nothing that the next start, or `fernvpn clean-up`, does not take away.
#
#   $c: client 192.0.2.2 ───── 192.0.2.1 $s: server, which forwards
#
# Each round starts a client or a server, kills it (kill -9) at a random moment of its start, of its running or of its stop,
# and compares rules, routes, links, addresses, firewall, kernel settings and mounts with those from before. As root.
#   FERNVPN=target/release/fernvpn    the program            SEED=1 ROUNDS=18    which moments, and how many
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
seed=${SEED:-$((SRANDOM % 32768))} rounds=${ROUNDS:-18}
RANDOM=$seed
passed=0
skip() { echo "SKIPPED: the tests of crashes: $*"; echo 'crash: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'they need root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'this root may not make network namespaces'
for tool in ip nft sysctl; do command -v $tool >/dev/null || { echo "crash.sh needs $tool (Debian: iproute2 nftables procps)" >&2; exit 1; }; done
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

c=fernk$$-c s=fernk$$-s
dir=$(mktemp -d)
clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    [ $status = 0 ] || tail -n 40 "$dir"/*.log
    for ns in $c $s; do ip netns pids $ns | xargs -r kill -KILL; ip netns del $ns; done
    wait
    rm -rf "$dir" /run/fernvpn/fernk$$-*
    if [ $status = 0 ]; then echo "crash: $passed passed, 0 failed"; else echo "crash: $passed passed, 1 failed (SEED=$seed)"; fi
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
die() { echo "!! $*"; exit 1; }
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
until_ok() {
    local deadline=$(($(date +%s%N) + $1 * 1000000000)); shift
    until "$@" >/dev/null 2>&1; do [ "$(date +%s%N)" -lt $deadline ] || die "not within the time: $*"; sleep 0.02; done
}
state() { # NAMESPACE
    in_ns "$1" sh -c 'ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip -o link; ip -o address; nft list ruleset
        sysctl --all --pattern "^net\.ipv[46]\.(conf|ip_forward)"; findmnt --list --noheadings --output TARGET' 2>/dev/null |
        sed 's/ *expires [0-9]*sec//; s/ *valid_lft.*//' | grep -v ' ff00::/8 \|^net\..*\.fern0\.'
}
nobody_in() { [ -z "$(ip netns pids "$1")" ]; }
start() { # NAMESPACE NAME ARGUMENT...: its process is $pid
    local ns=$1 name=$2; shift 2
    : >"$dir/$name.log"
    ip netns exec "$ns" "$fernvpn" "$@" >>"$dir/$name.log" 2>&1 &
    pid=$!
}
client=(client -k "$dir/key" --connect 192.0.2.1:12345 --name "$c")
server=(server -k "$dir/key" --listen 192.0.2.1:12345 --push-routes '0.0.0.0/0,::/0' --name "$s")
up() { # NAME: it is up
    case $1 in client) until_ok 15 grep -q '^connected: ' "$dir/$1.log" ;; *) until_ok 15 grep -q '^listening on' "$dir/$1.log" ;; esac
}
# Ends it in order: it must, and in time.
stop() { kill -TERM "$1"; until_ok 10 eval "! kill -0 $1"; wait "$1" || die "it ended with status $?"; }

for ns in $c $s; do ip netns add $ns; ip -n $ns link set dev lo up; done
ip link add name eth0 netns $c type veth peer name eth0 netns $s
for end in $c:2 $s:1; do
    ip -n "${end%:*}" address add "192.0.2.${end#*:}/24" dev eth0
    ip -n "${end%:*}" address add "2001:db8:a::${end#*:}/64" dev eth0 nodad
    ip -n "${end%:*}" link set dev eth0 up
done
ip -n $c route add default via 192.0.2.1
# Strict reverse path filtering, for which a client changes a kernel setting.
in_ns $c sh -c 'for name in all eth0; do echo 1 >/proc/sys/net/ipv4/conf/$name/rp_filter; done'
(umask 077; "$fernvpn" genkey >"$dir/key")
# Until the kernel has ended what it does by itself: link-local addresses, for one.
settled() { local one; one=$(state $c; state $s); sleep 0.2; [ "$one" = "$(state $c; state $s)" ] && ! grep -q tentative <<<"$one"; }
until_ok 10 settled

echo "SEED=$seed"
kinds=(client client-locked server command)
moments=(start run stop)
for ((round = 0; round < rounds; round++)); do
    kind=${kinds[round % 4]} moment=${moments[round / 4 % 3]}
    ns=$c name=client lock=()
    [ $kind != server ] || { ns=$s; name=server; }
    [ $kind != client-locked ] || lock=(--kill-switch)
    helper=''
    state $ns >"$dir/before"
    # A client needs its server.
    if [ $name = client ]; then start $s server "${server[@]}" --nat no; helper=$pid; up server; fi
    case $kind in
        server) start $s server "${server[@]}" ;;
        command) start $c client "${client[@]}" -- sleep 1000 ;;
        *) start $c client "${client[@]}" "${lock[@]}" ;;
    esac
    victim=$pid
    [ $moment = start ] || up $name
    [ $moment != stop ] || kill -TERM "$victim"
    printf -v delay '0.%03d' $((RANDOM % 200))
    sleep "$delay" # the random moment
    kill -KILL "$victim" 2>/dev/null || true # it may just have stopped
    wait "$victim" 2>/dev/null || true
    until_ok 10 eval "[ -z \"\$(ip netns pids $ns | grep -vx '${helper:-none}')\" ]"
    state $ns >"$dir/after"
    left=$(diff "$dir/before" "$dir/after" | grep -c '^>' || true)
    echo "$kind, killed at $moment + $delay s: $left lines left"
    ! grep -q ' fern0[:@ ]' <(in_ns $ns ip -o link) || die 'the device is left'
    locked=''; ! in_ns $ns nft list table inet fernvpn-fern0-lock >/dev/null 2>&1 || locked=yes
    [ -z "$locked" ] || [ $kind = client-locked ] || die 'a kill switch that nobody asked for'
    [ $kind != client-locked ] || [ $moment != run ] || [ $locked ] || die 'the kill switch has gone'
    # One way or the other.
    if ((RANDOM % 2)); then
        in_ns $ns "$fernvpn" clean-up >>"$dir/$name.log" 2>&1 || die 'clean-up failed'
        how=clean-up
    else
        if [ $name = client ]; then start $c client "${client[@]}"; else start $s server "${server[@]}" --nat no; fi
        up $name
        stop "$pid"
        how='the next start'
    fi
    if [ $locked ]; then
        in_ns $ns nft list table inet fernvpn-fern0-lock >/dev/null 2>&1 || die "$how has ended the kill switch"
        in_ns $ns "$fernvpn" unlock >/dev/null 2>&1 || die 'cannot unlock'
    fi
    if [ -n "$helper" ]; then stop "$helper"; fi
    until_ok 5 nobody_in $ns
    diff "$dir/before" <(state $ns) || die "something is left after $how"
    passed=$((passed + 1))
    echo "   ok: nothing after $how"
done
