#!/bin/bash
# What may a running server still do, and what does its memory give away? The script looks from outside. As root.
. "$(dirname "$0")/common/network.sh"
needs ip nft python3 setpriv prlimit xxd

of() { awk -v name="$2:" '$1 == name { print $2 }' "/proc/$1/status"; }

# in_memory PID FILE: counts how often the memory of a process has the key in the file, as bytes or as text. The kernel shows
# the same memory that a core file would have.
cat >"$dir/in_memory.py" <<'PYTHON'
import base64, sys
text = open(sys.argv[2], "rb").read().split()[0].rstrip(b"=")
found = 0
with open(f"/proc/{sys.argv[1]}/maps") as maps, open(f"/proc/{sys.argv[1]}/mem", "rb", 0) as memory:
    for line in maps:
        area, rights = line.split()[:2]
        if "r" in rights and "[v" not in line:
            start, end = (int(number, 16) for number in area.split("-"))
            memory.seek(start)
            content = memory.read(end - start)
            found += content.count(base64.urlsafe_b64decode(text + b"=")) + content.count(text)
print(found)
PYTHON
in_memory() { python3 "$dir/in_memory.py" "$1" "$2"; }
is_gone() { [ "$(in_memory "$1" "$2")" = 0 ]; }

keys alice bob
ns=$id-net user=$((200000 + $$))
namespaces $ns
link $ns up0 $ns up1
fern server $ns server -k "$dir/server.key" --listen 127.0.0.1:12345 --push-routes 0.0.0.0/0 --nat up0
server=${pids[server]}

expect 'started by root with all capabilities, it keeps CAP_NET_ADMIN'
for set in CapEff CapPrm; do
    [ "$(of $server $set)" = 0000000000001000 ] || die "$set is $(of $server $set)"
