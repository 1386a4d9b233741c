#!/bin/bash
# What do the demo and the tests need, besides Rust? This is the only list. As root on Debian this installs what is
# missing. Elsewhere it prints one command that does, and fails.
#
#   tests/needs.sh demo     for tests/demo.sh
#   tests/needs.sh test     for all tests
#
# Each entry is COMMAND:PACKAGE or /FILE:PACKAGE, with the package's name in Debian 12. Where python3 is not Debian's, its
# cryptography goes into target/python, a virtual environment that the Makefile puts first into PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
for_what=${1:?demo or test}
PATH=$PWD/target/python/bin:$PATH

needed=(cc:gcc /usr/include/stdlib.h:libc6-dev ip:iproute2 ping:iputils-ping curl:curl python3:python3)
if [ "$for_what" = test ]; then
    needed+=(
        nft:nftables dnsmasq:dnsmasq-base haproxy:haproxy iperf3:iperf3 tcpdump:tcpdump tshark:tshark # networks
        findmnt:util-linux pgrep:procps script:bsdutils xxd:xxd                                # tools
        chromium:chromium promtool:prometheus                                                  # what reads our output
        dpkg-shlibdeps:dpkg-dev fish:fish lintian:lintian mandoc:mandoc zsh:zsh                # the package
        /lib/systemd/systemd:systemd /lib/systemd/system/dbus.socket:dbus /usr/lib/polkit-1/polkitd:polkitd
    )
fi

missing() {
    local entry what
    for entry in "${needed[@]}"; do
        what=${entry%:*}
        if [[ $what == /* ]]; then [ -e "$what" ]; else command -v "$what" >/dev/null; fi || echo "${entry#*:}"
    done
    has_cryptography || echo python3-cryptography
}
has_cryptography() { [ "$for_what" != test ] || python3 -c 'import cryptography.fernet' 2>/dev/null; }

mapfile -t packages < <(missing)
if [ ${#packages[@]} != 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing what the $for_what needs: ${packages[*]}"
    # The tests start what they need themselves. No service of these packages starts here.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    apt-get update -q || true # a broken source of other packages is no reason to stop
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}" || true
    for service in haproxy prometheus; do
        [[ " ${packages[*]} " != *" $service "* ]] || systemctl disable "$service" || true
    done
fi
if ! has_cryptography && command -v python3 >/dev/null; then
    python3 -m venv target/python && target/python/bin/pip install --quiet cryptography || rm -rf target/python
fi

mapfile -t packages < <(missing)
if [ ${#packages[@]} != 0 ]; then
    echo "The $for_what needs packages that are not installed. To install them on Debian:" >&2
    echo "    sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
    exit 1
fi
