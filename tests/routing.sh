#!/bin/bash
# Where do a client's packets go, and what leaks? One client, one server, a network in between that does not mean well.
#
#   ┌─ $c: the client ────┐      ┌─ $r: the network, and a web server in it ┐      ┌─ $s: the server ──────┐
#   │ eth0 192.0.2.2      ┼──────┼ c 192.0.2.1     203.0.113.9  s 198.51.100.1 ┼──────┼ eth0 198.51.100.2     │
#   │      2001:db8:c::2  │      │   2001:db8:c::1 2001:db8:9::9  2001:db8:5::1 │      │      2001:db8:5::2    │
#   │ fern0 10.8.0.x      │      └─────────────────────────────────────────────┘      │ fern0 10.8.0.1        │
#   └─────────────────────┘                                                           └───────────────────────┘
#
# The web server answers with the address it was asked from: 192.0.2.2 past the tunnel, 10.8.0.x through it. $r counts
# what comes from the client and is not the carrier. As root; names are unique; nothing waits for a fixed time.
#   FERNVPN=target/release/fernvpn    the program            KEEP_LOGS=1    show all logs at the end
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
passed=0
skip() { printf '\nSKIPPED: the tests of routing: %s\n' "$*"; echo 'routing: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'they need root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'this root may not make network namespaces'
for tool in ip nft ping curl python3 ss setpriv; do
    command -v $tool >/dev/null || { echo "routing.sh needs $tool (Debian: iproute2 nftables iputils-ping curl python3 util-linux)" >&2; exit 1; }
done
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

id=fernr$$
c=$id-c r=$id-r s=$id-s
dir=$(mktemp -d)
declare -A pids=()
clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    exec 2>/dev/null
    if [ $status != 0 ] || [ -n "${KEEP_LOGS:-}" ]; then
        rm -f "$dir"/before?.log; for log in "$dir"/*.log; do [ -s "$log" ] && printf -- '--- %s\n' "${log##*/}" && tail -n 40 "$log"; done
    fi
    for ns in $c $r $s $id-n; do
        ip netns pids $ns | xargs -r kill -KILL
        ip netns del $ns
    done
    for pid in "${pids[@]}"; do kill -KILL "$pid"; done
    wait
    rm -rf "$dir"
    if [ $status = 0 ]; then echo "routing: $passed passed, 0 failed"; else echo "routing: $passed passed, 1 failed (status $status)"; fi
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

expect() { printf '\n== %s\n' "$*"; }
ok() { passed=$((passed + 1)); echo "   ok${1:+: $*}"; }
die() { echo "!! $*"; exit 1; }
in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
quiet() { local ns=$1; shift; echo "[${ns##*-}] $*"; in_ns "$ns" "$@" >"$dir/quiet" 2>&1 || { cat "$dir/quiet"; die "failed: $*"; }; }
until_ok() {
    local deadline=$(($(date +%s%N) + $1 * 1000000000)); shift
    until "$@" >/dev/null 2>&1; do [ "$(date +%s%N)" -lt $deadline ] || die "not within the time: $*"; sleep 0.05; done
}
start() {
    local name=$1 ns=$2; shift 2
    echo "[${ns##*-}] $* &"
    : >"$dir/$name.log"
    ip netns exec "$ns" "$@" >"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}
stop() {
    echo "kill -${2:-TERM} $1"
    kill "-${2:-TERM}" "${pids[$1]}"
    ended=0; wait "${pids[$1]}" 2>/dev/null || ended=$?
    unset "pids[$1]"
}
logged() { until_ok "$3" grep -q -- "$2" "$dir/$1.log"; }
server() { start server $s "$fernvpn" server -k "$dir/key" --listen '[::]:12345' "$@"; logged server '^listening on' 10; }
client() {
    start client $c "$fernvpn" client -k "$dir/key" --connect 198.51.100.2:12345 "$@"
    logged client '^connected: ' 10
    own=$(sed -n 's/^connected: \([0-9.]*\).*/\1/p' "$dir/client.log" | tail -1)
}
down() { stop client; [ $ended = 0 ] || die "the client ended with status $ended"; }
# asked ADDRESS [OPTION...]: by which address the web server was asked, or nothing.
asked() { local at=$1; shift; in_ns $c curl -s --max-time 2 "$@" "http://$at:8000/" || true; }
# seen_as EXPECTED ADDRESS [OPTION...]
seen_as() {
    local want=$1 got; shift
    got=$(asked "$@")
    # shellcheck disable=SC2053
    [[ $got == $want ]] || die "asked $*: seen as '$got', expected '$want'"
    ok "$* seen as ${got:-nobody}"
}
leaked() { in_ns $r nft list counter inet seen leaked | awk '/packets/ { print $2 }'; }
no_leak() { local n; n=$(leaked); [ "$n" = 0 ] || { in_ns $r nft list table inet seen; die "$n packets went past the tunnel"; }; ok 'nothing went past the tunnel'; }
count_anew() { in_ns $r nft reset counters >/dev/null; }
# All that a client could have changed.
state() { in_ns $c sh -c 'ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all | grep -v "^multicast\|expires\|fe80"; nft list ruleset; ip -o link; ls -l /run/systemd 2>/dev/null; true' | sed 's/ *expires [0-9]*sec//'; }

# One TCP connection that goes on: "alive N" in its log.
cat >"$dir/talk.py" <<'PYTHON'
import socket, sys, threading, time
role, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if role == "listen":
    listener = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    def echo(peer):
        while data := peer.recv(65536):
            peer.sendall(data)
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
talker = socket.create_connection((host, port), timeout=20)
lines = talker.makefile("r")
for number in range(1 << 30):
    talker.sendall(b"%d\n" % number)
    assert lines.readline() == f"{number}\n", "the connection broke"
    print("alive", number, flush=True)
    time.sleep(0.05)
PYTHON
cat >"$dir/web.py" <<'PYTHON'
import http.server, socket
class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].removeprefix("::ffff:").encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("::", 8000), Web).serve_forever()
PYTHON
goes_on() {
    local before; before=$(wc -l <"$dir/$1.log")
    until_ok 10 bash -c "[ \$(wc -l <'$dir/$1.log') -gt $((before + 3)) ]"
    kill -0 "${pids[$1]}" || die "$1 has ended"
}

