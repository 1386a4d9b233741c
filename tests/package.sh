#!/bin/bash
# Can people install, run, upgrade and remove the package? A server and two clients are machines of their own. Each has
# systemd as process 1, and the package is installed there (machine.sh). Nothing is installed on this machine.
#
#   $a: alice 192.0.2.2 ────── a │          │                          ┌─ $w: web server, resolver ─┐
#       2001:db8:a::2            │ $r:      │ s ── $s: server          │ 10.99.0.2                  │
#   $b: bob 198.51.100.2 ───── b │ internet │      203.0.113.2    in ──┼ 2001:db8:99::2             │
#       2001:db8:b::2            │          │      2001:db8:5::2       └────────────────────────────┘
#
# alice's kill switch is on, and a recorder captures what leaves by her link.
. "$(dirname "$0")/common/network.sh"
cd "$tests/.."
unshare --mount true 2>/dev/null || skip 'this root may not make mount namespaces'
[ -x /lib/systemd/systemd ] || skip 'there is no systemd'
needs curl dnsmasq dpkg-shlibdeps fish ip lintian mandoc nft python3 tcpdump zsh

declare -A machines=() # process 1 of each
groups=/sys/fs/cgroup/unified
[ -d $groups ] || groups=/sys/fs/cgroup
also_clean_up() {
    local group
    for group in "$groups/$id"-*; do
        # The group can be removed as soon as the kernel has ended everything in it.
        for _ in {1..100}; do find "$group" -depth -type d -exec rmdir {} \;; [ -d "$group" ] || break; sleep 0.1; done
    done
}

in_machine() { local machine=$1; shift; nsenter --target "${machines[$machine]}" --all -- "$@"; }
# on MACHINE COMMAND...: shows it and runs it there.
on() { show "$@"; in_machine "$@" >"$dir/run.log" 2>&1 || die "status $?: $(tail -n 5 "$dir/run.log")"; }
shows() { in_machine "$1" systemctl show --property "$3" --value "$2"; }
says() { [[ $(shows "$1" "$2" StatusText) == $3 ]]; }                                   # MACHINE UNIT PATTERN
is_active() { [ "$(shows "$1" "$2" ActiveState)" = active ]; }
fetch() { in_machine "$1" curl --silent --globoff --max-time 3 "${@:3}" "http://$2/"; } # prints the address that the web server sees
reaches() { [ "$(fetch "$1" "$2" "${@:4}")" = "$3" ]; }
# document HEADING [NUMBER]: the blocks of commands below that heading of OPERATIONS.md, or one of them. by_the_book MACHINE
# HEADING [NUMBER] types them, as they stand, in root's folder there. Whatever fails in them ends the test.
document() {
    awk -v heading="## $1" -v number="${2:-0}" '/^## / { inside = $0 == heading }
        inside && /^ *```/ { block = /```sh/; seen += block; match($0, /^ */); indent = RLENGTH; next }
        inside && block && (!number || seen == number) { print substr($0, indent + 1); said = 1 }
        END { exit !said }' docs/OPERATIONS.md || die "there is no block ${2:-} below $1"
}
by_the_book() { local text; text=$(document "$2" "${3:-}"); on "$1" bash -euc "cd ~root; $text"; }
# row WANTED: prints the command that the table of OPERATIONS.md has for it.
row() { local text; text=$(sed -n "s/^| $1 | \`\(.*\)\` |\$/\1/p" docs/OPERATIONS.md); [ "$text" ] || die "there is no row '$1'"; echo "$text"; }
bring() { in_machine "$2" sh -c "cat ~root/$1; rm ~root/$1" | in_machine "$3" sh -c "umask 077; cat >~root/$1"; } # FILE FROM TO

# ---- what can be read without running it

expect 'lintian finds nothing'
packaging/deb >"$dir/deb.log" 2>&1 || { cat "$dir/deb.log"; die 'no package'; }
package=$(sed -n "s/.* in '\(.*\)'\.$/\1/p" "$dir/deb.log")
lintian --allow-root --fail-on error,warning "$package" || die 'lintian complains'
ok

