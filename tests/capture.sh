#!/bin/bash
# Does `fernvpn capture` decrypt everything that was recorded, and are the packets inside those of the TUN devices? Two
# clients use a path that loses and reorders packets, a third makes a Rekey, and one connects anew. As root.
#
#   alice 10.0.1.2 ── a  box  s ── 10.0.0.1 server         box: a bridge of this script's own, that drops one frame in a
#   bob   10.0.1.3 ── b                                    hundred and holds one in fifty back behind the next ones
. "$(dirname "$0")/common/network.sh"
needs curl editcap ip ping python3 sysctl tcpdump tshark
chmod 755 "$dir" # tcpdump writes as another user

cat >"$dir/box.py" <<'PYTHON'
import random, select, socket
PACKET, IGNORE_OUTGOING, VNET_HDR = 263, 23, 15    # linux/if_packet.h; the header keeps checksums and segments as they are
def link(name):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((name, 0))
    for option in VNET_HDR, IGNORE_OUTGOING:
        raw.setsockopt(PACKET, option, 1)
    raw.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)    # SO_RCVBUFFORCE
    return raw
links, chance, held = [link(name) for name in ("a", "b", "s")], random.Random(7), []
print("ready", flush=True)
def forward(source, frame):
    for target in links:
        if target is not source and (source is links[2] or target is links[2] or frame[10] & 1):
            target.send(frame)
while True:
    ready = select.select(links, [], [], 0.005)[0]
    for source in ready:
        frame = source.recv(1 << 17)
        dice = chance.random()
        if dice < 0.01:
            continue
        if dice < 0.03:
            held.append([3, source, frame])
            continue
        forward(source, frame)
        for one in held:
            one[0] -= 1
    for one in [one for one in held if one[0] <= 0 or not ready]:
        held.remove(one)
        forward(*one[1:])
PYTHON
cat >"$dir/compare.py" <<'PYTHON'
import collections, ipaddress, struct, sys
def packets(name):
    data, at = open(name, "rb").read(), 24
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        yield data[at + 16:at + 16 + length]
        at += 16 + length
def ends(packet):
    low, high = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return tuple(ipaddress.ip_address(packet[low + n:low + n + high]) for n in (0, high))
inner = collections.Counter(packets(sys.argv[1]))
compared = 0
for tun, to in zip(sys.argv[2::2], sys.argv[3::2]):
    own = {ipaddress.ip_address(address) for address in to.split(",")}
    of = lambda found: collections.Counter({p: n for p, n in found.items() if ends(p)[1] in own and ends(p)[0] in everybody})
    everybody = {ipaddress.ip_address(address) for list in sys.argv[3::2] for address in list.split(",")}
    inside, outside = of(inner), of(collections.Counter(packets(tun)))
    if inside != outside or not inside:
        sys.exit(f"{tun}: {sum(outside.values())} packets for {to}, and {sum(inside.values())} in the capture; "
                 f"{sum((inside - outside).values())} only there, {sum((outside - inside).values())} only here")
    compared += sum(inside.values())
print(f"   {compared} packets, byte by byte")
PYTHON

a=$id-a b=$id-b x=$id-box s=$id-s
namespaces $a $b $x $s
for end in "$a a 10.0.1.2" "$b b 10.0.1.3" "$s s 10.0.0.1"; do
    read -r ns port address <<<"$end"
    in_ns $ns sysctl -qw net.ipv6.conf.default.dad_transmits=0
    link $ns eth0 $x $port
    address $ns eth0 "$address/16"
    address $x $port
done
keys alice bob carol
start box $x python3 "$dir/box.py"
logged box ready
# The server has two recorders, one for each format. Each TUN device gets one as soon as it is there.
start carrier $s tcpdump -i eth0 -B 65536 -s 0 -U --immediate-mode -w "$dir/carrier.pcap" tcp port 12345
logged carrier listening
start carrierng $s tshark -q -i eth0 -B 64 -w "$dir/carrier.pcapng" -f 'tcp port 12345'
logged carrierng Capturing
tun() { start "tun-$1" "$2" tcpdump -i fern0 -B 65536 -s 0 -U --immediate-mode -w "$dir/tun-$1.pcap"; logged "tun-$1" listening; }

fern server $s server -k "$dir/server.key" --listen 10.0.0.1:12345 --keylog "$dir/keylog"
tun server $s
dd if=/dev/urandom of="$dir/file" bs=1M count=8 status=none
serve() { start "$1" "$2" python3 -m http.server --bind :: --directory "$dir" 8000; await listening "$2" 8000; }
serve web $s
# client NAME NAMESPACE SUITE: starts it, and a recorder at its device.
client() { fern "$1" "$2" client -k "$dir/$1.key" --connect 10.0.0.1:12345 --suite "$3"; tun "$1" "$2"; }
addresses() { echo "$(address4 "$1"),$(address6 "$1")"; }
fetch() { in_ns "$1" curl --fail --silent --show-error --max-time 60 -o "$dir/fetched" "http://$2:8000/file"; cmp "$dir/file" "$dir/fetched"; }