done
[ "$(of $server CapInh)" = 0000000000000000 ] && [ "$(of $server CapAmb)" = 0000000000000000 ] || die 'it passes some on'
for task in "/proc/$server/task"/*; do
    [ "$(awk '$1 == "CapEff:" { print $2 }' "$task/status")" = 0000000000001000 ] || die "the thread $(<"$task/comm") has more"
done
ok "in all of $(ls "/proc/$server/task" | wc -l) threads"
[ "$(of $server NoNewPrivs)" = 1 ] || die 'programs that it starts may get new privileges'
ok 'no new privileges'

expect 'its memory is nobody else'\''s'
as_user() { setpriv --reuid=$user --clear-groups "$@"; }
! as_user cat "/proc/$server/maps" >/dev/null 2>&1 || die 'another user sees its memory'
ok 'not another user'\''s'
install -m 755 "$fernvpn" "$dir/fernvpn"
chmod 711 "$dir"
install -m 644 "$dir/bob.key" "$dir/open.key"
start ordinary $ns setpriv --reuid=$user --clear-groups "$dir/fernvpn" server -k "$dir/open.key" --no-tun --listen 127.0.0.1:0
ready ordinary
! as_user cat "/proc/${pids[ordinary]}/maps" >/dev/null 2>&1 || die 'a program of the same user sees its memory'
ok 'not of another program of the same user: no debugger, no core file'
stop ordinary

expect 'a client connects, and with only these rights all goes on as before'
run $ns "$fernvpn" client -k "$dir/alice.key" --connect 127.0.0.1:12345 --no-tun --once --send hello
grep -q 'Hello, alice' "$dir/run.log"; ok
[ "$(in_memory $server "$dir/alice.key")" -ge 1 ] || die 'the search finds nothing at all'
ok "the search finds a key that is in use, $(in_memory $server "$dir/alice.key") times"

expect 'a client that is removed leaves no key in memory'
echo "$(<"$dir/bob.key")  # bob" >"$dir/server.key"
run $ns "$fernvpn" reload $id-server
[ "$(in_memory $server "$dir/alice.key")" = 0 ] || die "the removed key stands there $(in_memory $server "$dir/alice.key") times"
[ "$(in_memory $server "$dir/bob.key")" -ge 1 ] || die 'the other key is gone too'
ok

expect 'a session that has ended leaves no traffic secret, a removed client no key that stood in the configuration'
# in_memory takes a key as text; the key log has the secrets in hexadecimal digits.
secret() { awk -v at="$1" '!/^#/ { print $at }' "$dir/secrets.keylog" | tail -1 | xxd -r -p | base64 | tr +/ -_ >"$dir/secret"; }
inline() {
    printf '[server]\nlisten = 127.0.0.1:12346\ninterface = fern1\naddress = 10.9.0.1/24, fd09::1/64\n[peer]\nname = bob\nkey-file = %s\nratchet = yes\n' "$dir/bob.state"
    [ "$1" = without ] || printf '[peer]\nname = alice\nkey = %s\n' "$(<"$dir/alice.key")"
}
(umask 077; inline with >"$dir/inline.conf")
install -m 600 "$dir/bob.key" "$dir/bob.state"
fern inline $ns server -c "$dir/inline.conf" --keylog "$dir/secrets.keylog"
fern alice $ns client -k "$dir/alice.key" --connect 127.0.0.1:12346 --no-tun
await grep -q "^fernvpn" "$dir/secrets.keylog"
inline=${pids[inline]}
for at in 4 5; do
    secret $at
    [ "$(in_memory "$inline" "$dir/secret")" -ge 1 ] || die 'the search does not find the secret of a session that goes on'
done
stop alice
logged inline 'client disconnected'
for at in 4 5; do
    secret $at
    await is_gone "$inline" "$dir/secret"
done
ok 'neither direction'
inline without >"$dir/inline.conf"
run $ns "$fernvpn" reload $id-inline
[ "$(in_memory "$inline" "$dir/alice.key")" = 0 ] || die "the removed key stands there $(in_memory "$inline" "$dir/alice.key") times"
ok 'and no key'

expect 'a ratcheted key of an earlier step is in no memory, neither the server'\''s nor the client'\''s'
install -m 600 "$dir/bob.key" "$dir/bob-own.state"
printf '[client]\nserver = 127.0.0.1:12346\nkey-file = %s\nratchet = yes\n' "$dir/bob-own.state" >"$dir/bob.conf"
fern bob $ns client -c "$dir/bob.conf" --no-tun
logged bob '^connected'
for who in inline bob; do
    await is_gone "${pids[$who]}" "$dir/bob.key"
    sed -n 's/^key=//p' "$dir/bob-own.state" >"$dir/now.key"
    [ "$(in_memory "${pids[$who]}" "$dir/now.key")" -ge 1 ] || die "$who: the search does not find the key of this step"
done
ok 'started with -c'
stop bob
cp "$dir/now.key" "$dir/first.key"
fern bob $ns client -k "$dir/bob-own.state" --ratchet --connect 127.0.0.1:12346 --no-tun
for round in 1 2 3; do
    inline with >"$dir/inline.conf"; run $ns "$fernvpn" reload $id-inline
    inline without >"$dir/inline.conf"; run $ns "$fernvpn" reload $id-inline
    kill -HUP "$inline"
    logged inline "reloaded"
    cp "$dir/now.key" "$dir/earlier$round.key"
    stop bob
    fern bob $ns client -k "$dir/bob-own.state" --ratchet --connect 127.0.0.1:12346 --no-tun
    sed -n 's/^key=//p' "$dir/bob-own.state" >"$dir/now.key"
    for who in inline bob; do
        for key in first earlier1 earlier$round; do
            await is_gone "${pids[$who]}" "$dir/$key.key"
        done
        [ "$(in_memory "${pids[$who]}" "$dir/now.key")" -ge 1 ] || die "$who: the search does not find the key of this step"
    done
done
ok 'started with -k, after sessions and reloads'
stop bob; stop inline

expect 'limits that are too low for so many clients are named when it starts'
start limited $ns setpriv --reuid=$user --clear-groups prlimit --nproc=500:500 \
    "$dir/fernvpn" server -k "$dir/open.key" --no-tun --listen 127.0.0.1:0 --max-clients 100000
ready limited
grep -q 'limit="ulimit -u" allowed=500 wanted=101088' "$dir/limited.log" || die 'ulimit -u'
grep -q 'limit="sysctl vm.max_map_count"' "$dir/limited.log" || [ "$(sysctl -n vm.max_map_count)" -ge 804096 ] || die 'vm.max_map_count'
stop limited
ok

expect 'an orderly stop needs no more rights: nothing is left'
stop server
[ $ended = 0 ] || die "status $ended"
! grep -q 'not undone' "$dir/server.log" || die 'something was not undone'
[ -z "$(in_ns $ns nft list ruleset)" ] || die 'rules are left'
no_device $ns || die 'the device is left'
ok

expect 'what the service'\''s user leaves in its own folders gives it nothing of root'\''s'
# This is like a break-in: the attacker owns both folders, and root then cleans up or makes a new key.
echo untouched >"$dir/roots"
mkfifo "$dir/hold"
state=/run/fernvpn/prv0-$(in_ns $ns python3 -c '
import socket, struct
print("%016x" % struct.unpack("Q", socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8)))').sysctl # SO_NETNS_COOKIE
printf '%s written\n' "$dir/roots" "/proc/sys/net/../../../$dir/roots" >"$state"
run $ns "$fernvpn" clean-up --tun prv0
[ "$(<"$dir/roots")" = untouched ] && [ ! -e "$state" ] || die 'root has written a file that the user named'
ok 'not by what is to be put back'
in_ns $ns sysctl -qw net.ipv4.conf.up0.rp_filter=2
echo "/proc/sys/net/ipv4/conf/up0/rp_filter 0 2" >"$state"
run $ns "$fernvpn" clean-up --tun prv0
[ "$(in_ns $ns sysctl -n net.ipv4.conf.up0.rp_filter)" = 2 ] || die 'root has set what no server sets'
ok 'not by a setting that no server changes'
mkfifo "$state"
run $ns timeout 20 "$fernvpn" clean-up --tun prv0
[ ! -e "$state" ] || die 'the FIFO is left'
ok 'not by a FIFO at which root would wait'
python3 -c '
import socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen(0)
waiting = [socket.socket(socket.AF_UNIX) for _ in range(8)]
for one in waiting: one.setblocking(False); one.connect_ex(sys.argv[1])
print("full", flush=True); sys.stdin.read()' "/run/fernvpn/$id-full.sock" <"$dir/hold" >"$dir/full.log" &
exec {hold}>"$dir/hold"
await grep -q full "$dir/full.log"
run $ns timeout 20 "$fernvpn" clean-up --tun prv0
exec {hold}>&-
rm "/run/fernvpn/$id-full.sock"
ok 'not by a socket at which root would wait'
ln -s "$dir/none" "$state"
fern link $ns server -k "$dir/server.key" --tun prv0 --listen 127.0.0.1:12345 --push-routes 0.0.0.0/0 --nat up0
stop link
[ ! -e "$dir/none" ] || die 'root has made a file that the user named'
ok 'not by a link in the place of what is to be put back'
install -d -o $user -g $user "$dir/state"
install -m 600 -o $user -g $user "$dir/alice.key" "$dir/state/alice.key"
printf '[server]\n[peer]\nname = alice\nkey-file = %s\nratchet = yes\n' "$dir/state/alice.key" >"$dir/ratchet.conf"
chmod 600 "$dir/ratchet.conf"
ln -s "$dir/roots" "$dir/state/.alice.key.lock"
refused $ns "$fernvpn" reset-client alice -c "$dir/ratchet.conf"
[ "$(stat -c %u "$dir/roots")" = 0 ] || die 'root has given its file away'
rm "$dir/state/.alice.key.lock"
"$fernvpn" reset-client alice -c "$dir/ratchet.conf" >/dev/null
[ "$(stat -c %u "$dir/state/.alice.key.lock")" = $user ] || die 'the service cannot lock its key'
ok 'not by a link in the place of the lock'
rm "$dir/state/alice.key"
mkfifo "$dir/state/alice.key"
chown $user "$dir/state/alice.key"
refused $ns timeout 20 "$fernvpn" reset-client alice -c "$dir/ratchet.conf"
grep -q 'no regular file' "$dir/run.log" || die 'the FIFO is not refused'
ok 'not by a FIFO in the place of a state file'

expect 'a user who locks what they can open holds up nobody'
! setpriv --reuid=$user --regid=$user --clear-groups flock -n /run/fernvpn/.lock true 2>/dev/null || die 'another user can lock it'
mkfifo "$dir/held"
as_user flock -n /run/fernvpn sh -c 'echo held; read end; true' <"$dir/held" >"$dir/locks.log" &
exec {held}>"$dir/held"
await grep -q held "$dir/locks.log"
fern free $ns server -k "$dir/server.key" --tun prv1 --listen 127.0.0.1:12347 --push-routes 0.0.0.0/0 --nat up0
! grep -q 'cannot lock' "$dir/free.log" || die 'a lock could not be had'
stop free
[ $ended = 0 ] || die "status $ended"
exec {held}>&-
ok
expect 'a lock that somebody may hold is waited for only so long, and the message says who holds it'
flock /run/fernvpn/.lock sleep 60 &
holder=$!
await fails flock -n /run/fernvpn/.lock true
refused $ns timeout 30 "$fernvpn" server -k "$dir/server.key" --tun prv1 --listen 127.0.0.1:12347 --push-routes 0.0.0.0/0 --nat up0
pkill -P $holder
grep -q "cannot lock /run/fernvpn: process $holder (flock) holds" "$dir/run.log" || die 'it does not say who'
fails ip -n $ns link show dev prv1 2>/dev/null || die 'the device is left'
ok
