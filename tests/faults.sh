#!/bin/bash
# What happens when something breaks, and how long does it take until all is well again? As root.
#
#   ┌─ $c: the client ────┐      ┌─ $r: the middle ─────────┐      ┌─ $s: the server ─────┐
#   │ eth0  192.0.2.2/24 ─┼──────┼─ c 192.0.2.1             │      │ eth0 203.0.113.2/24  │
#   │ fern0 10.8.0.x      │      │          203.0.113.1 s ──┼──────┼─                     │
#   └─────────────────────┘      └──────────────────────────┘      │ fern0 10.8.0.1/24    │
#                                                                  └──────────────────────┘
#
# A TCP connection inside the tunnel says a number every 50 ms and never connects again: unless told otherwise it has to
# survive. What is measured is the time from the end of the fault to its next number. At the end there is a table.
# tests/netns.sh has a killed server, a killed client, a changed address, a cut carrier and a device that is taken away.
#
#   FERNVPN=target/release/fernvpn    the program            FAULT_SECONDS=30    how long links are down, 8 otherwise
#   KEEP_LOGS=1                       show all logs at the end
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
seconds=${FAULT_SECONDS:-8}
passed=0

skip() { printf '\nSKIPPED: the tests of faults: %s\n' "$*"; echo 'faults: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'they need root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'this root may not make network namespaces'
for tool in ip nft ping curl python3 gcc prlimit setpriv; do
    command -v $tool >/dev/null || { echo "faults.sh needs $tool (Debian: iproute2 nftables iputils-ping curl python3 gcc util-linux)" >&2; exit 1; }
done
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

id=flt$$
c=$id-c s=$id-s r=$id-r
dir=$(mktemp -d)
chmod 711 "$dir"
declare -A pids=()
table=()

clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    if [ $status != 0 ] || [ -n "${KEEP_LOGS:-}" ]; then
        for log in "$dir"/*.log; do [ -s "$log" ] && printf -- '--- %s\n' "${log##*/}" && tail -n 40 "$log"; done
    fi
    for ns in $c $s $r; do
        ip netns pids $ns | xargs -r kill -KILL
        ip netns del $ns
    done
    for pid in "${pids[@]}"; do kill -CONT "$pid"; kill -KILL "$pid"; done
    wait
    umount "$dir/small"
    rm -rf "$dir"
    if [ $status = 0 ]; then echo "faults: $passed passed, 0 failed"; else echo "faults: $passed passed, 1 failed (status $status)"; fi
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- words of this script

expect() { printf '\n== %s\n' "$*"; }
ok() { passed=$((passed + 1)); echo "   ok${1:+: $*}"; }
die() { echo "!! $*"; exit 1; }
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
quiet() { local ns=$1; shift; echo "[${ns##*-}] $*"; in_ns "$ns" "$@" >"$dir/quiet" 2>&1 || { cat "$dir/quiet"; die "failed: $*"; }; }
now() { date +%s%N; }
until_ok() {
    local deadline=$(($(now) + $1 * 1000000000)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt $deadline ] || die "not within the time: $*"
        sleep 0.02
    done
}
start() {
    local name=$1 ns=$2; shift 2
    echo "[${ns##*-}] $* &"
    : >"$dir/$name.log"
    ip netns exec "$ns" "$@" >"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}
stop() {
    kill "-${2:-TERM}" "${pids[$1]}" 2>/dev/null || true
    ended=0
    wait "${pids[$1]}" 2>/dev/null || ended=$?
    unset "pids[$1]"
}
logged() { until_ok "$3" grep -q -- "$2" "$dir/$1.log"; }
lines() { grep -c -- "$2" "$dir/$1.log" || true; }
logged_again() { until_ok "$4" bash -c "[ \$(grep -c -- '$2' '$dir/$1.log') -gt $3 ]"; }
fault() { sleep "$1"; } # a fault that lasts is itself a length of time

server() { start server $s "$fernvpn" server -k "$dir/server.key" --listen 0.0.0.0:12345 --keepalive 2 "$@"; logged server '^listening on' 10; }
client() { start client $c "$fernvpn" client -k "$dir/alice.key" --connect 203.0.113.2:12345 "$@"; logged client '^connected: ' 10; }
talk() {
    start echo $s python3 "$dir/talk.py" listen 10.8.0.1 9000
    until_ok 5 bash -c "ip netns exec $s ss -Hltn | grep -q 10.8.0.1:9000"
    start talk $c python3 "$dir/talk.py" talk 10.8.0.1 9000
    goes_on 10
}
goes_on() {
    local before; before=$(wc -l <"$dir/talk.log")
    until_ok "$1" bash -c "[ \$(wc -l <'$dir/talk.log') -gt $before ]"
    kill -0 "${pids[talk]}" || die 'the connection inside the tunnel has broken'
}
# recovers SECONDS FAULT...: from now on there is no fault; the connection inside goes on within the time.
recovers() {
    local most=$1 begun; begun=$(now); shift
    goes_on "$most"
    row "$*" "the connection inside goes on" "$((($(now) - begun) / 1000000)) ms" "$most s"
}
row() { ok "$3"; table+=("$(printf '| %s | %s | %s | %s |' "$@")"); }
all_down() { for name in talk echo client server; do [ -z "${pids[$name]:-}" ] || stop $name; done; }

cat >"$dir/talk.py" <<'PYTHON'
import socket, sys, threading, time
role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if role == "listen":
    listener = socket.create_server((host, port))
    def echo(peer):
        while data := peer.recv(65536):
            peer.sendall(data)
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=echo, args=(peer,), daemon=True).start()
talker = socket.create_connection((host, port), timeout=None)
lines = talker.makefile("r")
for number in range(1 << 30):
    talker.sendall(b"%d\n" % number)
    assert lines.readline() == f"{number}\n", "the connection broke"
    print("alive", number, flush=True)
    time.sleep(0.05)
