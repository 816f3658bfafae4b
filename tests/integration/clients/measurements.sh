#!/bin/sh
# A client of the measurement registers in sysfs by the kernel's own description
# (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest), without anything of tdxstack.
#
# usage: measurements.sh OUTPUT      OUTPUT gets one line "NAME HEX" for each register, before the extension
# exit status: 0 all as described; 2 usage; 3 no registers; 1 a rule does not hold (stderr says which)
set -u
[ $# -eq 1 ] || { echo "usage: measurements.sh OUTPUT" >&2; exit 2; }
out=$1
wrong() { echo "measurements: $1" >&2; exit 1; }
dir=/sys/devices/virtual/misc/tdx_guest/measurements
[ -d "$dir" ] || { echo "measurements: $dir is not there" >&2; exit 3; }
[ /sys/class/misc/tdx_guest/measurements -ef "$dir" ] || wrong "/sys/class/misc/tdx_guest is not the same device"
hex() { od -An -v -tx1 "$1" | tr -d ' \n'; }

for name in mrtd:sha384 mrconfigid mrowner mrownerconfig rtmr0:sha384 rtmr1:sha384 rtmr2:sha384 rtmr3:sha384; do
	[ "$(wc -c < "$dir/$name")" -eq 48 ] || wrong "$name does not have 48 bytes"
	[ "$(stat -c %s "$dir/$name")" -eq 48 ] || wrong "the size of $name is not 48"
	echo "$name $(hex "$dir/$name")"
done > "$out"

[ "$(stat -c %a "$dir/rtmr3:sha384")" = 644 ] || wrong "mode of rtmr3 is not 644"
[ "$(stat -c %a "$dir/mrtd:sha384")" = 444 ] || wrong "mode of mrtd is not 444"
(head -c 48 /dev/zero > "$dir/mrtd:sha384") 2>/dev/null && wrong "mrtd could be written"
head -c 47 /dev/zero > /tmp/short.$$
dd if=/tmp/short.$$ of="$dir/rtmr3:sha384" bs=47 conv=notrunc 2>/dev/null && wrong "47 bytes extended rtmr3"
mkdir "$dir/new" 2>/dev/null && wrong "a directory could be made"

# A write of 48 bytes extends: new value = SHA-384(old value, digest).
event=/tmp/event.$$
sha384sum "$0" | cut -c1-96 > /tmp/digest.$$
digest=$(cat /tmp/digest.$$)
escaped=$(echo "$digest" | sed 's/../\\x&/g')
/usr/bin/printf "$escaped" > "$event"
cat "$dir/rtmr3:sha384" "$event" > /tmp/both.$$
cat "$event" > "$dir/rtmr3:sha384" || wrong "the extension of rtmr3 failed"
expected=$(sha384sum /tmp/both.$$ | cut -c1-96)
[ "$(hex "$dir/rtmr3:sha384")" = "$expected" ] || wrong "rtmr3 is not SHA-384(old, digest)"
rm -f /tmp/short.$$ /tmp/digest.$$ /tmp/both.$$ "$event"