# ---- the topology

for ns in $c $r $s; do ip netns add $ns; quiet $ns ip link set dev lo up; done
link() {
    ip link add name eth0 netns "$1" type veth peer name "$2" netns $r
    quiet $r ip address add "$3.1/24" dev "$2"; quiet $r ip address add "$4::1/64" dev "$2" nodad; quiet $r ip link set dev "$2" up
    quiet "$1" ip address add "$3.2/24" dev eth0; quiet "$1" ip address add "$4::2/64" dev eth0 nodad; quiet "$1" ip link set dev eth0 up
    quiet "$1" ip route add default via "$3.1"; quiet "$1" ip route add default via "$4::1"
}
link $c c 192.0.2 2001:db8:c
link $s s 198.51.100 2001:db8:5
quiet $r ip address add 203.0.113.9/32 dev lo
quiet $r ip address add 2001:db8:9::9/128 dev lo
quiet $r ip route add 10.8.0.0/24 via 198.51.100.2 # the server makes no NAT here: this is the way back
quiet $r ip route add fd0f:e12e::/64 via 2001:db8:5::2
for ns in $r $s; do quiet $ns sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'; done
quiet $s ip route replace default via 2001:db8:5::1
in_ns $r nft -f - <<'NFT'
table inet seen {
    counter leaked { }
    chain from_client {
        type filter hook prerouting priority -300
        iifname != "c" return
        ip daddr 198.51.100.2 tcp dport 12345 return
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } return
        tcp sport { 22, 40022 } return
        counter name leaked
    }
}
NFT
start web $r python3 "$dir/web.py"
start web-server $s python3 "$dir/web.py"
start ssh $c python3 "$dir/talk.py" listen :: 22
start ssh-high $c python3 "$dir/talk.py" listen :: 40022
until_ok 10 in_ns $r curl -s http://203.0.113.9:8000/
until_ok 10 in_ns $c curl -s http://198.51.100.2:8000/
until_ok 10 bash -c "ip netns exec $c ss -Hltn | grep -q :40022 && ip netns exec $c ss -Hltn | grep -q :22"
until_ok 10 in_ns $c curl -s 'http://[2001:db8:9::9]:8000/'
(umask 077; "$fernvpn" genkey >"$dir/key")
state >"$dir/before"
web4=203.0.113.9 web6='[2001:db8:9::9]'

expect 'without a tunnel: asked past it, and the counter counts'
seen_as 192.0.2.2 $web4
seen_as 2001:db8:c::2 $web6
[ "$(leaked)" -gt 5 ] || die 'the counter does not count'

expect 'a full tunnel: IPv4 and IPv6 through it, only the carrier outside'
start before4 $r python3 "$dir/talk.py" talk 192.0.2.2 22
start before6 $r python3 "$dir/talk.py" talk 2001:db8:c::2 22
goes_on before4; goes_on before6
server --nat no --push-routes 0.0.0.0/0,::/0
client
count_anew
seen_as '10.8.0.*' $web4
seen_as 'fd0f:e12e::*' $web6
no_leak