PYTHON

# Somebody in the middle of the path: passes bytes on, and changes one of them for each line on its standard input.
cat >"$dir/middle.py" <<'PYTHON'
import os, socket, threading
flips = threading.Semaphore(0)
def pass_on(source, sink):
    try:
        while data := source.recv(65536):
            if flips.acquire(blocking=False):
                data = data[:-1] + bytes([data[-1] ^ 1])
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try: end.shutdown(socket.SHUT_RDWR)
        except OSError: pass
listener = socket.create_server(("192.0.2.1", 12345))
def listen():
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("203.0.113.2", 12345))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pass_on, args=pair, daemon=True).start()
threading.Thread(target=listen, daemon=True).start()
print("ready", flush=True)
for line in open(os.environ["FLIPS"]):
    flips.release()
PYTHON

gcc -shared -fPIC -o "$dir/clock.so" "$(dirname "$0")/clock.c"

# ---- the topology

echo "namespaces: client $c, server $s, middle $r"
for ns in $c $s $r; do ip netns add $ns; ip -n $ns link set dev lo up; done
link() {
    ip link add name eth0 netns "$1" type veth peer name "$2" netns $r
    ip -n $r address add "$3.1/24" dev "$2"
    ip -n $r link set dev "$2" up
    ip -n "$1" address add "$3.2/24" dev eth0
    ip -n "$1" link set dev eth0 up
    ip -n "$1" route add default via "$3.1"
}
link $c c 192.0.2
link $s s 203.0.113
in_ns $r sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
until_ok 10 in_ns $c ping -c 1 -W 1 203.0.113.2
umask 077
"$fernvpn" genkey >"$dir/alice.key"
"$fernvpn" genkey >"$dir/bob.key"
printf '%s  # alice\n%s  # bob\n' "$(<"$dir/alice.key")" "$(<"$dir/bob.key")" >"$dir/server.key"
umask 022
block() { in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; policy drop; }'; }
unblock() { in_ns $r nft delete table ip fault; }

cut_carrier() { # and the client has to make a handshake
    local lost; lost=$(lines client 'connection lost')
    in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; tcp dport 12345 tcp flags != syn reject with tcp reset; }'
    logged_again client 'connection lost' "$lost" 10
    unblock
}

# ---- the path

server; client; talk

expect "the link is down for $seconds s, without a word"
in_ns $r ip link set dev c down
fault "$seconds"
in_ns $r ip link set dev c up
recovers 12 "link down for $seconds s"

expect "the path drops everything for $seconds s, and nobody is told"
block
fault "$seconds"
unblock
recovers 12 "path blocked for $seconds s"

