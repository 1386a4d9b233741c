# What do the test scripts in network namespaces have in common? Each begins with
#
#   . "$(dirname "$0")/common/network.sh"
#   needs ip ping
#
# A list of tests follows. `expect` says what has to hold, and `ok` counts it. `die` says what is wrong and ends the script, and
# so does every command that fails unexpectedly. However the script ends, it kills all that it has started, and removes all
# that it has made. Its last line is `NAME: N passed, M failed`. After a failure it shows the logs (with KEEP_LOGS=1: always).
#
# Nothing waits for a fixed time. `await` waits for what must come, with a deadline that suits a busy machine. `within` waits
# for what the program promises within a given time.
#
#   FERNVPN=target/release/fernvpn    the program
# shellcheck shell=bash
set -eEuo pipefail
shopt -s inherit_errexit
export LC_ALL=C

script=$(basename "$0" .sh)
tests=$(realpath "$(dirname "$0")")
fernvpn=$(realpath -m "${FERNVPN:-target/release/fernvpn}")
dir=$(mktemp -d -t "$script.XXXXXX") # all files; NAME.log is the output of NAME
id=$script${dir##*.}                 # the names of namespaces and instances begin with it, so that they are unique
declare -A pids=()                   # by name: what was started and has not ended
passed=0 skipped=''
exec {output}>&1 # where the summary goes, even if a command with an output of its own fails
export FERNVPN_TEST=$id # marks every process that comes from here

# ---- beginning and end

clean_up() {
    local status=$? log ns mine
    trap '' INT TERM HUP
    trap - ERR
    set +e
    exec >&"$output"
    exec 2>/dev/null # the shell's messages about processes that it kills
    if [ $status != 0 ] || [ -n "${KEEP_LOGS:-}" ]; then
        for log in "$dir"/*.log; do [ ! -s "$log" ] || { printf -- '--- %s\n' "${log##*/}"; tail -n 40 "$log"; }; done
    fi
    unset FERNVPN_TEST
    kill -KILL $(jobs -p)
    while mine=$(grep -lsz "^FERNVPN_TEST=$id\$" /proc/[0-9]*/environ | cut -d / -f 3); [ -n "$mine" ]; do kill -KILL $mine; done
    wait
    for ns in /run/netns/"$id"-*; do
        in_ns "${ns##*/}" "$fernvpn" clean-up # removes the file of a killed server, which has the values from before
        ip netns del "${ns##*/}"
    done
    also_clean_up
    grep -o " $dir/[^ ]*" /proc/mounts | tac | xargs -r umount
    rm -rf "$dir" /run/fernvpn/"$id"-*
    echo "$script: $passed passed, $((status != 0)) failed${skipped:+, 1 skipped}"
    exit $status
}
also_clean_up() { :; } # a script defines this if it has more to remove
failed() { echo "!! line ${BASH_LINENO[-2]}: this failed: $1" >&2; }
trap clean_up EXIT
trap 'failed "$BASH_COMMAND"' ERR
trap 'exit 130' INT
trap 'exit 143' TERM HUP

expect() { printf '\n== %s\n' "$*"; }
ok() { passed=$((passed + 1)); echo "   ok${1:+: $*}"; }
die() { echo "!! line ${BASH_LINENO[-2]}: $*"; exit 1; }
# A skip is counted. Where everything has to run, it is a failure.
skip() { printf '\nSKIPPED: %s.sh: %s\n' "$script" "$*"; skipped=yes; exit $((${FERNVPN_REQUIRE_INTEROP:+1} + 0)); }
# needs TOOL...: without these the script is skipped.
needs() { local tool; for tool; do command -v "$tool" >/dev/null || skip "there is no $tool. Try: tests/needs.sh test"; done; }

[ "$(id -u)" = 0 ] || skip 'it needs root'
[ -c /dev/net/tun ] || skip 'there is no /dev/net/tun'
unshare --net true 2>/dev/null || skip 'this root may not make network namespaces'
[ -x "$fernvpn" ] || die "there is no $fernvpn: make build"

# ---- waiting

now() { echo $((${EPOCHREALTIME/./} / 1000)); } # in milliseconds
# within SECONDS COMMAND...: until it succeeds.
within() {
    local seconds=$1 deadline; deadline=$(($(now) + $1 * 1000)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt $deadline ] || die "not within $seconds s: $*"
        sleep 0.02
    done
}
await() { within 60 "$@"; }

# These may be awaited:
fails() { ! "$@"; }
listening() { [ -n "$(in_ns "$1" ss -Hltn "sport = :$2")" ]; }    # NAMESPACE PORT
no_device() { fails ip -n "$1" link show dev fern0 2>/dev/null; } # NAMESPACE
nobody_in() { [ -z "$(ip netns pids "$1")" ]; }                   # NAMESPACE
more() { [ "$(times "$1" "$2")" -gt "$3" ]; }                     # NAME PATTERN COUNT: its log says it more often than that

# ---- namespaces, and cables between them