expect 'connections from outside, older and newer than the tunnel, stay (the SSH session by which it was started)'
goes_on before4; goes_on before6; ok 'older'
start after4 $r python3 "$dir/talk.py" talk 192.0.2.2 22; goes_on after4
start after6 $r python3 "$dir/talk.py" talk 2001:db8:c::2 22; goes_on after6
start high4 $r python3 "$dir/talk.py" talk 192.0.2.2 40022; goes_on high4
start high6 $r python3 "$dir/talk.py" talk 2001:db8:c::2 40022; goes_on high6
ok 'newer'
quiet $r ping -c 1 -W 1 192.0.2.2; quiet $r ping -c 1 -W 1 2001:db8:c::2; ok 'and pings are answered'
for name in after4 after6 high4 high6; do stop $name; done
count_anew

expect 'TunnelVision: routes in the main table, however long, do not win'
for route in 203.0.113.9/32 0.0.0.0/1 128.0.0.0/1; do quiet $c ip route add $route via 192.0.2.1 dev eth0; done
quiet $c ip -6 route add 2001:db8:9::9/128 via 2001:db8:c::1 dev eth0
seen_as '10.8.0.*' $web4
seen_as 'fd0f:e12e::*' $web6
no_leak

expect 'TunnelCrack LocalNet: public addresses that are said to be local do not leave there'
quiet $c ip address add 203.0.113.77/24 dev eth0
seen_as '10.8.0.*' $web4
no_leak
expect "TunnelCrack ServerIP: what is not the carrier goes to the server's address through the tunnel"
seen_as '10.8.0.*' 198.51.100.2
no_leak
quiet $c ip address del 203.0.113.77/24 dev eth0

expect 'a program that binds to the outer address gets nothing, nothing leaks (WebRTC); to the device: leaks without kill switch'
seen_as '' $web4 --interface 192.0.2.2
no_leak
seen_as 192.0.2.2 $web4 --interface eth0
count_anew

expect 'CVE-2019-14899: packets to the tunnel address by the physical link are dropped'
in_ns $c nft 'table inet probe { counter reached { }; chain i { type filter hook input priority 0; iifname "eth0" ip daddr '"$own"' counter name reached; }; }'
quiet $r ip route add "$own/32" via 192.0.2.2
in_ns $r ping -c 2 -i 0.1 -W 0.3 "$own" >/dev/null && die 'it was answered'
reached() { in_ns $c nft list counter inet probe reached | awk '/packets/ { print $2 }'; }
[ "$(reached)" = 0 ] || die 'they reached the machine'
ok 'with'
in_ns $c nft flush chain inet fernvpn-fern0 arriving
in_ns $r ping -c 2 -i 0.1 -W 0.3 "$own" >/dev/null || true
[ "$(reached)" -gt 0 ] || die 'the probe does not work'
ok 'they do without the rule'
quiet $c nft delete table inet probe
quiet $r ip route del "$own/32" via 192.0.2.2

expect 'an orderly stop leaves nothing'
for route in 203.0.113.9/32 0.0.0.0/1 128.0.0.0/1; do quiet $c ip route del $route via 192.0.2.1 dev eth0; done
quiet $c ip -6 route del 2001:db8:9::9/128 via 2001:db8:c::1 dev eth0
down
diff "$dir/before" <(state) || die 'something is left'
ok
goes_on before4; goes_on before6; ok 'the older connections go on'

expect 'without: routes in the main table and an exception for the server, as usual, lose to the network'
quiet $c ip route add 198.51.100.2/32 via 192.0.2.1 dev eth0
client --routes none
quiet $c ip route add 0.0.0.0/1 dev fern0; quiet $c ip route add 128.0.0.0/1 dev fern0
seen_as '10.8.0.*' $web4
seen_as 192.0.2.2 198.51.100.2; ok 'ServerIP leaks'
quiet $c ip route add 203.0.113.9/32 via 192.0.2.1 dev eth0
seen_as 192.0.2.2 $web4; ok 'TunnelVision leaks, and LocalNet is such a route too'
quiet $c ip route del 203.0.113.9/32 via 192.0.2.1 dev eth0
quiet $c ip route del 198.51.100.2/32 via 192.0.2.1 dev eth0
down

