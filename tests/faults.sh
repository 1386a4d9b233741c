#!/bin/bash
# What happens when something breaks, and how long does it take until everything works again? As root.
#
#   ┌─ $c: the client ────┐      ┌─ $r: the middle ─────────┐      ┌─ $s: the server ─────┐
#   │ eth0  192.0.2.2/24 ─┼──────┼─ c 192.0.2.1             │      │ eth0 203.0.113.2/24  │
#   │ fern0 10.8.0.x      │      │          203.0.113.1 s ──┼──────┼─                     │
#   └─────────────────────┘      └──────────────────────────┘      │ fern0 10.8.0.1/24    │
#                                                                  └──────────────────────┘
#
# A TCP connection inside the tunnel sends a number every 50 ms, and never connects again. It has to survive, unless the test
# says otherwise. The script measures the time from the end of the fault to the next number, and ends with a table.
# tests/netns.sh covers a killed server or client, a changed address, a cut carrier and a lost device.
#
#   FAULT_SECONDS=30    how long links are down (default: 8)
. "$(dirname "$0")/common/network.sh"
needs ip nft ping curl python3 gcc prlimit setpriv ss
seconds=${FAULT_SECONDS:-8}
chmod 711 "$dir"
table=()

# ---- words of this script

fault() { sleep "$1"; } # this is no wait for something: the fault lasts so long

server() { fern server $s server -k "$dir/server.key" --listen 0.0.0.0:12345 --keepalive 2 "$@"; }
client() { fern client $c client -k "$dir/alice.key" --connect "${middle:-203.0.113.2}":12345 "$@"; }
newcomer() { in_ns $c "$fernvpn" client -k "$dir/bob.key" --connect 203.0.113.2:12345 --no-tun --once --send hello; }
talking() {
    start echo $s python3 "$tests/common/talk.py" listen 9000
    await listening $s 9000
    talk talk $c 10.8.0.1 9000
}
# recovers SECONDS FAULT...: the fault has just ended. The connection inside goes on within the time.
recovers() {
    local most=$1; begun=$(now); shift
    goes_on talk "$most"
    row "$*" "the connection inside goes on" "$(since)" "$most s"
}
since() { echo "$(($(now) - begun)) ms"; } # $begun
in_time() { [ $(($(now) - begun)) -le $(($1 * 1000)) ] || die "only after $(since)"; } # SECONDS
row() { ok "$3"; table+=("$(printf '| %s | %s | %s | %s |' "$@")"); }
all_down() { for name in talk echo client server; do [ -z "${pids[$name]:-}" ] || stop $name; done; }

# A program in the middle of the path passes bytes on. For each line on its standard input it changes one byte.
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

gcc -shared -fPIC -o "$dir/clock.so" "$tests/clock.c"

# ---- the topology

c=$id-c s=$id-s r=$id-r
namespaces $c $s $r
uplink $c $r c 192.0.2
uplink $s $r s 203.0.113
forwards $r
await in_ns $c ping -c 1 -W 1 203.0.113.2
keys alice bob
block() { in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; policy drop; }'; }
unblock() { in_ns $r nft delete table ip fault; }

cut_carrier() { # and the client has to make a handshake
    local lost; lost=$(times client 'connection lost')
    in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; tcp dport 12345 tcp flags != syn reject with tcp reset; }'
    await more client 'connection lost' "$lost"
    unblock
}

# ---- the path

server; client; talking

# After a time without answers, the kernel may wait equally long before it sends again.
again=$((seconds + 4))

expect "the link is down for $seconds s, without a word"
in_ns $r ip link set dev c down
fault "$seconds"
in_ns $r ip link set dev c up
recovers $again "link down for $seconds s"

expect "the path drops everything for $seconds s, and nobody is told"
block
fault "$seconds"
unblock
recovers $again "path blocked for $seconds s"

expect 'one packet in fifty is lost'
in_ns $r nft 'add table ip fault; add chain ip fault c { type filter hook forward priority 0; numgen random mod 50 0 drop; }'
head -c 8M /dev/urandom >"$dir/file"
start shelf $s python3 -m http.server --bind 10.8.0.1 --directory "$dir" 8000
await in_ns $s curl -s -o /dev/null http://10.8.0.1:8000/file
run $c curl --fail --silent --max-time 60 --output "$dir/fetched" http://10.8.0.1:8000/file
cmp "$dir/file" "$dir/fetched" || die 'the file has changed'
unblock
recovers 10 'packet loss of 2 %, while 8 MiB are fetched unchanged'