expect 'the same tree makes the same package'
sum=$(sha256sum <"$package")
packaging/deb >/dev/null 2>&1
[ "$(sha256sum <"$package")" = "$sum" ] || die 'another one'
ok

expect 'mandoc finds nothing in the man pages'
# mandoc's list of other pages does not matter, and it may be older than they are.
dpkg-deb --extract "$package" "$dir/package"
for page in 8/fernvpn.8 5/fernvpn.conf.5; do [ -s "$dir/package/usr/share/man/man$page.gz" ] || die "there is no man$page"; done
for page in "$dir"/package/usr/share/man/man?/*.gz; do
    zcat "$page" | mandoc -T lint >"$dir/mandoc" 2>&1 || true
    fails grep -v 'referenced manual not found\|outdated mandoc.db' "$dir/mandoc" || die "mandoc complains about ${page##*/}"
done
ok

expect 'the units are exposed to 2.0 at most'
for unit in packaging/systemd/*.service; do
    systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" >"$dir/exposure" || { grep ✗ "$dir/exposure"; die "$unit"; }
    ok "$(tail -n 1 "$dir/exposure" | tr -dc ' -~')"
done

expect 'bash, zsh and fish complete'
export shared=$dir/package/usr/share
completes() { # SHELL WORDS RESULT
    local got
    case $1 in
        # shellcheck disable=SC2016
        bash) got=$(bash -c '. "$2"; read -ra COMP_WORDS <<<"$1"; [[ $1 != *" " ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _fernvpn 2>/dev/null; echo "${COMPREPLY[*]}"' bash "$2" "$shared/bash-completion/completions/fernvpn") ;;
        fish) got=$(fish --no-config --command "source $shared/fish/vendor_completions.d/fernvpn.fish; complete -C '$2'" | cut -f 1 | sort | xargs) ;;
        zsh) got=$(timeout 60 zsh -f "$dir/complete.zsh" "$2" "$(mktemp -p "$dir")") ;;
    esac
    [[ $got == $3 ]] || die "$1: '$2' gives '$got', not '$3'"
}
# This presses the tab key in a terminal. The completion itself writes what it offers into a file.
cat >"$dir/complete.zsh" <<'ZSH'
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1= PROMPT_EOL_MARK=; fpath=($shared/zsh/vendor-completions \$fpath); autoload -U compinit; compinit -u -D; zstyle ':completion:*' format; unsetopt list_beep
show() { compadd() { local -a hits; builtin compadd -O hits \"\$@\"; print -l -- \$hits >>\$out; builtin compadd \"\$@\" }; _main_complete; print done >>\$out }
out=$2; zle -C show complete-word show; bindkey '^I' show; print REA''DY"
while zpty -r z line; do [[ $line = *READY* ]] && break; done
zpty -w -n z "$1"$'\t'
until [[ $(<$2) = *done ]]; do sleep 0.02; done
print -r -- ${(ou)${(f)"$(<$2)"}:#done}
ZSH
for shell in bash fish zsh; do
    completes $shell 'fernvpn res' reset-client
    completes $shell 'fernvpn server --max' --max-clients
    completes $shell 'fernvpn client --suite ' 'aes-256-gcm fernet'
    completes $shell 'fernvpn server -c /etc/hostn' "*hostname"
    completes $shell 'fernvpn client -- /bin/zca' "*zcat"
    ok $shell
done

# ---- the machines

a=$id-alice b=$id-bob s=$id-server r=$id-internet w=$id-web
namespaces $a $b $s $r $w
uplink $a $r a 192.0.2 2001:db8:a
uplink $b $r b 198.51.100 2001:db8:b
uplink $s $r s 203.0.113 2001:db8:5
link $s in $w eth0
address $s in 10.99.0.1/24 2001:db8:99::1/64
address $w eth0 10.99.0.2/24 2001:db8:99::2/64
address $w lo 9.9.9.9/32 # the resolver of OPERATIONS.md
ip -n $s route add 9.9.9.9 via 10.99.0.2
forwards $r
# The web server has no route back to the tunnel, and none to the internet.
start web $w python3 "$tests/common/web.py" 80
start resolver $w dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user=root \
    --address=/web.inside.test/10.99.0.2 --address=/web.inside.test/2001:db8:99::2 --address=/example.org/10.99.0.2
for port in 80 53; do await listening $w $port; done

mkdir "$dir/machines"
mount -t tmpfs fernvpn "$dir/machines"
for machine in $a $b $s; do
    tests/machine.sh $machine "$dir/machines/$machine" &
    await pgrep --parent $! --exact systemd
    machines[$machine]=$(pgrep --parent $! --exact systemd)
done
for machine in $a $b $s; do
    # If fernvpn is installed on this machine, its files do not count there.
    await in_machine $machine systemctl is-system-running
    in_machine $machine sh -c 'rm -rf /etc/fernvpn /var/lib/fernvpn /usr/sbin/policy-rc.d' # policy-rc.d forbids starting services
    in_machine $machine systemctl start dbus.socket
    in_machine $machine journalctl --follow --quiet --output=cat _COMM=fernvpn + _PID=1 >"$dir/${machine##*-}.log" 2>&1 &
done

expect 'it installs: a user, an empty folder for configurations, nothing that runs'
for machine in $a $b $s; do
    in_machine $machine sh -c 'cat >/tmp/fernvpn.deb' <"$package"
    on $machine dpkg --install /tmp/fernvpn.deb
done
[ "$(in_machine $s stat --format='%U:%G %a' /etc/fernvpn)" = 'root:fernvpn 2750' ] || die 'not this folder'
[ -z "$(in_machine $s systemctl list-units --all --no-legend 'fernvpn-*')" ] || die 'something runs'
in_machine $s systemd-analyze verify --man=no /usr/lib/systemd/system/fernvpn-{server,client}@.service >"$dir/verify" 2>&1 || { cat "$dir/verify"; die 'a unit is wrong'; }
ok

expect 'a server, as OPERATIONS.md says'
for host in "$s:127.0.0.1" "$a:203.0.113.2" "$b:2001:db8:5::2"; do echo "${host#*:} vpn.example.org" | in_machine "${host%%:*}" tee -a /etc/hosts >"$dir/quiet"; done
by_the_book $s 'A first server'
[ "$(in_machine $s stat --format='%U:%G %a' /etc/fernvpn/vpn.conf)" = 'root:fernvpn 640' ] || die "the configuration is of $(in_machine $s stat --format='%U:%G %a' /etc/fernvpn/vpn.conf)"
process() { in_machine "$1" sed -n "s/^$3:[[:space:]]*//p" "/proc/$(shows "$1" "$2" MainPID)/status"; }
[ "$(process $s fernvpn-server@vpn CapEff)" = 0000000000001000 ] || die "capabilities $(process $s fernvpn-server@vpn CapEff)"
user=$(in_machine $s id --user fernvpn)
[[ $(process $s fernvpn-server@vpn Uid) == "$user"$'\t'"$user"* ]] || die 'another user'
ok 'as fernvpn, with CAP_NET_ADMIN alone'
if in_machine $s test -e /usr/share/doc/fernvpn/examples/low-port.conf; then
    by_the_book $s 'A port below 1024'
    [ "$(process $s fernvpn-server@vpn CapBnd)" = 0000000000001400 ] || die 'a port below 1024 is not allowed'
    in_machine $s rm -r /etc/systemd/system/fernvpn-server@vpn.service.d
    on $s systemctl daemon-reload
    on $s systemctl restart fernvpn-server@vpn
    ok 'a port below 1024'
