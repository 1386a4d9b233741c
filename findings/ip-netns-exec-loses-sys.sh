#!/bin/bash
# Tools: ip of iproute2 6.1.0 (Debian 12, iproute2 6.1.0-3) and nsenter. It needs root.
# Behaviour: in "ip netns exec", all that is mounted below /sys is gone: control groups, the file system for BPF. A program there
#   finds no limit of its memory, and no pinned map. By nsenter in the same network namespace, all is there.
# Expected otherwise: ip-netns(8): the command enters the network namespace, and binds the files of /etc/netns/NAME over those in
#   /etc. It says nothing of other mounts; a reader takes it for nsenter with a resolv.conf.
# Seen: a file in what is mounted at /sys/fs/cgroup is read by nsenter, and is not there in "ip netns exec".
set -euo pipefail
[ "${1:-}" = inside ] || {
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    chmod 755 "$dir"
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download iproute2=6.1.0-3)
    dpkg -x "$dir"/iproute2_*.deb "$dir"
    # What is mounted below is gone with this namespace.
    unshare --mount --net bash "$0" inside "$dir/bin/ip" || { echo 'this has changed'; exit 1; }
    echo 'as described'
    exit
}
ip=$2
"$ip" -Version
mount -t tmpfs none /run # the name of a network namespace stands in /run/netns
mount -t tmpfs none /sys/fs/cgroup # in place of the machine's, so that the same is seen everywhere
echo 1048576 >/sys/fs/cgroup/memory.max
"$ip" netns add finding
by_nsenter=$(nsenter --net=/run/netns/finding cat /sys/fs/cgroup/memory.max)
by_ip=$("$ip" netns exec finding cat /sys/fs/cgroup/memory.max 2>&1 || true)
same=$([ "$("$ip" netns exec finding readlink /proc/self/ns/net)" = "$(nsenter --net=/run/netns/finding readlink /proc/self/ns/net)" ] && echo yes)
printf 'one network namespace: %s\nnsenter: %s\nip netns exec: %s\n' "$same" "$by_nsenter" "$by_ip"
[ "$same $by_nsenter" = 'yes 1048576' ] && [[ $by_ip = *'No such file or directory' ]]