expect 'the MTU of the path shrinks to 600'
in_ns $r ip link set dev s mtu 600
in_ns $s ip link set dev eth0 mtu 600
in_ns $r ip link set dev c mtu 600
run $c curl --fail --silent --max-time 60 --output "$dir/fetched" http://10.8.0.1:8000/file
cmp "$dir/file" "$dir/fetched" || die 'the file has changed'
recovers 5 'path MTU of 600, while 8 MiB are fetched unchanged'
for at in "$r s" "$s eth0" "$r c"; do in_ns ${at% *} ip link set dev ${at#* } mtu 1500; done
stop shelf

# ---- the peer

expect "the client's machine sleeps for $seconds s"
connections=$(times client '^connected: '); lost=$(times server 'no answer to a Ping')
kill -STOP "${pids[client]}"
within 12 more server 'no answer to a Ping' "$lost"
fault "$((seconds - 7 > 0 ? seconds - 7 : 0))"
kill -CONT "${pids[client]}"
recovers $((again - 2)) "client suspended until the server has given it up"
[ "$(times client '^connected: ')" -gt "$connections" ] || die 'it has not connected again'

expect 'the server stops answering'
connections=$(times client 'connection lost')
kill -STOP "${pids[server]}"
within 20 more client 'connection lost' "$connections"
kill -CONT "${pids[server]}"
recovers 12 'server suspended until the client has given it up'

expect 'the client vanishes without a FIN, and comes back while its old connection is still there'
own=$(address4 client)
block
stop talk; stop client KILL
unblock
in_ns $c nft 'add table ip fault; add chain ip fault c { type filter hook output priority 0; tcp flags rst drop; }'
begun=$(now)
client
in_time 10
[ "$(address4 client)" = "$own" ] || die 'it has another address'
row 'half-open: client killed, no FIN arrives' 'it connects again with its address' "$(since)" '10 s'
in_ns $c nft delete table ip fault
talk talk $c 10.8.0.1 9000
lost=$(times server 'client lost.*no answer to a Ping')
block; stop talk; stop client KILL
begun=$(now)
within 12 more server 'client lost.*no answer to a Ping' "$lost"
row 'half-open: client gone for good' 'the server notices (keepalive 2 s + 5 s)' "$(since)" '12 s'
unblock
all_down

expect 'somebody in the middle changes a byte'
mkfifo "$dir/flips"
server
start middle $r env FLIPS="$dir/flips" python3 "$dir/middle.py"
exec 7>"$dir/flips"
logged middle '^ready'
middle=192.0.2.1 client
talking
connections=$(times client '^connected: ')
echo >&7
await more client '^connected: ' "$connections"
recovers 10 'a byte of the carrier changed'
exec 7>&- # the others have ended, so now nobody has it open
all_down
ends middle

# ---- the clock

for suite in aes-256-gcm fernet; do
    expect "clocks are set by a day, forward and back, suite $suite"
    echo 0 >"$dir/offset-server"; echo 0 >"$dir/offset-client"
    start server $s env LD_PRELOAD="$dir/clock.so" CLOCK_OFFSET="$dir/offset-server" \
        "$fernvpn" server --name "$id-server" -k "$dir/server.key" --listen 0.0.0.0:12345 --keepalive 2 --suite $suite
    ready server
    start client $c env LD_PRELOAD="$dir/clock.so" CLOCK_OFFSET="$dir/offset-client" \
        "$fernvpn" client --name "$id-client" -k "$dir/alice.key" --connect 203.0.113.2:12345
    ready client
    talking
    for side in server client; do for offset in 86400 -86400; do
        echo $offset >"$dir/offset-$side"
        recovers 2 "clock of the $side set by $offset s, suite $suite"
        fault 3 # a keepalive, and a second more
        [ "$(times client '^connected: ')" = 1 ] || die 'the session has ended'
    done; done
    # Handshakes work too, with the client a day behind and the server a day ahead.
    echo 86400 >"$dir/offset-server"
    connections=$(times client '^connected: ')
    cut_carrier
    recovers 10 "handshake with clocks two days apart, suite $suite"
    [ "$(times client '^connected: ')" -gt "$connections" ] || die 'no handshake'
    logged server 'clocks differ'
    all_down
done

# ---- two with one key

expect 'two clients with one key: the newer one stays, the older one says so and ends'
server
fern first $c client -k "$dir/alice.key" --connect 203.0.113.2:12345 --tun fern1
begun=$(now)
client
ends first 5
in_time 5
[ "$ended" = 1 ] || die "status $ended"
grep '^fernvpn: ' "$dir/first.log" | tail -1 | grep -q 'key' || die 'the older one does not say why'
row 'two clients with one key' 'the older one ends, status 1' "$(since)" '5 s'
await in_ns $c ping -c 1 -W 1 10.8.0.1; ok 'the newer one works'
all_down

# ---- the disk

expect 'the disk is full: a ratcheted key does not move, and the handshake is refused in words'
mkdir "$dir/small"
mount -t tmpfs -o size=64k,mode=700 none "$dir/small"
install -m 600 "$dir/alice.key" "$dir/small/client.state"
install -m 600 "$dir/alice.key" "$dir/server.state"
ratcheted() { # SERVER'S-STATE CLIENT'S-STATE
    printf '[server]\nlisten = 0.0.0.0:12345\nkeepalive = 2\n[peer]\nname = alice\nkey-file = %s\nratchet = yes\n%b' "$1" "${bob:-}" >"$dir/server.conf"
    printf '[client]\nserver = 203.0.113.2:12345\nkey-file = %s\nratchet = yes\n' "$2" >"$dir/client.conf"
    fern server $s server -c "$dir/server.conf"
    fern client $c client -c "$dir/client.conf"
}
for side in client server; do
    if [ $side = client ]; then ratcheted "$dir/server.state" "$dir/small/client.state"; else
        install -m 600 "$dir/alice.key" "$dir/small/server.state"; install -m 600 "$dir/alice.key" "$dir/client.state"
        ratcheted "$dir/small/server.state" "$dir/client.state"; fi
    talking
    cat /dev/zero >"$dir/small/filler" 2>/dev/null || true
    step=$(grep step= "$dir/small/$side.state")
    cut_carrier
    logged $side 'No space left on device'
    grep 'No space left' "$dir/$side.log" | tail -1
    [ "$(grep step= "$dir/small/$side.state")" = "$step" ] || die 'it has moved'
    rm "$dir/small/filler"
    recovers 15 "disk of the $side full: no handshake with a key that cannot move"
    all_down
done
umount "$dir/small"

trap '(status=$?; fsfreeze --unfreeze "$dir/small" 2>/dev/null || true; exit $status); clean_up' EXIT # what hangs cannot be killed
truncate --size 8M "$dir/disk"
if mkfs.ext4 -q "$dir/disk" && mount -o loop "$dir/disk" "$dir/small" 2>/dev/null; then
    expect 'a disk hangs on which a ratcheted key has to move: nobody else waits for it'
    install -m 600 "$dir/alice.key" "$dir/small/server.state"
    install -m 600 "$dir/alice.key" "$dir/client.state"
    bob="[peer]\nname = bob\nkey-file = $dir/bob.key\n" ratcheted "$dir/small/server.state" "$dir/client.state"
    talking
    fsfreeze --freeze "$dir/small"
    step=$(grep step= "$dir/client.state")
    cut_carrier
    await fails grep -q "^$step\$" "$dir/client.state" # it has sent its Finished, and waits
    begun=$(now)
    within 5 newcomer
    within 5 in_ns $s "$fernvpn" status "$id-server"
    row 'disk of the server hangs' 'others come in, status answers' "$(since)" '5 s'
    fsfreeze --unfreeze "$dir/small"
    recovers 15 'disk of the server no longer hangs'
    all_down
    umount "$dir/small"
else
    echo '   left out: a disk that hangs (there is no mkfs.ext4, or no loop device)'
fi

# ---- limits of the machine: the server runs as an ordinary user, without a device

user=$((200000 + $$))
ordinary() { # OPTIONS-OF-PRLIMIT...
    chmod 644 "$dir/server.key"
    install -m 755 "$fernvpn" "$dir/fernvpn"
    start server $s setpriv --reuid=$user --clear-groups --no-new-privs --inh-caps=-all prlimit "$@" \
        "$dir/fernvpn" server --name "$id-server" -k "$dir/server.key" --no-tun --client-to-client --listen 0.0.0.0:12345 --keepalive 2
    ready server
    client --no-tun --ping --count 60000
    logged client 'reply from'
}
answers() { within "${1:-5}" more client 'reply from' "$(times client 'reply from')"; }
# strangers COUNT: holds so many connections that send nothing.
strangers() {
    start strangers $c python3 -c '
import socket, sys, time
held = []
for _ in range(int(sys.argv[1])):
    try: held.append(socket.create_connection(("203.0.113.2", 12345), timeout=2)); held[-1].sendall(b"x")
    except OSError: break
print("held", len(held), flush=True)
time.sleep(600)' "$1"
    logged strangers '^held'
}
for limit in nofile nproc data; do
    case $limit in
        nofile) word='file descriptors' all=4096 few=60 line='cannot accept a connection' ;;
        nproc) word=threads all=4096 few=20 line='no thread for a connection' ;;
        data) word=memory all=4000000000 few=80000000 line='no thread for a connection' ;;
    esac
    expect "$word: all used up by strangers: who is connected goes on, and who has a key comes in"
    ordinary --$limit=$all:$all
    setpriv --reuid=$user prlimit --pid "${pids[server]}" --$limit=$few:
    strangers 300
    logged server "$line"
    grep "$line" "$dir/server.log" | head -1
    answers; ok 'who is connected goes on'
    begun=$(now)
    within 20 newcomer
    row "$word used up by strangers" 'who is connected goes on, who has a key comes in' "$(since)" '20 s'
    stop strangers
    setpriv --reuid=$user prlimit --pid "${pids[server]}" --$limit=$all:
    await newcomer
    answers
    all_down