expect 'strict reverse path filtering does not cut the carrier'
for name in all eth0; do quiet $c sh -c "echo 1 >/proc/sys/net/ipv4/conf/$name/rp_filter"; done
client
seen_as '10.8.0.*' $web4
goes_on before4; ok 'nor connections from outside'
down
for name in all eth0; do quiet $c sh -c "echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter"; done
diff "$dir/before" <(state) || die 'something is left'

expect 'split tunnel: only what is asked for'
client --routes 203.0.113.0/24
seen_as '10.8.0.*' $web4
seen_as 2001:db8:c::2 $web6
seen_as 192.0.2.2 198.51.100.2
down

expect 'kill -9 of the client: the next start takes the leftovers over, and its stop leaves nothing'
for _ in 1 2; do
    client
    stop client KILL
    until_ok 5 bash -c "! ip netns exec $c ip link show dev fern0"
done
! diff "$dir/before" <(state) >/dev/null || die 'there is nothing left to clear'
client
[ "$(in_ns $c ip rule | grep -c 12345)" = 1 ] || die 'rules pile up'
down
diff "$dir/before" <(state) || die 'something is left'
ok

stop server
expect 'a tunnel without IPv6: IPv6 is refused at once and does not leak'
server --nat no --push-routes 0.0.0.0/0 --address 10.8.0.1/24
client --routes none
seen_as 2001:db8:c::2 $web6; ok 'it would leak'
down
client
count_anew
seen_as '10.8.0.*' $web4
seen_as '' $web6
no_leak
goes_on before6; ok 'connections from outside go on'
start after6 $r python3 "$dir/talk.py" talk 2001:db8:c::2 22; goes_on after6; stop after6; ok 'and begin'
down
for name in before4 before6; do stop $name; done
stop server

expect 'the kill switch: nothing leaks while the server is away, nor after the client is killed'
server --nat no --push-routes 0.0.0.0/0,::/0
client --kill-switch
count_anew
seen_as '10.8.0.*' $web4
seen_as '' $web4 --interface eth0
stop server KILL
logged client 'connection lost' 10
seen_as '' $web4; seen_as '' $web6; seen_as '' $web4 --interface eth0
no_leak
server --nat no --push-routes 0.0.0.0/0,::/0
until_ok 15 in_ns $c curl -s --max-time 1 http://$web4:8000/
seen_as '10.8.0.*' $web4
no_leak
stop client KILL
seen_as '' $web4; seen_as '' $web6
no_leak
client --kill-switch; seen_as '10.8.0.*' $web4; no_leak
stop client KILL
quiet $c "$fernvpn" unlock
until_ok 5 bash -c "! ip netns exec $c ip link show dev fern0"
seen_as 192.0.2.2 $web4; ok 'unlock'
client --kill-switch
down
diff "$dir/before" <(state) || die 'something is left'
seen_as 192.0.2.2 $web4; ok 'an orderly stop ends it'
! in_ns $c "$fernvpn" unlock 2>/dev/null || die 'unlocked what was not locked'

stop server
expect 'resolvers: by systemd-resolved, and a clear word where there is none'
server --nat no --push-routes 0.0.0.0/0 --push-dns 10.8.0.1,fd0f:e12e::1
mkdir "$dir/bin"
printf '#!/bin/sh\necho "$@" >>%s/resolvectl\n' "$dir" >"$dir/bin/resolvectl"
chmod +x "$dir/bin/resolvectl"
client_path=$PATH; PATH=$dir/bin:$PATH
client; down
PATH=$client_path
diff - "$dir/resolvectl" <<'TEXT' || die 'other calls than expected'
dns fern0 10.8.0.1 fd0f:e12e::1
domain fern0 ~.
revert fern0
TEXT
ok 'set and reverted'
if ! command -v resolvectl >/dev/null; then
    client; grep -q 'resolvers are not in use.*resolvectl' "$dir/client.log" || die 'not a word'
    down; ok 'said so'
fi

expect 'a command of an ordinary user, in a private network'
chmod 755 "$dir"; install -m 755 "$fernvpn" "$dir/fernvpn"; install -m 600 -o 65534 -g 65534 "$dir/key" "$dir/user.key"
# as_user COMMAND...: where /dev/net/tun may be opened by everybody, as is usual.
as_user() {
    # shellcheck disable=SC2016
    in_ns $c unshare -m sh -c 'mount -t tmpfs tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && mkdir -p /run/dbus &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ "$@"' sh "$@"
}
# SIGTERM to the client itself, not to its command.
end_users_client() { ip netns pids $c | while read -r pid; do grep -qas "^$dir/fernvpn.client" "/proc/$pid/cmdline" && kill "$pid"; done || true; }
user="$dir/fernvpn client -k $dir/user.key --connect 198.51.100.2:12345"
if [ "$(cat /proc/sys/user/max_user_namespaces)" = 0 ]; then
    echo '   SKIPPED: user namespaces are forbidden here'