expect 'one packet in fifty is lost'
in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; numgen random mod 50 0 drop; }'
head -c 8M /dev/urandom >"$dir/file"
start shelf $s python3 -m http.server --bind 10.8.0.1 --directory "$dir" 8000
until_ok 10 in_ns $s curl -s -o /dev/null http://10.8.0.1:8000/file
quiet $c curl --fail --silent --max-time 60 --output "$dir/fetched" http://10.8.0.1:8000/file
cmp "$dir/file" "$dir/fetched" || die 'the file has changed'
unblock
recovers 10 'packet loss of 2 %, while 8 MiB are fetched unchanged'

expect 'the MTU of the path shrinks to 600'
in_ns $r ip link set dev s mtu 600
in_ns $s ip link set dev eth0 mtu 600
in_ns $r ip link set dev c mtu 600
quiet $c curl --fail --silent --max-time 60 --output "$dir/fetched" http://10.8.0.1:8000/file
cmp "$dir/file" "$dir/fetched" || die 'the file has changed'
recovers 5 'path MTU of 600, while 8 MiB are fetched unchanged'
for at in "$r s" "$s eth0" "$r c"; do in_ns ${at% *} ip link set dev ${at#* } mtu 1500; done
stop shelf

# ---- the peer

expect "the client's machine sleeps for $seconds s"
connections=$(lines client '^connected: '); lost=$(lines server 'no answer to a Ping')
kill -STOP "${pids[client]}"
logged_again server 'no answer to a Ping' "$lost" 12
fault "$((seconds - 7 > 0 ? seconds - 7 : 0))"
kill -CONT "${pids[client]}"
recovers 10 "client suspended until the server has given it up"
[ "$(lines client '^connected: ')" -gt "$connections" ] || die 'it has not connected again'

expect 'the server stops answering'
connections=$(lines client 'connection lost')
kill -STOP "${pids[server]}"
logged_again client 'connection lost' "$connections" 20
kill -CONT "${pids[server]}"
recovers 12 'server suspended until the client has given it up'

expect 'the client vanishes without a FIN, and comes back while its old connection is still there'
block
lost=$(lines server 'client lost')
stop talk; stop client KILL
unblock
in_ns $c nft 'add table ip fault; add chain ip fault c { type filter hook output priority 0; tcp flags rst drop; }'
begun=$(now)
client
row 'half-open: client killed, no FIN arrives' 'it connects again with its address' "$((($(now) - begun) / 1000000)) ms" '10 s'
in_ns $c nft delete table ip fault
start talk $c python3 "$dir/talk.py" talk 10.8.0.1 9000
goes_on 10
block; stop talk; stop client KILL
begun=$(now)
logged_again server 'client lost' "$lost" 12
row 'half-open: client gone for good' 'the server notices (keepalive 2 s + 5 s)' "$((($(now) - begun) / 1000000)) ms" '12 s'
unblock
all_down

expect 'somebody in the middle changes a byte'
mkfifo "$dir/flips"
server
start middle $r env FLIPS="$dir/flips" python3 "$dir/middle.py"
exec 7>"$dir/flips"
logged middle '^ready' 5
start client $c "$fernvpn" client -k "$dir/alice.key" --connect 192.0.2.1:12345
logged client '^connected: ' 10
talk
connections=$(lines client '^connected: ')
echo >&7
logged_again client '^connected: ' "$connections" 10
recovers 10 'a byte of the carrier changed'
exec 7>&-
all_down; stop middle

# ---- the clock

for suite in aes-256-gcm fernet; do
    expect "clocks are set by a day, forward and back, suite $suite"
    echo 0 >"$dir/offset-server"; echo 0 >"$dir/offset-client"
    start server $s env LD_PRELOAD="$dir/clock.so" CLOCK_OFFSET="$dir/offset-server" \
        "$fernvpn" server -k "$dir/server.key" --listen 0.0.0.0:12345 --keepalive 2 --suite $suite
    logged server '^listening on' 10
    start client $c env LD_PRELOAD="$dir/clock.so" CLOCK_OFFSET="$dir/offset-client" \
        "$fernvpn" client -k "$dir/alice.key" --connect 203.0.113.2:12345
    logged client '^connected: ' 10
    talk
    for side in server client; do for offset in 86400 -86400; do
        echo $offset >"$dir/offset-$side"
        recovers 2 "clock of the $side set by $offset s, suite $suite"
        [ "$(lines client '^connected: ')" = 1 ] || die 'the session has ended'
    done; done
    # And handshakes: the client a day behind, the server a day ahead.
    echo 86400 >"$dir/offset-server"
    lost=$(lines client '^connected: ')
    in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; tcp dport 12345 tcp flags != syn reject with tcp reset; }'
    logged client 'connection lost' 10
    unblock
    recovers 10 "handshake with clocks two days apart, suite $suite"
    [ "$(lines client '^connected: ')" -gt "$lost" ] || die 'no handshake'
    logged server 'clocks differ' 1
    all_down