done

expect 'no thread for a client whose connection is full: it loses packets, and not the connection'
ordinary --nproc=4096:4096
fern other $c client -k "$dir/bob.key" --connect 203.0.113.2:12345
setpriv --reuid=$user prlimit --pid "${pids[server]}" --nproc=1:
kill -STOP "${pids[client]}"
in_ns $c ping -q -c 300 -s 8000 -i 0.002 -W 0.1 "$(address4 client)" >"$dir/run.log" || true
logged server 'no thread for a full socket'
kill -CONT "${pids[client]}"
begun=$(now)
answers 15 # what waited is sent with the next record, perhaps too late
row 'no thread for a full connection' 'it goes on' "$(since)" '15 s'
[ "$(times client 'connection lost')" = 0 ] || die 'it was lost'
stop other
all_down

# ---- programs that fail

expect 'ip or nft fails half-way: the program says which command, and leaves nothing'
mkdir "$dir/bin"
for program in ip nft; do
    real=$(command -v $program)
    cat >"$dir/bin/$program" <<SCRIPT
#!/bin/bash
# Fails the call number FAIL_AT of $program.
if [ "\$FAIL" = $program ]; then
    echo "\$*" >>"\$FAIL_COUNT"
    [ \$(wc -l <"\$FAIL_COUNT") != "\$FAIL_AT" ] || { echo 'planted failure' >&2; exit 2; }
