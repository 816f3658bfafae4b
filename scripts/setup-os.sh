#!/bin/sh
# Install the operating system's packages that tdxstack and its tests need.
#
# With --tests: what only tests and benchmarks use (PostgreSQL, sshd, OVMF, wrk, gdb, fish); none of them is started as a service.
#
# Safe to run again: it looks first, and does nothing when nothing is missing. Needs root, or sudo.
# Debian 12 (QEMU 10 from bookworm-backports), Debian 13 and Ubuntu.
#
# Environment: TDXSTACK_LOCK_TIMEOUT  seconds to wait for another package manager (120)
set -eu

PACKAGES="python3-venv ca-certificates swtpm swtpm-tools tpm2-tools mmdebstrap debian-archive-keyring uidmap
openssh-client mtools e2fsprogs sbsigntool zstd gcc libc6-dev util-linux mount iproute2 dpkg python3-libvirt"
TEST_PACKAGES="postgresql wrk fish openssh-server ovmf gdb rpm createrepo-c dnf gnupg gpgv dpkg-dev dmidecode
libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients netcat-openbsd"
ARGUMENTS=${1:-}
[ "$ARGUMENTS" != --tests ] || PACKAGES="$PACKAGES $TEST_PACKAGES"
QEMU_PACKAGES="qemu-system-x86 qemu-utils"
QEMU_WANTED=10
BACKPORTS_LIST=/etc/apt/sources.list.d/tdxstack-backports.list
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
POLICY=/usr/sbin/policy-rc.d

say() { printf '==> %s\n' "$*" >&2; }

fail() { # fail MESSAGE NEXT-STEP
    printf 'setup-os: %s\n  next: %s\n' "$1" "$2" >&2
    exit 1
}

missing_packages() { # the packages of "$@" that dpkg does not have installed
    # shellcheck disable=SC2016
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p')
    for package in "$@"; do
        printf '%s\n' "$installed" | grep -qx "$package" || printf '%s ' "$package"
    done
}

qemu_major() { # the major version of the QEMU on PATH, or 0
    version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\)\..*/\1/p')
    echo "${version:-0}"
}

qemu_missing() { # whether QEMU is missing or too old
    [ "$(qemu_major)" -lt $QEMU_WANTED ] || ! command -v qemu-img >/dev/null 2>&1
}

become_root() { # run this script again as root, unless we are
    [ "$(id -u)" -eq 0 ] && return
    command -v sudo >/dev/null 2>&1 ||
        fail "missing packages: $1" "run as root: $0 (or install sudo)"
    say "installing packages needs root: sudo may ask for your password"
    # shellcheck disable=SC2086
    sudo TDXSTACK_LOCK_TIMEOUT="${TDXSTACK_LOCK_TIMEOUT:-}" "$0" $ARGUMENTS && exit
    status=$?
    printf '  next: if it was sudo that refused, run this as root: %s\n' "$0" >&2
    exit $status
}

apt() { # apt-get, quiet; its talk goes to $log as well
    DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 \
        -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout="${TDXSTACK_LOCK_TIMEOUT:-120}" "$@" \
        >>"$log" 2>&1
}

explain() { # fail with what apt-get's log says is wrong
    sed -n 's/^\([EW]: \)/  \1/p' "$log" | head -n 4 >&2
    if grep -qE 'Could not get lock|is another process using it|Unable to (lock|acquire)' "$log"; then
        holder=$(sed -n 's/.*held by process \([0-9]*\( ([^)]*)\)\{0,1\}\).*/process \1/p' "$log" | tail -n 1)
        fail "${holder:-another package manager} holds the package database's lock" \
            "wait until it has ended, then run $0 again"
    elif grep -qE 'No space left on device|enough free space' "$log"; then
        fail "the disk is full" "free about 1.5 GB (df -h / /var), then run $0 again"
    elif grep -qE 'dpkg was interrupted' "$log"; then
        fail "an earlier installation was interrupted" "dpkg --configure -a, then run $0 again"
    elif grep -qE 'resolving|Could not (connect|resolve)|unreachable|Failed to fetch|Connection (failed|timed)' "$log"; then
        fail "the package mirror cannot be reached" \
            "check the network, the proxy and /etc/apt/sources.list*, then run $0 again"
    elif grep -qE 'Unable to locate|no installation candidate|not found' "$log"; then
        fail "the configured package sources do not have what is needed" \
            "add your distribution's main component (Ubuntu: universe too) to /etc/apt, then run $0 again"
    fi
    tail -n 15 "$log" >&2
    fail "apt-get failed" "read the lines above, mend that, then run $0 again"
}

