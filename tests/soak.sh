#!/bin/bash
# Does it still work after hours of faults? soak.sh MINUTES, as root.
#
#   ┌─ $a: alice, AES, ratcheted key ─┐      ┌─ $r: the middle ─────────┐      ┌─ $s: the server ─────┐
#   │ eth0 192.0.2.2 or .3            ┼──────┼─ a 192.0.2.1             │      │                      │
#   └─────────────────────────────────┘      │          203.0.113.1 s ──┼──────┼─ eth0 203.0.113.2/24 │
#   ┌─ $b: bob, Fernet, static key ───┐      │                          │      │ fern0 10.8.0.1/24    │
#   │ eth0 198.51.100.2 or .3         ┼──────┼─ b 198.51.100.1          │      └──────────────────────┘
#   └─────────────────────────────────┘      └──────────────────────────┘
#
# All the time each client has pings, and traffic that checks itself (tests/traffic.py): an open connection that never
# connects again, files both ways, and datagrams. One fault follows the other. After each, both connections go on, and a file
# arrives in both directions. The server is killed only in the first third of the time, so that its memory has time to grow.
#
#   SEED=1    repeats the same faults
. "$(dirname "$0")/common/network.sh"
needs ip nft python3 gcc ping

minutes=${1:-120}
RANDOM=${SEED:=$$}
a=$id-a b=$id-b s=$id-s r=$id-r
keep() { local name=$1 ns=$2; shift 2; ip netns exec "$ns" "$@" >>"$dir/$name.log" 2>&1 & pids[$name]=$!; } # as start, quietly

# ---- the topology

namespaces $a $b $s $r
at() { # NAMESPACE ADDRESS: its only one
    ip -n "$1" address flush dev eth0
    ip -n "$1" address add "$2/24" dev eth0
    ip -n "$1" route replace default via "${2%.*}.1"
}
declare -A network=([a]=192.0.2 [b]=198.51.100) space=([a]=$a [b]=$b) name=([a]=alice [b]=bob)
for side in a b; do uplink ${space[$side]} $r $side ${network[$side]}; done
uplink $s $r s 203.0.113
forwards $r
gcc -shared -fPIC -o "$dir/clock.so" "$tests/clock.c"

keys alice bob
install -m 600 "$dir/alice.key" "$dir/alice.state"
cat >"$dir/server.conf" <<CONF
[server]
listen = 0.0.0.0:12345
keepalive = 2
name = $s
[peer]
name = alice
key-file = $dir/alice.state
ratchet = yes
[peer]
name = bob
key-file = $dir/bob.key
CONF
configuration() { printf '[client]\nserver = 203.0.113.2:12345\nname = %s\nkey-file = %s\n' "$@"; }
{ configuration $a "$dir/alice.key"; echo 'ratchet = yes'; } >"$dir/alice.conf"
configuration $b "$dir/bob.key" >"$dir/bob.conf"

by_clock() { # NAME NAMESPACE ARGUMENTS...: the program, by a clock that can be set
    local name=$1 ns=$2; shift 2
    keep "$name" "$ns" env LD_PRELOAD="$dir/clock.so" CLOCK_OFFSET="$dir/clock-$name" "$fernvpn" "$@"
}
server() {
    local listening; listening=$(times server '^listening on')
    by_clock server $s server -c "$dir/server.conf"
    await more server '^listening on' "$listening"
}
touch "$dir"/{server,alice,bob,serve,use-alice,use-bob}.log

# ---- faults

