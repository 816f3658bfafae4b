# Run a program whose mounts are seen by nobody else: private.sh PROGRAM [ARGUMENT]...
# Started in a mount namespace of its own. In a chroot "/" is no mount point; then each mount below it is made private.
mount --make-rprivate / 2>/dev/null ||
    while read -r _ _ _ _ point _; do
        mount --make-private "$point" 2>/dev/null || :
    done </proc/self/mountinfo
exec "$@"