else
    count_anew
    # shellcheck disable=SC2086
    out=$(as_user $user -- sh -c "curl -s --max-time 2 http://$web4:8000/; echo; id -u; cat /etc/resolv.conf; ip -o link | wc -l" 2>"$dir/user.log")
    printf '%s\n' "$out"
    [[ $out == 10.8.0.*$'\n65534\nnameserver 10.8.0.1\nnameserver fd0f:e12e::1\n2' ]] || die 'not as expected'
    ok 'curl, as the user, with the resolver and no other interface'
    grep -q '^connected: ' "$dir/user.log" || die 'no word of the connection on stderr'
    no_leak
    diff "$dir/before" <(state) || die 'the host has changed'
    ok 'the host is as it was'
    for case in '7 exit\ 7' '143 kill\ \$\$' '127 /nowhere/nothing' '126 /etc/passwd'; do
        want=${case%% *}
        case ${case#* } in /*) words=("${case#* }") ;; *) eval "words=(sh -c ${case#* })" ;; esac
        got=0
        # shellcheck disable=SC2086
        as_user $user -- "${words[@]}" >"$dir/quiet" 2>&1 || got=$?
        [ $got = "$want" ] || { cat "$dir/quiet"; die "status $got for ${words[*]}, expected $want"; }
        ok "status $got: ${words[*]}"
    done
    # shellcheck disable=SC2086
    as_user $user -- sh -c 'trap "echo had TERM; exit 5" TERM; echo ready; while :; do sleep 0.1; done' >"$dir/term.log" 2>&1 &
    shell=$!
    until_ok 10 grep -q ready "$dir/term.log"
    end_users_client
    got=0; wait $shell || got=$?
    [ $got = 5 ] && grep -q 'had TERM' "$dir/term.log" || die "SIGTERM: status $got"
    ok 'SIGTERM is passed on'
    cat >"$dir/terminal.py" <<'PYTHON'
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
def wait_for(text):
    global seen
    end = time.time() + 15
    while text not in seen:
        assert time.time() < end, seen
        seen += os.read(terminal, 4096)
    seen = seen.split(text, 1)[1]
def type(text): os.write(terminal, text)
wait_for(b"$ ")
type(b"sleep 100\n"); time.sleep(0.5); type(b"\x03"); type(b"echo interr''upted $?\n"); wait_for(b"interrupted 130")
type(b"sleep 100\n"); time.sleep(0.5); type(b"\x1a"); wait_for(b"Stopped"); type(b"jobs; kill %1; echo sus''pended\n"); wait_for(b"suspended")
type(b"tty && exit 9\n"); wait_for(b"/dev/pts")
while True:
    try:
        if not os.read(terminal, 4096): break
    except OSError: break
print("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PYTHON
    # shellcheck disable=SC2086
    out=$(as_user env PS1='$ ' TERM=dumb python3 "$dir/terminal.py" $user -- bash --norc 2>&1) || { echo "$out"; die 'no terminal'; }
    [ "$out" = 'status 9' ] || die "$out"
    ok 'a shell with job control on a terminal: Ctrl-C, Ctrl-Z, exit status'

    expect 'the command has no network while the tunnel is down, and has it again'
    # shellcheck disable=SC2086
    as_user $user -- sh -c "while :; do echo got:\$(curl -s --max-time 1 http://$web4:8000/); sleep 0.1; done" >"$dir/loop.log" 2>&1 &
    shell=$!
    until_ok 10 grep -q 'got:10.8.0' "$dir/loop.log"
    stop server KILL
    : >"$dir/loop.log"
    until_ok 10 grep -q 'got:$' "$dir/loop.log"
    count_anew
    server --nat no --push-routes 0.0.0.0/0 --push-dns 10.8.0.1
    : >"$dir/loop.log"
    until_ok 20 grep -q 'got:10.8.0' "$dir/loop.log"
    ! grep -q 'got:192' "$dir/loop.log" || die 'it got out another way'
    no_leak
    end_users_client
    wait $shell || true
    ok
fi

expect 'a device in a named network namespace'
ip netns add $id-n
client --namespace $id-n
[ "$(in_ns $id-n curl -s --max-time 2 http://$web4:8000/)" = "$own" ] || die 'not through the tunnel'
diff "$dir/before" <(state) || die 'the host has changed'
down
! in_ns $id-n ip link show dev fern0 2>/dev/null || die 'the device is left'
ok
stop server