done

# ---- two with one key

expect 'two clients with one key: the newer one stays, the older one says so and ends'
server; client
mv "$dir/client.log" "$dir/first.log"; pids[first]=${pids[client]}
begun=$(now)
start client $c "$fernvpn" client -k "$dir/alice.key" --connect 203.0.113.2:12345 --tun fern1
logged client '^connected: ' 10
until_ok 5 bash -c "! kill -0 ${pids[first]}"
ended=0; wait "${pids[first]}" || ended=$?; unset 'pids[first]'
[ "$ended" = 1 ] || die "status $ended"
grep '^fernvpn: ' "$dir/first.log" | tail -1 | grep -q 'key' || die 'the older one does not say why'
row 'two clients with one key' 'the older one ends, status 1' "$((($(now) - begun) / 1000000)) ms" '5 s'
until_ok 5 in_ns $c ping -c 1 -W 1 10.8.0.1; ok 'the newer one works'
all_down

# ---- the disk

expect 'the disk is full: a ratcheted key does not move, and the handshake is refused in words'
mkdir "$dir/small"
mount -t tmpfs -o size=64k,mode=700 none "$dir/small"
install -m 600 "$dir/alice.key" "$dir/small/client.state"
install -m 600 "$dir/alice.key" "$dir/server.state"
ratcheted() { # SERVER'S-STATE CLIENT'S-STATE
    printf '[server]\nlisten = 0.0.0.0:12345\nkeepalive = 2\n[peer]\nname = alice\nkey-file = %s\nratchet = yes\n' "$1" >"$dir/server.conf"
    printf '[client]\nserver = 203.0.113.2:12345\nkey-file = %s\nratchet = yes\n' "$2" >"$dir/client.conf"
    start server $s "$fernvpn" server -c "$dir/server.conf"
    logged server '^listening on' 10
    start client $c "$fernvpn" client -c "$dir/client.conf"
    logged client '^connected: ' 10
}
for side in client server; do
    if [ $side = client ]; then ratcheted "$dir/server.state" "$dir/small/client.state"; else
        install -m 600 "$dir/alice.key" "$dir/small/server.state"; install -m 600 "$dir/alice.key" "$dir/client.state"
        ratcheted "$dir/small/server.state" "$dir/client.state"; fi
    talk
    cat /dev/zero >"$dir/small/filler" 2>/dev/null || true
    step=$(grep step= "$dir/small/$side.state")
    cut_carrier
    logged $side 'No space left on device' 15
    grep 'No space left' "$dir/$side.log" | tail -1
    [ "$(grep step= "$dir/small/$side.state")" = "$step" ] || die 'it has moved'
    rm "$dir/small/filler"
    recovers 15 "disk of the $side full: no handshake with a key that cannot move"
    all_down
done
umount "$dir/small"

# ---- limits of the machine: the server runs as an ordinary user, without a device