fi
in_machine $s chmod 600 /etc/fernvpn/vpn.conf
! said=$(in_machine $s fernvpn check -c /etc/fernvpn/vpn.conf 2>&1) || die 'check finds nothing wrong with what the service cannot read'
on $s sh -c "${said##*Try: }" # the advice, as it stands
on $s fernvpn check -c /etc/fernvpn/vpn.conf
[ "$(in_machine $s stat --format='%U:%G %a' /etc/fernvpn/vpn.conf)" = 'root:fernvpn 640' ] || die "the advice is wrong: $said"
ok 'check asks for the service, and its advice fits'
on $s bash -euc "cd ~root; $(row 'add bob')"
by_the_book $s 'Ratcheted keys' 1
ok 'clients are added while it runs'

expect 'clients: everything through the tunnel, IPv4 and IPv6, names resolved inside'
# alice has systemd-resolved as Debian sets it up. On bob it does not run.
resolved=''
if in_machine $a test -x /usr/bin/resolvectl; then
    resolved=yes
    in_machine $a ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
    on $a systemctl restart systemd-resolved
fi
[ ! $resolved ] || on $b systemctl mask --now systemd-resolved
for machine in $b ${resolved:-$a}; do
    [ $machine = yes ] || echo 'nameserver 9.9.9.9' | in_machine $machine tee /etc/resolv.conf >"$dir/quiet"