expect 'two clients, one of each suite, load and send while frames are lost and reordered'
client alice $a aes-256-gcm
client bob $b fernet
fetch $a 10.8.0.1
fetch $b '[fd0f:e12e::1]'
serve upload $a
alice=$(addresses alice)
fetch $s "$(address4 alice)"
run $b ping -q -c 5 -i 0.1 -s 1400 10.8.0.1
ok
expect 'alice connects again; carol, another program without a device, makes a Rekey'
stop alice KILL
ends tun-alice # its device has gone
mv "$dir/tun-alice.pcap" "$dir/tun-alice-1.pcap"
client alice $a aes-256-gcm
fetch $a 10.8.0.1
bob=$(addresses bob)
stop bob; ends tun-bob
run $b python3 "$tests/interop/client.py" -k "$dir/carol.key" --connect 10.0.0.1:12345 --suite aes-256-gcm --send hello --rekey --ping 2
stop alice; ends tun-alice
stop server; ends tun-server
stop carrier INT
frames() { tshark -r "$1" -T fields -e frame.number 2>"$dir/null" | wc -l; }
all_written() { [ "$(frames "$dir/carrier.pcapng")" -ge "$(frames "$dir/carrier.pcap")" ]; }
await all_written; stop carrierng INT
! grep -h 'dropped by kernel\|dropped from' "$dir"/{carrier,tun-}*.log | grep -v '^0 ' || die 'the recorders were too slow'

[ "$(stat -c %a "$dir/keylog")" = 600 ] || die 'others can read the key log'
[ "$(wc -l <"$dir/keylog")" = 4 ] || die 'four sessions have four lines'
grep -q 'KEY LOG' "$dir/server.log" || die 'no warning'
ok
for format in pcap pcapng; do
    expect "$format: everything decrypts, and the packets inside are those of the TUN devices"
    "$fernvpn" capture --keylog "$dir/keylog" "$dir/carrier.$format" --inner "$dir/inner.pcapng" --whole >"$dir/told" || die 'capture failed'
    tail -2 "$dir/told"
    grep -q '^4 sessions, .* 0 of them not opened' "$dir/told" || die "$(grep -v ' bytes ' "$dir/told")"
    ! grep -q 'not in the capture' "$dir/told" || die "$(grep 'not in the capture' "$dir/told")"
    grep -q ' Rekey ' "$dir/told" || die 'no Rekey'
    editcap -F pcap "$dir/inner.pcapng" "$dir/inner.pcap"
    mergecap -a -F pcap -w "$dir/tun-alice-all.pcap" "$dir/tun-alice-1.pcap" "$dir/tun-alice.pcap"
    python3 "$dir/compare.py" "$dir/inner.pcap" "$dir/tun-server.pcap" 10.8.0.1,fd0f:e12e::1 \
        "$dir/tun-alice-all.pcap" "$alice" "$dir/tun-bob.pcap" "$bob" || die 'other packets'
    ok
done
expect 'in segments, Wireshark finds each checksum right and none too long'
"$fernvpn" capture --keylog "$dir/keylog" "$dir/carrier.pcap" --inner "$dir/inner.pcapng" >"$dir/told"
# The checksums 0 and 0xffff both verify. The program writes 0xffff, as the kernel does.
wrong=$(tshark -r "$dir/inner.pcapng" -o tcp.check_checksum:TRUE -o ip.check_checksum:TRUE -Y '(tcp.checksum.status == 0 &&
    !(tcp.checksum == 0xffff && tcp.checksum_calculated == 0)) || ip.checksum.status == 0 || frame.len > 9000' 2>"$dir/tshark.log" | tee "$dir/wrong.log" | wc -l)
[ "$wrong" = 0 ] || die "$wrong of them are wrong"
ok
expect 'the dissector shows frames, ids, token fields and records'
# Since 4.4, tshark ignores Lua scripts of root without a word: so this runs as another user, who may read copies.
mkdir -m 755 "$dir/dissected"
install -m 644 "$tests/../docs/wireshark/fernvpn.lua" "$dir/carrier.pcapng" "$dir"/dissected
runuser -u nobody -- env HOME="$dir/dissected" tshark -o tcp.reassemble_out_of_order:TRUE -X "lua_script:$dir/dissected/fernvpn.lua" \
    -r "$dir/dissected/carrier.pcapng" -Y fernvpn -T fields -E occurrence=a \
    -E aggregator=';' -e fernvpn.kind -e fernvpn.id -e fernvpn.token.version -e fernvpn.token.time -e fernvpn.length >"$dir/shown" 2>"$dir/tshark.log"
! grep -qi 'lua.*error' "$dir/tshark.log" "$dir/shown" || die "$(grep -i error "$dir/tshark.log")"
[ "$(grep -o ClientHello "$dir/shown" | wc -l)" = 4 ] && [ "$(grep -o ServerHello "$dir/shown" | wc -l)" = 4 ] || die 'not four hellos each'
hello=$(sed -n 's/.* ClientHello .*id \([0-9a-f]*\) .*/\1/p' "$dir/told" | head -1)
grep -q "ClientHello.*$hello.*0x80.*$(date -u +%Y)" "$dir/shown" || die "no id $hello with a time"
records=$(grep -o 'Record (' "$dir/shown" | wc -l) told=$(grep -c 'Z *[0-9]* [<>] [A-Z]' "$dir/told")
[ $((records + 8)) = "$told" ] || die "$records records, and $told frames were told"
ok