user=$((200000 + $$ % 10000))
ordinary() { # OPTIONS-OF-PRLIMIT...
    chmod 644 "$dir/server.key"
    install -m 755 "$fernvpn" "$dir/fernvpn"
    start server $s setpriv --reuid=$user --clear-groups --no-new-privs --inh-caps=-all prlimit "$@" \
        "$dir/fernvpn" server -k "$dir/server.key" --no-tun --listen 0.0.0.0:12345 --keepalive 2
    logged server '^listening on' 10
    start client $c "$fernvpn" client -k "$dir/alice.key" --connect 203.0.113.2:12345 --no-tun --ping --count 60000
    logged client 'reply from' 10
}
answers() { logged_again client 'reply from' "$(lines client 'reply from')" "$1"; }
# strangers COUNT: so many connections that say nothing, held.
strangers() {
    start strangers $c python3 -c '
import socket, sys, time
held = []
for _ in range(int(sys.argv[1])):
    try: held.append(socket.create_connection(("203.0.113.2", 12345), timeout=2)); held[-1].sendall(b"x")
    except OSError: break
print("held", len(held), flush=True)
time.sleep(600)' "$1"
    logged strangers '^held' 30
}
newcomer() { in_ns $c "$fernvpn" client -k "$dir/bob.key" --connect 203.0.113.2:12345 --no-tun --once --send hello; }
for limit in nofile nproc data; do
    case $limit in
        nofile) word='file descriptors' all=4096 few=60 line='cannot accept a connection' ;;
        nproc) word=threads all=4096 few=20 line='no thread for a connection' ;;
        data) word=memory all=4000000000 few=48000000 line='no thread for a connection' ;;
    esac
    expect "$word: all used up by strangers: who is connected goes on, and who has a key comes in"
    ordinary --$limit=$all:$all
    setpriv --reuid=$user prlimit --pid "${pids[server]}" --$limit=$few:
    strangers 300
    logged server "$line" 10
    grep "$line" "$dir/server.log" | head -1
    answers 5; ok 'who is connected goes on'
    begun=$(now)
    until_ok 20 newcomer
    row "$word used up by strangers" 'who is connected goes on, who has a key comes in' "$((($(now) - begun) / 1000000)) ms" '20 s'
    stop strangers
    begun=$(now)
    setpriv --reuid=$user prlimit --pid "${pids[server]}" --$limit=$all:
    until_ok 20 newcomer
    answers 5
    all_down
done

# ---- programs that fail

expect 'ip or nft fails half-way: the program says which command, and leaves nothing'
mkdir "$dir/bin"
for program in ip nft; do
    real=$(command -v $program)
    cat >"$dir/bin/$program" <<SCRIPT
#!/bin/bash
# Fails the call number FAIL_AT of $program.
if [ "\$FAIL" = $program ]; then
    echo >>"\$FAIL_COUNT"
    [ \$(wc -l <"\$FAIL_COUNT") != "\$FAIL_AT" ] || { echo 'planted failure' >&2; exit 2; }
fi
exec $real "\$@"
SCRIPT
    chmod 755 "$dir/bin/$program"
done
traces() { # NAMESPACE
    in_ns "$1" sh -c 'ip -o link; ip -o address show up; ip rule; ip -6 rule; ip route show table all; nft list ruleset' |
        sed 's/valid_lft.*//; s/ qlen.*//' | grep -v -e 'fe80' -e 'cache' -e 'multicast' -e 'anycast' | sort
}
failures=0
server
for side in server client; do for program in ip nft; do
    [ $side = client ] || stop server
    if [ $side = client ]; then ns=$c; else ns=$s; fi
    before=$(traces $ns)
    for at in $(seq 1 60); do
        : >"$dir/count"
        if [ $side = client ]; then
            set -- client -k "$dir/alice.key" --connect 203.0.113.2:12345 --routes 0.0.0.0/0 --once --send hello
        else
            set -- server -k "$dir/server.key" --listen 0.0.0.0:12345 --push-routes 0.0.0.0/0 --nat eth0
        fi
        start tried $ns env PATH="$dir/bin:$PATH" FAIL=$program FAIL_AT=$at FAIL_COUNT="$dir/count" "$fernvpn" "$@" >/dev/null
        until_ok 30 bash -c "! kill -0 ${pids[tried]} || grep -q '^listening on' '$dir/tried.log'"
        stop tried
        [ "$(wc -l <"$dir/count")" -ge "$at" ] || break
        failures=$((failures + 1))
        after=$(traces $ns)
        # What fails while it is undone is said, and the next start clears it away.
        [ "$before" = "$after" ] || grep -q 'not undone' "$dir/tried.log" ||
            { diff <(echo "$before") <(echo "$after") || true; die "$side: $program failed at call $at, and this is left"; }
    done
    after=$(traces $ns) # the last one had no failure
    [ "$before" = "$after" ] || { diff <(echo "$before") <(echo "$after") || true; die "$side: this is left"; }
    [ "$at" -gt 1 ] || [ "$side-$program" = server-nft ] || die "$side never called $program"
    ok "$side: $program, $((at - 1)) calls"
    [ $side = client ] || server
done; done
[ $failures -ge 8 ] || die "only $failures failures were planted"
row "ip or nft fails half-way ($failures places)" 'said; nothing is left, or the next start clears it away' '-' '-'
all_down

printf '\n| fault | then | measured | at most |\n|---|---|---|---|\n'
printf '%s\n' "${table[@]}"