done
bring alice.conf $s $a; by_the_book $a 'A first client'
bring carol.conf $s $b; by_the_book $b 'Ratcheted keys' 2
in_machine $a sh -c 'echo kill-switch = yes >>/etc/fernvpn/home.conf'
on $a systemctl restart fernvpn-client@home
for machine in $a $b; do
    says $machine fernvpn-client@home 'connected: *' || die "not connected: $(shows $machine fernvpn-client@home StatusText)"
    for name in 10.99.0.2 '[2001:db8:99::2]'; do
        want=10.99.0.1; [[ $name == 10* ]] || want=2001:db8:99::1
        reaches $machine "$name" $want || die "asked $name: seen as '$(fetch $machine "$name")'"
    done
    ok "${machine#*-}, by address"
done
in_machine $s fernvpn status vpn | tee "$dir/status"
grep -q alice "$dir/status" && grep -q carol "$dir/status" || die 'status does not know them'
in_machine $a fernvpn status home >"$dir/status" || die 'no status of a client'
ok 'status'
reaches $b web.inside.test 10.99.0.1 -4 && reaches $b web.inside.test 2001:db8:99::1 -6 || die "bob: $(fetch $b web.inside.test)"
if [ $resolved ]; then
    reaches $a web.inside.test 10.99.0.1 -4 && reaches $a web.inside.test 2001:db8:99::1 -6 || die "alice: $(fetch $a web.inside.test)"
    ok 'by name: systemd-resolved asks through the tunnel, and polkit lets the service tell it so'
    as() { in_machine $a setpriv --reuid="$1" --regid="$1" --clear-groups "${@:2}" </dev/null >"$dir/quiet" 2>&1; }
    before=$(in_machine $a resolvectl dns fern0)
    ! as nobody resolvectl dns fern0 203.0.113.53 && ! as nobody resolvectl revert fern0 || die 'polkit lets anybody'
    ! as fernvpn resolvectl llmnr fern0 no || die 'polkit lets the service do more than it needs'
    [ "$(in_machine $a resolvectl dns fern0)" = "$before" ] || die 'the resolvers have changed'
    as fernvpn resolvectl dns fern0 9.9.9.9 || die 'polkit does not let the service'
    ok 'and nobody else, nor anything else'
fi
in_machine $b journalctl --unit=fernvpn-client@home --output=cat | grep -q 'resolvers are not in use' || die 'bob was told nothing'
ok 'by name, without systemd-resolved: a warning, and resolv.conf stays'

