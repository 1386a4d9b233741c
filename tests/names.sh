#!/bin/bash
# Which addresses and packet sizes does a client find? Which resolver do programs on its machine ask?
#
#   ┌─ $c: the client ──┐      ┌─ $r: the network, with a resolver ─────┐      ┌─ $s: the server ──┐
#   │ eth0 192.0.2.2    ┼──────┼ c 192.0.2.1   203.0.113.53  s 198.51.100.1 ┼──────┼ eth0 198.51.100.2 │
#   │      2001:db8:c::2│      │   2001:db8:c::1            2001:db8:5::1 │      │   2001:db8:5::2   │
#   └───────────────────┘      └────────────────────────────────────────┘      └───────────────────┘
#
# The resolver reads its answers from a file with NAME KIND VALUE in each line. If a name begins with "long", it only says by
# UDP that the answer does not fit.
. "$(dirname "$0")/common/network.sh"
needs ip nft ping python3 ss setpriv

server() { fern server $s server -k "$dir/server.key" --listen '[::]:12345' --nat no "$@"; }
# client NAME [OPTION...]: runs a client in a mount namespace of its own, with the /etc and the /run of the test. Its log is client.log.
client() {
    local name=$1; shift
    start client $c unshare -m sh -c "mount --bind '$dir/etc' /etc && mount --bind '$dir/run' /run && exec \"\$@\"" sh \
        "$fernvpn" client -k "$dir/client.key" --name "$id-client" --connect "$name:12345" "$@"
}
connected() { logged client '^connected: ' "$@"; }
down() { stop client; [ $ended = 0 ] || die "the client ended with status $ended"; }
asked() { grep -c "^$1 " "$dir/asked" || true; } # NAME: how often the resolver was
answers() { printf '%s\n' "$@" >"$dir/answers.new"; mv "$dir/answers.new" "$dir/answers"; }
moves_to() { # ADDRESS: the server's, which has no other any more
    ip -n $s address flush dev eth0 scope global
    address $s eth0 "$1/24" 2001:db8:5::2/64
    ip -n $s route replace default via 198.51.100.1; ip -n $s route replace default via 2001:db8:5::1
}

# ---- the topology

c=$id-c r=$id-r s=$id-s
namespaces $c $r $s
uplink $c $r c 192.0.2 2001:db8:c
uplink $s $r s 198.51.100 2001:db8:5
address $r lo 203.0.113.53/32 2001:db8:9::53/128
forwards $r
cp -a /etc "$dir/etc"; rm -f "$dir/etc/resolv.conf"; mkdir "$dir/run"
echo 'nameserver 203.0.113.53' >"$dir/etc/resolv.conf"
keys client
: >"$dir/asked"; answers
cat >"$dir/resolver.py" <<'PY'
import selectors, socket, struct, sys
folder = sys.argv[1]
KINDS = {1: "A", 28: "AAAA"}
def wire(name): return b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"
def answer(query, by_udp):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode()); at += 1 + query[at]
    name, kind = ".".join(labels), KINDS.get(struct.unpack(">H", query[at + 1:at + 3])[0])
    with open(folder + "/asked", "a") as log: print(name, kind, "udp" if by_udp else "tcp", file=log)
    lines = [line.split() for line in open(folder + "/answers")]
    records, known = [], any(line[:1] == [name] for line in lines)
    for owner, what, value in filter(lambda line: len(line) == 3, lines):
        if owner == name and what in (kind, "CNAME"):
            data = wire(value) if what == "CNAME" else socket.inet_pton(socket.AF_INET if kind == "A" else socket.AF_INET6, value)
            number = {"A": 1, "AAAA": 28, "CNAME": 5}[what]
            records.append(b"\xc0\x0c" + struct.pack(">HHIH", number, 1, 5, len(data)) + data)
    cut = by_udp and name.startswith("long")
    flags = 0x8180 | (0 if known else 3) | (0x200 if cut else 0)
    records = [] if cut else records
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:at + 5] + b"".join(records)
poll = selectors.DefaultSelector()
for family, ip in (socket.AF_INET, "203.0.113.53"), (socket.AF_INET6, "2001:db8:9::53"):
    udp = socket.socket(family, socket.SOCK_DGRAM); udp.bind((ip, 53)); poll.register(udp, 1)
    tcp = socket.socket(family); tcp.setsockopt(1, 2, 1); tcp.bind((ip, 53)); tcp.listen(); poll.register(tcp, 1)
while True:
    for key, _ in poll.select():
        if key.fileobj.type == socket.SOCK_DGRAM:
            query, whom = key.fileobj.recvfrom(512); key.fileobj.sendto(answer(query, True), whom)
        else:
            stream, _ = key.fileobj.accept(); size = struct.unpack(">H", stream.recv(2))[0]
            said = answer(stream.recv(size), False); stream.sendall(struct.pack(">H", len(said)) + said); stream.close()
PY
start resolver $r python3 "$dir/resolver.py" "$dir"
await listening $r 53
server --push-routes 0.0.0.0/0,::/0 --push-dns 10.8.0.1

