#!/bin/bash
# What may a running server still do, and what does its memory give away? Looked at from outside. As root.
#
#   FERNVPN=target/release/fernvpn    the program
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C

fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
passed=0

skip() { printf '\nSKIPPED: the tests of privileges: %s\n' "$*"; echo 'privileges: 0 passed, 0 failed, 1 skipped'; exit 0; }
[ "$(id -u)" = 0 ] || skip 'they need root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare -n true 2>/dev/null || skip 'this root may not make network namespaces'
[ -x "$fernvpn" ] || { echo "there is no $fernvpn: make build" >&2; exit 1; }

ns=prv$$
dir=$(mktemp -d)
server='' client=''
clean_up() {
    status=$?
    set +e
    [ $status = 0 ] || tail -n 20 "$dir"/*.log
    exec 2>/dev/null
    kill -KILL $server $client
    wait
    ip netns del $ns
    rm -rf "$dir"
    if [ $status = 0 ]; then echo "privileges: $passed passed, 0 failed"; else echo "privileges: $passed passed, 1 failed (status $status)"; fi
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

expect() { printf '\n== %s\n' "$*"; }
ok() { passed=$((passed + 1)); echo "   ok${1:+: $*}"; }
die() { echo "!! $*"; exit 1; }
until_ok() {
    local deadline=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || die "not within the time: $*"
        sleep 0.02
    done
}
of() { awk -v name="$2:" '$1 == name { print $2 }' "/proc/$1/status"; }

# in_memory PID FILE: how often the key in the file stands in the memory of a process, as bytes or as text. What a core
# file would hold, read from the kernel.
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

umask 077
for name in alice bob; do "$fernvpn" genkey >"$dir/$name.key"; done
{ echo "$(<"$dir/alice.key")  # alice"; echo "$(<"$dir/bob.key")  # bob"; } >"$dir/server.key"
ip netns add $ns
ip -n $ns link set dev lo up
ip -n $ns link add name up0 type veth peer name up1
ip netns exec $ns "$fernvpn" server -k "$dir/server.key" --listen 127.0.0.1:12345 --push-routes 0.0.0.0/0 --nat up0 --name $ns >"$dir/server.log" 2>&1 &
server=$!
until_ok 10 grep -q '^listening on' "$dir/server.log"

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
[ "$(stat -c %U:%a "/proc/$server/mem")" = root:600 ] || die 'the memory is readable'
uid=$((200000 + $$ % 10000))
! setpriv --reuid=$uid --clear-groups cat "/proc/$server/maps" >/dev/null 2>&1 || die 'another user sees its memory'
ok 'not another user'\''s'
install -m 755 "$fernvpn" "$dir/fernvpn"
chmod 711 "$dir"
install -m 644 "$dir/bob.key" "$dir/open.key"
setpriv --reuid=$uid --clear-groups "$dir/fernvpn" server -k "$dir/open.key" --no-tun --listen 127.0.0.1:0 >"$dir/ordinary.log" 2>&1 &
client=$!
until_ok 10 grep -q '^listening on' "$dir/ordinary.log"
! setpriv --reuid=$uid --clear-groups cat "/proc/$client/maps" >/dev/null 2>&1 || die 'a program of the same user sees its memory'
ok 'not of another program of the same user: no debugger, no core file'
kill $client; wait $client || true; client=''

expect 'a client connects, and with only these rights all goes on as before'
ip netns exec $ns "$fernvpn" client -k "$dir/alice.key" --connect 127.0.0.1:12345 --no-tun --once --send hello >"$dir/client.log" 2>&1
grep -q 'Hello, alice' "$dir/client.log"; ok
[ "$(in_memory $server "$dir/alice.key")" -ge 1 ] || die 'the search finds nothing at all'
ok "the search finds a key that is in use, $(in_memory $server "$dir/alice.key") times"

expect 'a client that is removed leaves no key in memory'
echo "$(<"$dir/bob.key")  # bob" >"$dir/server.key"
ip netns exec $ns "$fernvpn" reload $ns
[ "$(in_memory $server "$dir/alice.key")" = 0 ] || die "the removed key stands there $(in_memory $server "$dir/alice.key") times"
[ "$(in_memory $server "$dir/bob.key")" -ge 1 ] || die 'the other key is gone too'
ok

expect 'an orderly stop needs no more rights: nothing is left'
kill -TERM $server
ended=0; wait $server || ended=$?; server=''
[ $ended = 0 ] || die "status $ended"
! grep -q 'not undone' "$dir/server.log" || die 'something was not undone'
[ -z "$(ip netns exec $ns nft list ruleset)" ] || die 'rules are left'
! ip -n $ns link show dev fern0 >/dev/null 2>&1 || die 'the device is left'
ok