expect 'a command of an ordinary user; its client is taken out at once'
bring bob.conf $s $b
in_machine $b sh -c 'install -D -m 600 -o nobody ~root/bob.conf /tmp/nobody/bob.conf'
text=$(document 'One program alone, without root')
asks() { in_machine $b setpriv --reuid=nobody --regid=nogroup --clear-groups bash -c "cd /tmp/nobody; ${text/https/http}"; } # there is no TLS here
[ "$(asks 2>"$dir/asks.log")" = 10.99.0.1 ] || { cat "$dir/asks.log"; die 'not through the tunnel'; }
ok
on $s bash -euc "$(row 'remove bob at once')"
told=$(in_machine $s fernvpn status vpn)
[[ $told != *bob* ]] || die 'bob is still there'
ok

# ---- accidents

unit=fernvpn-client@home
expect 'the watchdog ends a server that stands still, and it comes back (looked at below)'
on $b systemctl disable --now $unit
in_machine $b sh -c 'mkdir /etc/systemd/system/fernvpn-server@.service.d; printf "[Service]\nWatchdogSec=22\n" >/etc/systemd/system/fernvpn-server@.service.d/soon.conf
    (umask 027; printf "[server]\naddress = 10.7.0.1/24\npush-routes = 10.6.0.0/24\n[peer]\nname = x\nkey = %s\n" "$(fernvpn genkey)" >/etc/fernvpn/own.conf); systemctl daemon-reload'
on $b systemctl start fernvpn-server@own
own=$(shows $b fernvpn-server@own MainPID)
on $b kill -STOP "$own"
ok

expect 'only the carrier on the outer link, also while the server is killed, away, and back, and after the client is killed'
start tcpdump $r tcpdump -i a -U -w "$dir/alice.pcap"
logged tcpdump 'listening on'
# This never stops asking, by every way.
# shellcheck disable=SC2016
in_machine $a sh -c 'while :; do
    for at in 10.99.0.2 "[2001:db8:99::2]" web.inside.test; do curl --silent --globoff --max-time 1 "http://$at/"; curl --silent --globoff --max-time 1 --interface eth0 "http://$at/"; done
    ping -c 1 -W 1 203.0.113.1; ping -c 1 -W 1 2001:db8:5::1; sleep 0.1; done' >"$dir/asking.log" 2>&1 &
pids[asking]=$!
reaches $a 10.99.0.2 10.99.0.1 || die 'no way'
restarts=$(shows $s fernvpn-server@vpn NRestarts)
on $s systemctl kill --signal=KILL --kill-whom=main fernvpn-server@vpn
await says $a $unit '*connection*' # lost, and soon no connection
await eval "[ \"\$(shows $s fernvpn-server@vpn NRestarts)\" -gt $restarts ] && is_active $s fernvpn-server@vpn"
await reaches $a 10.99.0.2 10.99.0.1
ok 'killed, started again by systemd, and the client is back'
on $s systemctl stop fernvpn-server@vpn
await says $a $unit 'no connection*'
! fetch $a 10.99.0.2 || die 'it got out'
! fetch $a '[2001:db8:99::2]' || die 'it got out'
on $s systemctl start fernvpn-server@vpn
await reaches $a '[2001:db8:99::2]' 2001:db8:99::1
ok 'stopped, and started'
on $a systemctl kill --signal=KILL --kill-whom=main $unit
await no_device $a
! fetch $a 10.99.0.2 || die 'it got out'
await reaches $a 10.99.0.2 10.99.0.1
ok 'the client killed, and started again by systemd'
carrier='(tcp port 12345 and host 192.0.2.2 and host 203.0.113.2)'
between='arp or (icmp6 and (ip6[40] >= 133 and ip6[40] <= 136 or ip6[40] == 143)) or (ip6 proto 0 and ip6[48] == 143)' # ND, MLD
stop tcpdump
tcpdump -r "$dir/alice.pcap" -n "$carrier" >"$dir/carrier" 2>/dev/null
tcpdump -r "$dir/alice.pcap" -n "not $carrier and not ($between)" >"$dir/other" 2>/dev/null
[ "$(wc -l <"$dir/carrier")" -gt 50 ] || die 'nothing was captured'
[ ! -s "$dir/other" ] || { head "$dir/other"; die 'other packets left'; }
ok "$(wc -l <"$dir/carrier") packets of the carrier, none else"
stop asking KILL