# namespaces NAME...: makes them. Each name begins with $id-
namespaces() { local ns; for ns; do ip netns add "$ns"; ip -n "$ns" link set dev lo up; done; }
link() { ip link add name "$2" netns "$1" type veth peer name "$4" netns "$3"; } # NAMESPACE DEVICE NAMESPACE DEVICE
# address NAMESPACE DEVICE [ADDRESS/PREFIX...]: gives the device these addresses, and sets it up.
address() {
    local ns=$1 device=$2 one nodad; shift 2
    for one; do
        nodad=''; [[ $one != *:* ]] || nodad=nodad
        ip -n "$ns" address add "$one" dev "$device" $nodad
    done
    ip -n "$ns" link set dev "$device" up
}
# uplink NAMESPACE ROUTER DEVICE NETWORK4 [NETWORK6]: connects its eth0 with that device of the router, its default router.
# In both networks the router has number 1, and the namespace has number 2.
uplink() {
    link "$1" eth0 "$2" "$3"
    address "$2" "$3" "$4.1/24" ${5:+"$5::1/64"}
    address "$1" eth0 "$4.2/24" ${5:+"$5::2/64"}
    ip -n "$1" route add default via "$4.1"
    [ -z "${5:-}" ] || ip -n "$1" route add default via "$5::1"
}
forwards() { in_ns "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; } # NAMESPACE

# ---- programs in them

in_ns() { local ns=$1; shift; ip netns exec "$ns" "$@"; }
show() { local ns=$1 words; shift; words=${*//"$fernvpn"/fernvpn}; echo "[${ns##*-}] ${words//"$dir/"/}"; }
# run NAMESPACE COMMAND...: shows the command and runs it there. Its output goes to run.log.
run() { show "$@"; in_ns "$@" >"$dir/run.log" 2>&1 || die "status $?"; }
# refused NAMESPACE COMMAND...: does the same, and the command must fail.
refused() { show "$@" '   (must fail)'; ! in_ns "$@" >"$dir/run.log" 2>&1 || die 'it did not fail'; }

# start NAME NAMESPACE COMMAND...: starts it in the background.
start() {
    local name=$1 ns=$2; shift 2
    show "$ns" "$@" '&'
    [ ! -e "$dir/$name.log" ] || cat "$dir/$name.log" >>"$dir/$name-before.log"
    : >"$dir/$name.log" # empty before the start, so that no old line is taken for a new one
    ip netns exec "$ns" "$@" >"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}
# stop NAME [SIGNAL]: stops it. It must still be running.
stop() {
    echo "kill -${2:-TERM} $1"
    kill "-${2:-TERM}" "${pids[$1]}"
    ends "$1"
}
# ends NAME [SECONDS]: waits until it has ended. $ended is then its status.
ends() {
    within "${2:-60}" fails kill -0 "${pids[$1]}" 2>/dev/null # the shell may say here that it was killed
    ended=0
    wait "${pids[$1]}" 2>/dev/null || ended=$?
    unset "pids[$1]"
}
# logged NAME PATTERN [SECONDS]: waits until its log has it. times NAME PATTERN: prints how often it has.
logged() { within "${3:-60}" grep -q -- "$2" "$dir/$1.log"; }
times() { grep -c -- "$2" "$dir/$1.log" || true; }

# talk NAME NAMESPACE ADDRESS PORT: opens a TCP connection to talk.py, which sends every 50 ms and never connects again.
# goes_on NAME [SECONDS]: waits until it has sent more.
talk() { start "$1" "$2" python3 "$tests/common/talk.py" "$3" "$4"; goes_on "$1"; }
goes_on() {
    # The next word may have been on its way already. The one after it was not.
    within "${2:-60}" more "$1" '^alive' $(($(times "$1" '^alive') + 1))
    kill -0 "${pids[$1]}" || die "$1 has broken"
}

# ---- fernvpn

# keys NAME...: makes a key for each in NAME.key, and puts all of them into server.key.
keys() {
    local name
    for name; do (
        umask 077
        "$fernvpn" genkey >"$dir/$name.key"
        echo "$(<"$dir/$name.key")  # $name" >>"$dir/server.key"
    ) done
}
# fern NAME NAMESPACE server|client OPTION...: starts it and waits until it is ready. The instance is called $id-NAME.
fern() {
    local name=$1 ns=$2 role=$3; shift 3
    start "$name" "$ns" "$fernvpn" "$role" --name "$id-$name" "$@"
    ready "$name"
}
ready() { logged "$1" '^listening on \|^connected: '; } # NAME
# Prints the address that a client has in the tunnel now.
address4() { sed -n 's/^connected: \([0-9.]*\).*/\1/p' "$dir/$1.log" | tail -n 1; }
address6() { sed -n 's/^connected: .*, \([0-9a-f:]*\)\/64.*/\1/p' "$dir/$1.log" | tail -n 1; }

# ---- what has changed in a namespace

counted() { in_ns "$1" nft list counter inet "$2" "$3" | awk '/packets/ { print $2 }'; } # NAMESPACE TABLE COUNTER
# settings NAMESPACE: prints the kernel's settings that a program could have changed, without those of the tunnel's device.
settings() { in_ns "$1" sysctl --all --pattern '^net\.ipv[46]\.(conf|ip_forward)' 2>/dev/null | grep -v '^net\..*\.fern[0-9]\.'; }
# state NAMESPACE: prints everything that a program could have changed there, and the kernel does not change by itself.
state() {
    settings "$1"
    in_ns "$1" sh -c 'ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip -o link; ip -o address
        nft list ruleset; findmnt --list --noheadings --output TARGET; ls -l /run/systemd || true' 2>/dev/null |
        sed 's/ *valid_lft.*//' | grep -v " ff00::/8 \| expires \|fe80:\|^/run/netns\|^${TMPDIR:-/tmp}/" # mounts of others
}
