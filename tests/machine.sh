#!/bin/bash
# machine.sh NAME FOLDER: runs a machine in the network namespace NAME, with systemd as process 1. It has this machine's files,
# and writes its changes to FOLDER/upper (an overlay). It ends when this script is killed. Its process 1 is the child of this
# script, so `nsenter --target PID --all COMMAND` runs a command in it. As root.
set -euo pipefail
name=$1 dir=$2
mkdir -p "$dir"/{upper,work,root}
groups=/sys/fs/cgroup/unified # systemd's own hierarchy, where there are old ones as well
[ -d $groups ] || groups=/sys/fs/cgroup
mkdir -p "$groups/$name"
echo $BASHPID >"$groups/$name/cgroup.procs"
# shellcheck disable=SC2016
exec nsenter --net="/run/netns/$name" \
    unshare --cgroup --mount --pid --uts --ipc --fork --kill-child --propagation private bash -euc '
    mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" fernvpn "$1/root"
    cd "$1/root"
    mount -t proc proc proc
    for part in sys net; do mount --bind proc/sys/${part#sys} proc/sys/${part#sys}; done
    mount -o remount,ro,bind proc/sys        # the rest is shared with this machine
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 dev dev
    mkdir dev/pts dev/shm dev/net
    for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
        IFS=: read -r device major minor <<<"$device"
        mknod -m 666 dev/$device c $major $minor
    done
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    mount -t tmpfs -o mode=755 run run
    mount -t tmpfs -o mode=1777 tmp tmp
    mkdir run/old
    pivot_root . run/old
    umount --lazy run/old
    hostname "$2"
    # sysinit.target is the least that a service needs, without timers, kernel settings and logins.
    exec env -i container=fernvpn PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=sysinit.target \
        </dev/null >/dev/null 2>&1' machine "$dir" "${name##*-}"
