# Run a program in a tree of files with its own mounts: enter.sh TREE [SOURCE TARGET]... -- PROGRAM [ARGUMENT]...
# Started in a mount and a process namespace of its own: whatever happens, the mounts end with it.
set -eu
tree=$1
shift
# mkosi wants its root to be a mount point
mount --bind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
mount -t tmpfs -o mode=0755 tmpfs "$tree/run"
for file in resolv.conf hosts; do
    [ ! -e "/etc/$file" ] || mount --bind "$(readlink -f "/etc/$file")" "$tree/etc/$file"
done
while [ "$1" != -- ]; do
    mkdir -p "$tree$2"
    mount --bind "$1" "$tree$2"
    shift 2
done
shift
exec chroot "$tree" "$@"
