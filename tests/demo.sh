#!/bin/bash
# This shows fernvpn in one terminal, without a change to this machine.
#
#    alice's network          this machine           bob's network
#   ┌───────────────┐   ┌──────────────────────┐   ┌───────────────┐
#   │ fern0         │   │  TCP to 127.0.0.1    │   │         fern0 │
#   │ 10.8.0.x ─────┼───┼──> fernvpn server <──┼───┼───── 10.8.0.y │
#   └───────────────┘   │  its fern0 10.8.0.1  │   └───────────────┘
#                       │  in a third network  │
#                       └──────────────────────┘
#
# Alice's and bob's networks have no way out but the tunnel. The demo needs no root where users may make namespaces and open
# /dev/net/tun. Elsewhere it does what is possible, and says what it leaves out. `make demo` builds the program and runs it.
set -euo pipefail

fernvpn=$(realpath "${FERNVPN:-target/release/fernvpn}")
size_mib=${DEMO_MIB:-64}

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' green='' red='' plain=''; fi
dir=$(mktemp -d)
chmod 700 "$dir"
started=() outcome='' left_out=''

# However the script ends, this removes everything that it has started or made.
clean_up() {
    status=$?
    trap '' INT TERM HUP
    set +e
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill -TERM "${started[i]}" 2>/dev/null; done
    for pid in "${started[@]}"; do
        # A program that is still there after five seconds is killed.
        for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
        kill -KILL "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    if [ $status != 0 ]; then
        for log in "$dir"/*.log; do [ -s "$log" ] && printf '%s\n' "--- ${log##*/}" && tail -n 20 "$log"; done >&2
        printf '%s\n' "${red}demo: failed or interrupted (status $status)${plain}" >&2
    fi
    cd / && rm -rf "$dir"
    [ $status = 0 ] && printf '\n%s\n' "$bold$green$outcome$plain"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say() { printf '\n%s\n' "$bold$*$plain"; }
show() { printf '%s\n' "$dim\$$plain $*"; }
# Prints a command as a person would type it.
typed() {
    local word line=''
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:@%+=,-]+$ ]] || word="'$word'"
        line+=" $word"
    done
    printf '%s' "${line# }"
}
run() { show "$(typed "$@")"; "$@"; }
# Says what cannot be shown here, and why. The demo goes on.
skip() { say "${red}SKIPPED: $*"; left_out=' (but for what was SKIPPED above)'; }
# has PACKAGE TOOL WHAT: whether the tool is there. Without it, WHAT is skipped.
has() { command -v "$2" >/dev/null || { skip "$3: $2 is missing. On Debian: sudo apt-get install -y $1"; return 1; }; }
die() { printf '%s\n' "$red$*$plain" >&2; exit 1; }

# Waits until a command succeeds, for at most 10 seconds.
until_ok() {
    for _ in {1..200}; do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
    die "this did not come true within 10 seconds: $*"
}

# in_background NAME COMMAND...: shows and starts the command. Its output goes to NAME.log.
in_background() {
    name=$1; shift
    show "$(typed "$@") &"
    "$@" >"$dir/$name.log" 2>&1 &
    started+=($!)
}

# fernvpn prints commands that enter its private network. This is the first without the example after it.
entrance() { sed -n '/^ *nsenter .* -n -m /{s/^ *\(nsenter .* -n -m\) .*/\1/p;q}' "$dir/$1.log"; }
address() { sed -n 's/^connected: \([0-9.]*\)\/.*/\1/p' "$dir/$1.log"; }

cd "$dir"
PATH=$(dirname "$fernvpn"):$PATH
umask 077

say '1. Everybody gets a key of their own. It is 32 random bytes, in the form of any Fernet key.'
for name in alice bob; do
    show "fernvpn genkey > $name.key"
    fernvpn genkey >$name.key
done
show 'cat alice.key bob.key > server.key'
for name in alice bob; do echo "$(<$name.key)   # $name"; done >server.key

say '2. The server. Clients may talk to each other.'
in_background server fernvpn server -k server.key --listen 127.0.0.1:0 --client-to-client --private-if-allowed
until_ok grep -q '^listening on' server.log
grep -v '^+' server.log
port=$(sed -n 's/^listening on .*://p' server.log)

say '3. The clients, each in a private network.'
for name in alice bob; do
    in_background $name fernvpn client -k $name.key --connect 127.0.0.1:"$port" --private-if-allowed --send "Hello, this is $name." --ping
done
for name in alice bob; do
    until_ok grep -q '3 replies' $name.log
    sed -n "/^connected\|^Hello\|^reply\|replies/s/^/$name | /p" $name.log
done

if [ -z "$(entrance server)" ] || [ -z "$(entrance alice)" ] || [ -z "$(entrance bob)" ]; then
    skip 'pings between the clients and the file, because there are no devices here:'
    sed -n 's/.*reason="\(.*\)"$/  \1/p' server.log alice.log bob.log | sort -u
    has iproute2 ip 'the private networks' || true
else
    alice=$(address alice) bob=$(address bob)
    read -ra in_alice <<<"$(entrance alice)"
    read -ra in_bob <<<"$(entrance bob)"

    say '4. Alice has a loopback and the tunnel, and nothing else. From there, alice pings the server and bob.'
    run "${in_alice[@]}" ip -brief address
    if has iputils-ping ping 'the pings'; then
        run "${in_alice[@]}" ping -c 3 -i 0.2 -W 5 10.8.0.1
        run "${in_alice[@]}" ping -c 3 -i 0.2 -W 5 "$bob"
    fi

    if has curl curl 'the file' && has python3 python3 'the file'; then
        say "5. Bob serves a file of $size_mib MiB, and alice fetches it."
        mkdir shelf
        show "head -c ${size_mib}M /dev/urandom > shelf/file"
        head -c "${size_mib}M" /dev/urandom >shelf/file
        in_background shelf "${in_bob[@]}" python3 -m http.server --bind "$bob" --directory "$dir/shelf" 8000
        until_ok "${in_alice[@]}" curl -sfI "http://$bob:8000/"
        run "${in_alice[@]}" curl --fail --silent --show-error --max-time 300 --output "$dir/fetched" \
            --write-out '%{size_download} bytes in %{time_total} s, %{speed_download} bytes/s\n' "http://$bob:8000/file"
        run sha256sum shelf/file fetched
        cmp shelf/file fetched || die 'the files differ'
        echo 'the same'
    fi
fi

say '6. And everybody leaves.'
for name in bob alice server; do
    case $name in server) pid=${started[0]} ;; alice) pid=${started[1]} ;; bob) pid=${started[2]} ;; esac
    show "kill -INT $pid    # Ctrl-C for $name"
    kill -INT "$pid"
    wait "$pid" || die "$name ended with status $?"
done
grep 'disconnected' server.log | cut -d ' ' -f 3-
outcome="demo: success$left_out. Alice and bob talked through the tunnel, and nothing of it is left."