candidate_major() { # the major version of qemu-system-x86 that apt would install
    LC_ALL=C apt-cache policy qemu-system-x86 |
        sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}\([0-9]*\)[.+].*/\2/p'
}

add_backports() { # make $1-backports known to apt, from the mirror that this machine uses for $1
    targets=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages')
    printf '%s\n' "$targets" | grep -q "^$1-backports " && return
    mirror=$(printf '%s\n' "$targets" | sed -n "s/^$1 //p" | head -n 1)
    [ -n "$mirror" ] || fail "no package source for $1 is configured" "add one to /etc/apt/sources.list"
    signed=
    [ ! -f $KEYRING ] || signed="[signed-by=$KEYRING] "
    say "adding $1-backports ($BACKPORTS_LIST) for QEMU $QEMU_WANTED"
    printf '%s\n' "# QEMU $QEMU_WANTED for tdxstack; written by its scripts/setup-os.sh" \
        "deb $signed$mirror $1-backports main" >$BACKPORTS_LIST.new
    mv $BACKPORTS_LIST.new $BACKPORTS_LIST
    apt update -o Dir::Etc::sourcelist=$BACKPORTS_LIST -o Dir::Etc::sourceparts=- \
        -o APT::Get::List-Cleanup=0 -o APT::Update::Error-Mode=any ||
        { rm -f $BACKPORTS_LIST; explain; }
}

keep_services_down() { # let no package start its service while this script installs: tests start their own
    [ "$ARGUMENTS" = --tests ] && [ ! -e $POLICY ] || return 0
    printf '#!/bin/sh\nexit 101\n' >$POLICY
    chmod 755 $POLICY
    policy=$POLICY
}

choose_qemu() { # sets $release so that QEMU is new enough where it can be
    [ "$(candidate_major)" -lt $QEMU_WANTED ] 2>/dev/null || return 0
    if [ "${ID:-}" = debian ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
        add_backports bookworm
        release=/bookworm-backports
    else
        say "this release offers QEMU $(candidate_major); $QEMU_WANTED or later is what tdxstack is tested with"
    fi
}

command -v apt-get >/dev/null 2>&1 ||
    fail "this system has no apt-get" "install by hand: $PACKAGES QEMU >= $QEMU_WANTED"
# shellcheck disable=SC2086
wanted=$(missing_packages $PACKAGES)
if qemu_missing; then
    qemu=$QEMU_PACKAGES
elif [ -z "$wanted" ]; then
    exit 0
fi
become_root "$wanted${qemu:-}"

# shellcheck disable=SC1091
. /etc/os-release
log=$(mktemp)
policy=
trap 'rm -f "$log" $policy' EXIT
trap 'exit 130' INT TERM
say "reading the package lists"
apt update || explain
if [ -n "${qemu:-}" ]; then
    release=
    choose_qemu
    for package in $qemu; do
        wanted="$wanted$package$release "
    done
    [ -z "$release" ] || wanted="${wanted}qemu-system-common$release qemu-system-data$release seabios$release"
fi
say "installing: $wanted"
keep_services_down
# shellcheck disable=SC2086
apt install --no-install-recommends $wanted || explain
# shellcheck disable=SC2086
left=$(missing_packages $PACKAGES)
[ -z "$left" ] || fail "still missing: $left" "apt-get install $left"
! qemu_missing || say "QEMU $(qemu_major) is installed; $QEMU_WANTED or later is what tdxstack is tested with"
say "the operating system's packages are installed"
