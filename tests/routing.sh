#!/bin/bash
# Where do a client's packets go, and what leaks? There are one client, one server, and a hostile network in between.
#
#   ┌─ $c: the client ────┐      ┌─ $r: the network, and a web server in it ┐      ┌─ $s: the server ──────┐
#   │ eth0 192.0.2.2      ┼──────┼ c 192.0.2.1     203.0.113.9  s 198.51.100.1 ┼──────┼ eth0 198.51.100.2     │
#   │      2001:db8:c::2  │      │   2001:db8:c::1 2001:db8:9::9  2001:db8:5::1 │      │      2001:db8:5::2    │
#   │ fern0 10.8.0.x      │      └─────────────────────────────────────────────┘      │ fern0 10.8.0.1        │
#   └─────────────────────┘                                                           └───────────────────────┘
#
# The web server answers with the address that it sees: 192.0.2.2 past the tunnel, 10.8.0.x through it. $r counts what comes
# from the client and is not the carrier.
. "$(dirname "$0")/common/network.sh"
needs ip nft ping curl python3 ss setpriv

server() { fern server $s server -k "$dir/server.key" --listen '[::]:12345' "$@"; }
client() { fern client $c client -k "$dir/client.key" --connect 198.51.100.2:12345 "$@"; own=$(address4 client); }
down() { stop client; [ $ended = 0 ] || die "the client ended with status $ended"; }
# seen_as EXPECTED ADDRESS [OPTION...]: which client address that web server sees, or none if it is not reached.
seen_as() {
    local want=$1 at=$2 most=2 got; shift 2
    [ -z "$want" ] || most=20
    got=$(in_ns $c curl -s --max-time $most "$@" "http://$at:8000/" || true)
    # shellcheck disable=SC2053
    [[ $got == $want ]] || die "asked $at $*: seen as '$got', expected '$want'"
    ok "$at $* seen as ${got:-nobody}"
}
leaked() { counted $r seen leaked; }
no_leak() { local n; n=$(leaked); [ "$n" = 0 ] || { in_ns $r nft list table inet seen; die "$n packets went past the tunnel"; }; ok 'nothing went past the tunnel'; }
count_anew() { in_ns $r nft reset counters >/dev/null; }
as_before() { diff "$dir/before" <(state $c) || die 'something is left'; }

# ---- the topology