choose() { local choice=$(($# * RANDOM / 32768 + 1)); echo "${!choice}"; }
rule() { in_ns $r nft "add table ip fault; add chain ip fault c { type filter hook forward priority 0; $1; }"; }
unblock() { in_ns $r nft delete table ip fault; }
cut() {
    local lost; lost=$(times "${name[$1]}" 'connection lost')
    rule "ip saddr ${network[$1]}.0/24 tcp dport 12345 tcp flags != syn reject with tcp reset"
    await more "${name[$1]}" 'connection lost' "$lost"
    unblock
}
suspend() { kill -STOP "${pids[$1]}"; sleep $((RANDOM % 12)); kill -CONT "${pids[$1]}"; }
killed() {
    kill -KILL "${pids[server]}"
    wait "${pids[server]}" 2>/dev/null || true
    server
}
moved() {
    local old; old=$(in_ns ${space[$1]} ip -o -4 address show dev eth0 | grep -o "${network[$1]}\.[23]" | head -1)
    at ${space[$1]} "${network[$1]}.$((5 - ${old##*.}))"
}
# The last fault is left out after a third of the time.
faults=(link-down blocked client-suspended server-suspended cut loss address clock reload killed)
strike() { # FAULT: it is over when this returns
    local side; side=$(choose a b)
    case $1 in
        link-down) in_ns $r ip link set dev $side down; sleep $((RANDOM % 10)); in_ns $r ip link set dev $side up ;;
        blocked) rule 'policy drop'; sleep $((RANDOM % 10)); unblock ;;
        client-suspended) suspend ${name[$side]} ;;
        server-suspended) suspend server ;;
        cut) cut $side ;;
        loss) rule 'numgen random mod 50 0 drop'; sleep 5; unblock ;;
        address) moved $side ;;
        clock) echo $((RANDOM * 8 - 131072)) >"$dir/clock-$(choose alice bob server)" ;;
        reload) in_ns $s "$fernvpn" reload $s >/dev/null ;;
        killed) killed ;;
    esac
}
# This measures the time until both clients have sent something inside, then checks that they still move files.
recovered() {
    local begun who; begun=$(now)
    declare -A said
    for who in alice bob; do said[$who]=$(times use-$who '^alive'); done
    for who in alice bob; do within 30 more use-$who '^alive' "${said[$who]}"; done
    took=$(($(now) - begun))
    for who in alice bob; do said[$who]=$(times use-$who '^moved'); done
    for who in alice bob; do within 120 more use-$who '^moved' $((said[$who] + 1)); done
    for who in use-alice use-bob serve; do kill -0 "${pids[$who]}" || die "$who: the traffic was disturbed"; done
}

# ---- the soak

sizes() { # resident KiB and descriptors of the three programs
    local who
    for who in server alice bob; do
        printf '%s %s %s ' $who "$(awk '/VmRSS/ { print $2 }' "/proc/${pids[$who]}/status")" "$(ls "/proc/${pids[$who]}/fd" | wc -l)"
    done
}
server
by_clock alice $a client -c "$dir/alice.conf" --suite aes-256-gcm
by_clock bob $b client -c "$dir/bob.conf" --suite fernet
for who in alice bob; do ready $who; done
keep serve $s python3 "$tests/traffic.py" serve 10.8.0.1
logged serve ready
for side in a b; do
    keep use-${name[$side]} ${space[$side]} python3 "$tests/traffic.py" use 10.8.0.1
    keep ping-${name[$side]} ${space[$side]} ping -q -i 0.5 -s 1000 -p a5 10.8.0.1
done

begun=$(now) end=$(($(now) + minutes * 60000)) rounds=0 longest=0 first=''
declare -A count=()
while [ "$(now)" -lt $end ]; do
    fault=$(choose "${faults[@]}")
    strike $fault
    recovered
    rounds=$((rounds + 1)) count[$fault]=$((${count[$fault]:-0} + 1))
    [ $took -le $longest ] || longest=$took longest_fault=$fault
    if [ ${#faults[@]} = 10 ] && [ "$(now)" -gt $((begun + (end - begun) / 3)) ]; then
        unset 'faults[9]'
        settled=$((rounds + 5))
    fi
    # At first there are new buffers, which are then used again.
    [ $rounds != "${settled:-}" ] || { first=$(sizes); echo "round $rounds, the server is not killed any more: $first"; }
    [ $((rounds % 20)) != 0 ] || echo "round $rounds: $fault, back after $took ms; $(sizes)"
done
last=$(sizes)
[ -n "$first" ] || die "only $rounds rounds: too short"
echo "$rounds faults (seed $SEED), the open connections went on; the longest recovery took $longest ms ($longest_fault)"
for fault in "${!count[@]}"; do echo "  ${count[$fault]} $fault"; done | sort -k 2
for who in alice bob; do
    kill -INT "${pids[ping-$who]}"; wait "${pids[ping-$who]}" || true
    echo "$who: $(times use-$who '^moved') files, $(grep '^datagrams' "$dir/use-$who.log" | tail -1), pings: $(grep 'packets transmitted' "$dir/ping-$who.log")"
    ! grep -e 'wrong data' -e DUP "$dir/ping-$who.log" || die 'a ping has changed, or came twice'
    ! grep WRONG "$dir/use-$who.log" || die 'the traffic has changed'
done
! grep -l panicked "$dir"/*.log || die 'somebody panicked'
printf 'early:  %s\nat end: %s\n' "$first" "$last"
paste <(tr ' ' '\n' <<<"$first") <(tr ' ' '\n' <<<"$last") | awk '
    NR % 3 == 1 { who = $1 }
    NR % 3 == 2 && $2 > $1 * 5 / 4 + 2048 { print "!! the memory of " who " grows"; bad = 1 }
    NR % 3 == 0 && $2 > $1 + 2 { print "!! the descriptors of " who " grow"; bad = 1 }
    END { exit bad }'
ok