expect 'a stop leaves the machine as it was'
state() { in_machine "$1" sh -c 'ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all | grep -v "^multicast\|expires\|fe80"; nft list ruleset; ip -o link; grep -r . /proc/sys/net/ipv4/conf/all/ /proc/sys/net/ipv6/conf/all /proc/sys/net/ipv4/ip_forward; ls /run/fernvpn; resolvectl dns' 2>/dev/null | grep -v ' fern0' || true; }
on $a systemctl stop $unit
state $a >"$dir/stopped"
! grep -q 'fern\|12345' "$dir/stopped" || { grep 'fern\|12345' "$dir/stopped"; die 'something is left'; }
ok

expect 'a client whose server is away fails no boot'
on $s systemctl stop fernvpn-server@vpn
state $s >"$dir/stopped"
! grep -q 'fern\|12345' "$dir/stopped" || { grep 'fern\|12345' "$dir/stopped"; die 'the server left something'; }
on $a systemctl start $unit
is_active $a $unit && says $a $unit 'no connection*' || die "$(shows $a $unit StatusText)"
on $s systemctl start fernvpn-server@vpn
await reaches $a 10.99.0.2 10.99.0.1
ok

expect 'an upgrade starts again what runs, and nothing else; configurations stay'
mkdir "$dir/newer"
dpkg-deb --raw-extract "$package" "$dir/newer/tree"
sed -i 's/^Version: .*/&+1/' "$dir/newer/tree/DEBIAN/control"
dpkg-deb --root-owner-group --build "$dir/newer/tree" "$dir/newer.deb" >"$dir/quiet"
before=$(shows $s fernvpn-server@vpn MainPID)
for machine in $a $s; do
    in_machine $machine sh -c 'cat >/tmp/newer.deb' <"$dir/newer.deb"
    on $machine dpkg --install /tmp/newer.deb
done
[ "$(shows $s fernvpn-server@vpn MainPID)" != "$before" ] && is_active $s fernvpn-server@vpn || die 'it was not started again'
[ "$(in_machine $s stat --format='%U:%G %a' /etc/fernvpn /etc/fernvpn/vpn.conf | xargs)" = 'root:fernvpn 2750 root:fernvpn 640' ] || die 'not as it was'
await reaches $a 10.99.0.2 10.99.0.1
ok

expect 'the watchdog did'
await eval "[ \"\$(shows $b fernvpn-server@own NRestarts)\" -ge 1 ] && is_active $b fernvpn-server@own"
in_machine $b journalctl --unit=fernvpn-server@own --output=cat | grep -q 'Watchdog timeout' || die 'it was something else'
[ "$(shows $b fernvpn-server@own MainPID)" != "$own" ] || die 'the same'
ok

expect 'removed, the services stop and the configurations stay; purged, nothing is left but the user'
for machine in $a $b $s; do
    on $machine dpkg --remove fernvpn
    ! in_machine $machine pgrep -x fernvpn >"$dir/quiet" || die 'it still runs'
    in_machine $machine test -d /etc/fernvpn || die 'the configuration has gone'
    state $machine >"$dir/stopped"
    ! grep -q 'fern\|12345' "$dir/stopped" || { grep 'fern\|12345' "$dir/stopped"; die 'something is left'; }
    on $machine dpkg --purge fernvpn
    home=$(echo ~root)
    left=$(cd "$dir/machines/$machine/upper" && find . -path '*fernvpn*' -not -type c -not -path './var/log/*' -not -path ".$home/*" -not -path '*/soon.conf' -not -path '*/fernvpn-server@.service.d')
    [ -z "$left" ] || { echo "$left"; die 'files are left'; }
done
ok