fi
exec $real "\$@"
SCRIPT
    chmod 755 "$dir/bin/$program"
done
failures=0
ended_or_listens() { ! kill -0 "${pids[tried]}" || grep -q '^listening on' "$dir/tried.log"; }
# A look may fail in silence, and so may the clean-up before the first change: what it removes need not be there.
may_be_silent() {
    [[ $(sed -n "${at}p" "$dir/count") =~ (^| )(show|list)( |$) ]] ||
        fails grep -qE ' (set|add|replace) |^-(i|f)' <(head -n "$at" "$dir/count")
}
left() { ! diff "$dir/before" <(state $ns) >"$dir/left.log"; }
server
for side in server client; do for program in ip nft; do
    [ $side = client ] || stop server
    if [ $side = client ]; then ns=$c; else ns=$s; fi
    state $ns >"$dir/before"
    for at in $(seq 1 60); do
        : >"$dir/count"
        if [ $side = client ]; then
            set -- client -k "$dir/alice.key" --connect 203.0.113.2:12345 --routes 0.0.0.0/0 --once --send hello
        else
            set -- server -k "$dir/server.key" --listen 0.0.0.0:12345 --push-routes 0.0.0.0/0 --nat eth0
        fi
        start tried $ns env PATH="$dir/bin:$PATH" FAIL=$program FAIL_AT=$at FAIL_COUNT="$dir/count" "$fernvpn" "$@" --name "$id-tried" >/dev/null
        await ended_or_listens
        kill "${pids[tried]}" 2>/dev/null || true
        ends tried
        [ "$(wc -l <"$dir/count")" -ge "$at" ] || break
        failures=$((failures + 1))
        may_be_silent || grep -q "$program .*planted failure" "$dir/tried.log" ||
            die "$side: $program failed at call $at, and it is not said"
        # A failure while something is undone is logged, and the next start removes the rest.
        ! left || grep -q 'not undone' "$dir/tried.log" || die "$side: $program failed at call $at, and something is left"
    done
    ! left || die "$side: something is left" # the last one had no failure
    [ "$at" -gt 1 ] || [ "$side-$program" = server-nft ] || die "$side never called $program"
    ok "$side: $program, $((at - 1)) calls"
    [ $side = client ] || server
done; done
[ $failures -ge 8 ] || die "only $failures failures were planted"
row "ip or nft fails half-way ($failures places)" 'said; nothing is left, or the next start clears it away' '-' '-'
all_down

printf '\n| fault | then | measured | at most |\n|---|---|---|---|\n'
printf '%s\n' "${table[@]}"