c=$id-c r=$id-r s=$id-s
namespaces $c $r $s
uplink $c $r c 192.0.2 2001:db8:c
uplink $s $r s 198.51.100 2001:db8:5
address $r lo 203.0.113.9/32 2001:db8:9::9/128
ip -n $r route add 10.8.0.0/24 via 198.51.100.2 # the server makes no NAT here: this is the way back
ip -n $r route add fd0f:e12e::/64 via 2001:db8:5::2
forwards $r; forwards $s
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
start web $r python3 "$tests/common/web.py" 8000
start web-server $s python3 "$tests/common/web.py" 8000
start ssh $c python3 "$tests/common/talk.py" listen 22
start ssh-high $c python3 "$tests/common/talk.py" listen 40022
for at in "$r 8000" "$s 8000" "$c 22" "$c 40022"; do await listening ${at% *} ${at#* }; done
for to in 203.0.113.9 198.51.100.2 '[2001:db8:9::9]'; do await in_ns $c curl -s --max-time 1 "http://$to:8000/"; done
keys client second
state $c >"$dir/before"
web4=203.0.113.9 web6='[2001:db8:9::9]'

expect 'without a tunnel: asked past it, and the counter counts'
seen_as 192.0.2.2 $web4
seen_as 2001:db8:c::2 $web6
[ "$(leaked)" -gt 5 ] || die 'the counter does not count'

expect 'a full tunnel: IPv4 and IPv6 through it, only the carrier outside'
talk before4 $r 192.0.2.2 22
talk before6 $r 2001:db8:c::2 22
server --nat no --push-routes 0.0.0.0/0,::/0
client
count_anew
seen_as '10.8.0.*' $web4
seen_as 'fd0f:e12e::*' $web6
no_leak

expect 'connections from outside, older and newer than the tunnel, stay (the SSH session by which it was started)'
goes_on before4; goes_on before6; ok 'older'
talk after4 $r 192.0.2.2 22
talk after6 $r 2001:db8:c::2 22
talk high4 $r 192.0.2.2 40022
talk high6 $r 2001:db8:c::2 40022
ok 'newer'
run $r ping -c 1 192.0.2.2; run $r ping -c 1 2001:db8:c::2; ok 'and pings are answered'
for name in after4 after6 high4 high6; do stop $name; done
count_anew

expect 'TunnelVision: routes in the main table, however long, do not win'
for route in 203.0.113.9/32 0.0.0.0/1 128.0.0.0/1; do run $c ip route add $route via 192.0.2.1 dev eth0; done
run $c ip -6 route add 2001:db8:9::9/128 via 2001:db8:c::1 dev eth0
seen_as '10.8.0.*' $web4
seen_as 'fd0f:e12e::*' $web6
no_leak

expect 'TunnelCrack LocalNet: public addresses that are said to be local do not leave there'
run $c ip address add 203.0.113.77/24 dev eth0
seen_as '10.8.0.*' $web4
no_leak
expect "TunnelCrack ServerIP: what is not the carrier goes to the server's address through the tunnel"
seen_as '10.8.0.*' 198.51.100.2
no_leak
run $c ip address del 203.0.113.77/24 dev eth0

expect 'a program that binds to the outer address gets nothing, nothing leaks (WebRTC); to the device: leaks without kill switch'
seen_as '' $web4 --interface 192.0.2.2
no_leak
seen_as 192.0.2.2 $web4 --interface eth0
count_anew

expect 'CVE-2019-14899: packets to the tunnel address by the physical link are dropped'
in_ns $c nft 'table inet probe { counter reached { }; chain i { type filter hook input priority 0; iifname "eth0" ip daddr '"$own"' counter name reached; }; }'
run $r ip route add "$own/32" via 192.0.2.2
in_ns $r ping -c 2 -i 0.1 -W 0.3 "$own" >/dev/null && die 'it was answered'
reached() { in_ns $c nft list counter inet probe reached | awk '/packets/ { print $2 }'; }
[ "$(reached)" = 0 ] || die 'they reached the machine'
ok 'with'
in_ns $c nft flush chain inet fernvpn-fern0 arriving
in_ns $r ping -c 2 -i 0.1 -W 0.3 "$own" >/dev/null || true
[ "$(reached)" -gt 0 ] || die 'the probe does not work'
ok 'they do without the rule'
run $c nft delete table inet probe
run $r ip route del "$own/32" via 192.0.2.2

expect 'an orderly stop leaves nothing'
for route in 203.0.113.9/32 0.0.0.0/1 128.0.0.0/1; do run $c ip route del $route via 192.0.2.1 dev eth0; done
run $c ip -6 route del 2001:db8:9::9/128 via 2001:db8:c::1 dev eth0
down
as_before
ok
goes_on before4; goes_on before6; ok 'the older connections go on'

expect 'without: routes in the main table and an exception for the server, as usual, lose to the network'
run $c ip route add 198.51.100.2/32 via 192.0.2.1 dev eth0
client --routes none
run $c ip route add 0.0.0.0/1 dev fern0; run $c ip route add 128.0.0.0/1 dev fern0
seen_as '10.8.0.*' $web4
seen_as 192.0.2.2 198.51.100.2; ok 'ServerIP leaks'
run $c ip route add 203.0.113.9/32 via 192.0.2.1 dev eth0
seen_as 192.0.2.2 $web4; ok 'TunnelVision leaks, and LocalNet is such a route too'
run $c ip route del 203.0.113.9/32 via 192.0.2.1 dev eth0
run $c ip route del 198.51.100.2/32 via 192.0.2.1 dev eth0
down

expect 'strict reverse path filtering does not cut the carrier'
for name in all eth0; do run $c sh -c "echo 1 >/proc/sys/net/ipv4/conf/$name/rp_filter"; done
client
seen_as '10.8.0.*' $web4
goes_on before4; ok 'nor connections from outside'
down
for name in all eth0; do run $c sh -c "echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter"; done
as_before

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
    await no_device $c
done
! diff "$dir/before" <(state $c) >/dev/null || die 'there is nothing left to clear'
client
[ "$(in_ns $c ip rule | grep -c 12345)" = 1 ] || die 'rules pile up'
down
as_before
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
talk after6 $r 2001:db8:c::2 22; stop after6; ok 'and begin'
down

expect 'a machine without IPv6 has a tunnel for IPv4; where only the tunnel has none, it says so, or has a kill switch'
stop server
server --nat no --push-routes 0.0.0.0/0,::/0
run $c sysctl -qw net.ipv6.conf.default.disable_ipv6=1
client
seen_as '10.8.0.*' $web4
seen_as 2001:db8:c::2 $web6
grep -q 'IPv6 goes past the tunnel' "$dir/client.log" || die 'not a word'
down
client --kill-switch
seen_as '10.8.0.*' $web4
seen_as '' $web6
down
run $c sysctl -qw net.ipv6.conf.default.disable_ipv6=0
as_before
stop server

expect 'the kill switch: nothing leaks while the server is away, nor after the client is killed'
server --nat no --push-routes 0.0.0.0/0,::/0
client --kill-switch
count_anew
seen_as '10.8.0.*' $web4
seen_as '' $web4 --interface eth0
stop server KILL
logged client 'connection lost'
seen_as '' $web4; seen_as '' $web6; seen_as '' $web4 --interface eth0
no_leak
goes_on before4; goes_on before6; ok 'connections from outside go on'
server --nat no --push-routes 0.0.0.0/0,::/0
await in_ns $c curl -s --max-time 1 http://$web4:8000/
seen_as '10.8.0.*' $web4
no_leak
stop client KILL
seen_as '' $web4; seen_as '' $web6
no_leak
client --kill-switch; seen_as '10.8.0.*' $web4; no_leak
stop client KILL
run $c "$fernvpn" clean-up
goes_on before4; goes_on before6
for name in after4:192.0.2.2 after6:2001:db8:c::2; do talk ${name%%:*} $r ${name#*:} 22; stop ${name%%:*}; done
ok 'connections from outside go on and begin, also after clean-up'
stop server
start client $c "$fernvpn" client -k "$dir/client.key" --connect 198.51.100.2:12345 --kill-switch
logged client 'no connection'
goes_on before4; goes_on before6; talk after4 $r 192.0.2.2 22; stop after4
seen_as '' $web4
no_leak
ok 'and before the first connection to the server'
stop client KILL
server --nat no --push-routes 0.0.0.0/0,::/0
run $c "$fernvpn" unlock
for name in before4 before6; do stop $name; done
await no_device $c
seen_as 192.0.2.2 $web4; ok 'unlock'
client --kill-switch
down
as_before
seen_as 192.0.2.2 $web4; ok 'an orderly stop ends it'
! in_ns $c "$fernvpn" unlock 2>/dev/null || die 'unlocked what was not locked'

expect 'two clients: the end of one takes nothing from the other'
for name in all eth0; do run $c sysctl -qw net.ipv4.conf.$name.rp_filter=1; done
client --kill-switch
fern second $c client -k "$dir/second.key" --connect 198.51.100.2:12345 --tun fern1 --routes 203.0.113.0/24 --kill-switch
seen_as '10.8.0.*' $web4
stop second
count_anew
seen_as '10.8.0.*' $web4
seen_as '' $web4 --interface eth0
no_leak
stop client KILL
seen_as '' $web4
run $c "$fernvpn" unlock
client; down
for name in all eth0; do run $c sysctl -qw net.ipv4.conf.$name.rp_filter=0; done
as_before

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
    client; grep -q 'resolvers are not in use.*apt install systemd-resolved' "$dir/client.log" || die 'not a word'
    down; ok 'said so'
fi

expect 'a command of an ordinary user, in a private network'
chmod 755 "$dir"; install -m 755 "$fernvpn" "$dir/fernvpn"; install -m 600 -o 65534 -g 65534 "$dir/client.key" "$dir/user.key"
# as_user COMMAND...: runs it as a user, where everybody may open /dev/net/tun, as is usual.
as_user() {
    # shellcheck disable=SC2016
    in_ns $c unshare -m sh -c 'mount -t tmpfs tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && mkdir -p /run/dbus &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ "$@"' sh "$@"
}
# This sends SIGTERM to the client itself, not to its command.
end_users_client() { ip netns pids $c | while read -r pid; do grep -qas "^$dir/fernvpn.client" "/proc/$pid/cmdline" && kill "$pid"; done || true; }
user="$dir/fernvpn client --name $id-user -k $dir/user.key --connect 198.51.100.2:12345"
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
    as_before
    ok 'the host is as it was'
    for case in '7 exit\ 7' '143 kill\ \$\$' '127 /nowhere/nothing' '126 /etc/passwd'; do
        want=${case%% *}
        case ${case#* } in /*) words=("${case#* }") ;; *) eval "words=(sh -c ${case#* })" ;; esac
        got=0
        # shellcheck disable=SC2086
        as_user $user -- "${words[@]}" >"$dir/run.log" 2>&1 || got=$?
        [ $got = "$want" ] || die "status $got for ${words[*]}, expected $want"
        ok "status $got: ${words[*]}"
    done
    got=0
    # shellcheck disable=SC2086
    as_user $user -- sh -c 'exit 7' 2> >(exec true) >"$dir/run.log" || got=$?
    [ $got = 7 ] || die "status $got when nobody reads stderr"
    ok 'status 7 where nobody reads stderr, too'
    # shellcheck disable=SC2086
    as_user $user -- sh -c 'trap "echo had TERM; exit 5" TERM; echo ready; while :; do sleep 0.1; done' >"$dir/term.log" 2>&1 &
    pids[term]=$!
    logged term ready
    end_users_client
    ends term
    [ "$ended" = 5 ] && grep -q 'had TERM' "$dir/term.log" || die "SIGTERM: status $ended"
    ok 'SIGTERM is passed on'
    cat >"$dir/terminal.py" <<'PYTHON'
import os, pty, select, signal, sys, time
pid, terminal = pty.fork()
if pid == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL) # in the background of a script it is ignored
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
end = time.time() + 60
def shows(text):
    global seen
    while text not in seen:
        assert select.select([terminal], [], [], max(0, end - time.time()))[0], seen
        seen += os.read(terminal, 4096)
    seen = seen.split(text, 1)[1]
def types(text): os.write(terminal, text)
def sleeps(): # the command that is in the foreground
    types(b"sleep 100\n")
    while open(f"/proc/{os.tcgetpgrp(terminal)}/comm").read() != "sleep\n":
        assert time.time() < end, "no sleep"
        time.sleep(0.02)
shows(b"$ ")
sleeps(); types(b"\x03"); types(b"echo interr''upted $?\n"); shows(b"interrupted 130")
sleeps(); types(b"\x1a"); shows(b"Stopped"); types(b"jobs; kill %1; echo sus''pended\n"); shows(b"suspended")
types(b"tty && exit 9\n"); shows(b"/dev/pts")
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
    pids[loop]=$!
    logged loop 'got:10.8.0'
    count_anew
    stop server KILL
    await more loop 'got:$' "$(times loop 'got:$')"
    answers=$(times loop 'got:10.8.0')
    server --nat no --push-routes 0.0.0.0/0 --push-dns 10.8.0.1
    await more loop 'got:10.8.0' "$answers"
    ! grep -q 'got:192' "$dir/loop.log" || die 'it got out another way'
    no_leak
    end_users_client
    ends loop
    ok
fi

expect 'a device in a named network namespace'
namespaces $id-n
client --namespace $id-n
[ "$(in_ns $id-n curl -s --max-time 2 http://$web4:8000/)" = "$own" ] || die 'not through the tunnel'
as_before
down
no_device $id-n || die 'the device is left'
ok
stop server