expect 'dynamic DNS: the client finds a server that moves, with and without a kill switch'
for switch in '' --kill-switch; do
    answers 'vpn.example A 198.51.100.2'; moves_to 198.51.100.2
    # shellcheck disable=SC2086
    client vpn.example $switch; connected
    answers 'vpn.example A 198.51.100.3'; moves_to 198.51.100.3
    logged client 'via 198.51.100.3:12345' 60
    grep -q 'looked up vpn.example: 198.51.100.3' "$dir/client.log" || die 'no word of the lookup'
    grep -q 'connecting to vpn.example (198.51.100.3)' "$dir/client.log" || die 'no word of the attempt'
    down; ok "found ${switch:+with $switch}"
done

expect 'with a kill switch, the first lookup passes as well: aliases, answers that only fit into TCP, an IPv6 resolver'
echo 'nameserver 2001:db8:9::53' >"$dir/etc/resolv.conf"
answers 'vpn.example CNAME other.example' 'other.example CNAME long.example' 'long.example A 198.51.100.3'
client vpn.example --kill-switch; connected; down
grep -q '^long.example A tcp' "$dir/asked" || die 'not asked by TCP'
ok
echo 'nameserver 203.0.113.53' >"$dir/etc/resolv.conf"

expect 'a lookup also works if the resolver on this machine is cut off and another known one is dead'
cat >"$dir/stub.py" <<'PY'
import socket
near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); near.bind(("127.0.0.53", 53))
while True:
    query, whom = near.recvfrom(512)
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); far.settimeout(2)
    try: far.sendto(query, ("203.0.113.53", 53)); near.sendto(far.recv(512), whom)
    except OSError: pass
PY
start stub $c python3 "$dir/stub.py"
await in_ns $c sh -c 'ss -Hlun "sport = :53" | grep -q .'
printf 'nameserver 127.0.0.53\nnameserver 203.0.113.9\n' >"$dir/etc/resolv.conf"
answers 'vpn.example A 198.51.100.3'
client vpn.example --kill-switch; connected; down
stop stub; ok
echo 'nameserver 203.0.113.53' >"$dir/etc/resolv.conf"

expect 'if /etc/hosts has the name, the client asks nobody'
echo '198.51.100.3 listed.example' >>"$dir/etc/hosts"
client listed.example --kill-switch; connected; down
[ "$(asked listed.example)" = 0 ] || die 'asked'
ok

expect 'if no resolver answers, the client says so and still tries the known address'
answers 'vpn.example A 198.51.100.3'
client vpn.example; connected
answers; stop server KILL; logged client 'cannot find vpn.example:12345: the resolver 203.0.113.53 knows no such name' 60
server --push-routes 0.0.0.0/0,::/0 --push-dns 10.8.0.1
await more client '^connected: ' 1; down; ok

expect 'an address that does not answer costs less than half a second'
in_ns $r nft 'table inet silent { chain f { type filter hook forward priority 0; ip6 daddr 2001:db8:5::66 drop; }; }'
answers 'vpn.example AAAA 2001:db8:5::66' 'vpn.example A 198.51.100.3'
client vpn.example --kill-switch; connected 3
grep -q 'connecting to vpn.example (2001:db8:5::66)' "$dir/client.log" || die 'it was not tried'
down; ok
expect 'a link-local address with its interface works'
stop server
fern near $r server -k "$dir/server.key" --listen '[::]:12345' --tun fern9 --nat no
local_address=$(ip -n $r -6 -o address show dev c scope link | awk '{ sub("/.*", "", $4); print $4 }')
client "[$local_address%eth0]"; connected; down; stop near; ok
server --push-routes 0.0.0.0/0,::/0 --push-dns 10.8.0.1

expect 'without a service for resolvers, the client says which are asked, and check refuses a local resolver'
echo 'nameserver 192.0.2.1' >"$dir/etc/resolv.conf"
client 198.51.100.3; connected
command -v resolvectl || command -v resolvconf ||
    logged client 'still ask 192.0.2.1 .*Try: apt install systemd-resolved'
down
printf '[client]\nserver = 198.51.100.3:12345\nkey-file = client.key\nroutes = 0.0.0.0/0\n' >"$dir/full.conf"
in_etc() { in_ns $c unshare -m sh -c "mount --bind '$dir/etc' /etc && exec \"\$@\"" sh "$@"; }
if ! command -v resolvectl && ! command -v resolvconf; then
    ! in_etc "$fernvpn" check -c "$dir/full.conf" 2>"$dir/check.log" || die 'no mistake'
    grep -q '192.0.2.1.*apt install systemd-resolved' "$dir/check.log" || die 'not a word'
    echo 'nameserver 203.0.113.53' >"$dir/etc/resolv.conf"
    in_etc "$fernvpn" check -c "$dir/full.conf" || die 'a resolver that the tunnel reaches is no mistake'
fi
ok

