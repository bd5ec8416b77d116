#!/bin/busybox sh
# The first process of a lab machine: loads modules, mounts what a host has, runs /lab/command, hands back its
# exit code and the files in /out, and turns the machine off.
export PATH=/lab/bin:/usr/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
while read -r module; do
    insmod "$module" || echo "lab: cannot load $module"
done </lab/modules.list
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname lab
ip link set lo up

# Ports and disks are known by the names that the host gave them, not by the order in which they were found.
# A disk or port may be found a moment after its module was loaded.
named() {
    for _ in $(seq 100); do
        for file in $1; do
            [ "$(cat "$file" 2>/dev/null)" = "$2" ] && echo "/dev/$(basename "$(dirname "$file")")" && return
        done
        sleep 0.05
    done
    echo "lab: found no device named $2" >/dev/console
}
port() { named "/sys/class/virtio-ports/*/name" "$1"; }
disk() { named "/sys/block/*/serial" "$1"; }
tell() { echo "$*" >"$control"; }

# From here on the kernel tells the console of errors only: a serial line is slow, and tests look at what takes time.
echo 4 >/proc/sys/kernel/printk
control=$(port control)
tell "up $(cut -d' ' -f1 /proc/uptime)"
. /lab/settings
if [ -n "$LAB_FS" ]; then
    if ! mount -t "$LAB_FS" "$(disk data)" /data; then
        tell "no-data"
        poweroff -f
    fi
    mkdir -p /data/tmp
    export TMPDIR=/data/tmp
    ln -s /data/tmp /var/tmp
fi
cd /out
if [ -n "$LAB_SHELL" ]; then
    setsid cttyhack sh -l </dev/hvc0 >/dev/hvc0 2>&1
    code=$?
else
    output=$(port output)
    sh /lab/command </dev/null >"$output" 2>&1
    code=$?
fi
cd /
if [ -n "$(ls -A /out)" ]; then
    tar -cf "$(disk out)" -C /out . || tell "no-files"
    tell "files"
fi
sync
umount /data 2>/dev/null
tell "exit $code"
poweroff -f