expect 'resolvconf: the resolvers are set, set again, and removed, also after a crash'
mkdir -p "$dir/bin" "$dir/run/resolvconf/interfaces"
cat >"$dir/bin/resolvconf" <<'SH'
#!/bin/sh
# This imitates openresolv: it has records, of which only the first with metric 0 counts, otherwise that of eth0.
record=/run/resolvconf/interfaces/$2
case $1 in -a) cat >"$record" ;; -d) rm -f "$record" ;; esac
cat /run/resolvconf/interfaces/fern0 2>/dev/null >/etc/resolv.conf || echo 'nameserver 203.0.113.53' >/etc/resolv.conf
SH
chmod +x "$dir/bin/resolvconf"
search_path=$PATH; PATH=$dir/bin:$PATH
resolves_by() { [ "$(<"$dir/etc/resolv.conf")" = "nameserver $1" ]; }
client 198.51.100.3; connected
await resolves_by 10.8.0.1; ok 'set'
echo 'nameserver 192.0.2.99' >"$dir/etc/resolv.conf"
within 5 resolves_by 10.8.0.1; logged client 'replaced'; ok 'put back'
down; resolves_by 203.0.113.53 || die 'not taken back'; ok 'taken back'
client 198.51.100.3; connected; await resolves_by 10.8.0.1
stop client KILL; await no_device $c
in_ns $c unshare -m sh -c "mount --bind '$dir/etc' /etc && mount --bind '$dir/run' /run && exec \"\$@\"" sh "$fernvpn" clean-up
resolves_by 203.0.113.53 || die 'not cleared'; ok 'cleared'
PATH=$search_path

expect 'a private command keeps its resolvers, whatever happens to /etc/resolv.conf, and also without one'
chmod 755 "$dir"; install -m 600 -o 65534 -g 65534 "$dir/client.key" "$dir/user.key"; install -m 755 "$fernvpn" "$dir/fernvpn"
for before in there missing; do
    rm -f "$dir/etc/resolv.conf" "$dir/etc/go"
    [ $before = missing ] || echo 'nameserver 192.0.2.1' >"$dir/etc/resolv.conf"
    # shellcheck disable=SC2016
    start command $c unshare -m sh -c "mount --bind '$dir/etc' /etc && mount -t tmpfs tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ \"\$@\"" sh \
        "$dir/fernvpn" client --name "$id-command" -k "$dir/user.key" --connect 198.51.100.3:12345 -- \
        sh -c 'echo begun; until [ -e '"$dir"'/etc/go ]; do sleep 0.05; done; echo now $(cat /etc/resolv.conf); cat /etc/hostname /etc/passwd | wc -l'
    logged command '^begun'
    echo 'nameserver 192.0.2.77' >"$dir/etc/new"; mv "$dir/etc/new" "$dir/etc/resolv.conf"
    : >"$dir/etc/go"; ends command; [ $ended = 0 ] || die "status $ended"
    grep -q '^now nameserver 10.8.0.1$' "$dir/command.log" || die 'another resolver'
    ok $before
done

expect 'a path drops large packets in silence: each direction finds a size within 15 s, and losses do not look like that'
cat >"$dir/bulk.py" <<'PY'
import socket, sys
def read(stream):
    n = 0
    while part := stream.recv(65536): n += len(part)
    return n
if sys.argv[1] == "serve":
    listener = socket.socket(); listener.setsockopt(1, 2, 1); listener.bind(("10.8.0.1", 9000)); listener.listen()
    while True:
        stream, _ = listener.accept()
        if stream.recv(4) == b"down": stream.sendall(bytes(400_000))
        else: stream.sendall(str(read(stream)).encode())
        stream.close()
stream = socket.create_connection(("10.8.0.1", 9000), 60); stream.sendall(sys.argv[1].ljust(4).encode())
if sys.argv[1] == "up": stream.sendall(bytes(400_000)); stream.shutdown(1); print(stream.recv(99).decode())
else: print(read(stream))
PY
echo 'nameserver 203.0.113.53' >"$dir/etc/resolv.conf"
start bulk $s python3 "$dir/bulk.py" serve
await listening $s 9000
bulk() { [ "$(in_ns $c timeout "$2" python3 "$dir/bulk.py" "$1")" = 400000 ] || die "no 400000 bytes $1 within $2 s"; ok "$1"; }
for at in "$s eth0" "$c eth0" "$r c" "$r s"; do
    ip netns exec ${at% *} ethtool -K ${at#* } tso off gso off gro off >/dev/null 2>&1 || true # absent: large ones are dropped whole
done
in_ns $r nft 'table inet losses { chain f { type filter hook forward priority 0; numgen random mod 100 < 10 drop; }; }'
client 198.51.100.3; connected
bulk down 60; bulk up 60
[ "$(times client 'large packets')" = 0 ] || die 'losses are not a narrow path'
down
in_ns $r nft 'delete table inet losses; table inet narrow { chain f { type filter hook forward priority 0; meta length > 1400 drop; }; }'
client 198.51.100.3; connected
bulk down 20; bulk up 20
grep -q 'the path loses large packets' "$dir/client.log" || die 'the client has not said so'
grep -q 'the path loses large packets' "$dir/server.log" || die 'the server has not said so'
bulk down 5; bulk up 5
down
