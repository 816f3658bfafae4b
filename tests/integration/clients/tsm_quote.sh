#!/bin/sh
# A client of configfs-tsm by the kernel's own description (Documentation/ABI/testing/configfs-tsm-report), without
# anything of tdxstack: makes an entry, writes 64 bytes, reads the quote, and checks the rules on the way.
#
# usage: tsm_quote.sh OUTPUT
# exit status: 0 all as described; 2 usage; 3 no configfs-tsm; 1 a rule does not hold (stderr says which)
set -u
[ $# -eq 1 ] || { echo "usage: tsm_quote.sh OUTPUT" >&2; exit 2; }
out=$1
tsm=/sys/kernel/config/tsm/report
[ -d "$tsm" ] || { echo "tsm_quote: $tsm is not there" >&2; exit 3; }
work=$(mktemp -d) || exit 2
entry=$tsm/client-$$
wrong() { echo "tsm_quote: $1" >&2; rmdir "$entry" 2>/dev/null; rm -rf "$work"; exit 1; }

mkdir "$entry" || wrong "mkdir failed"
mkdir "$entry" 2>/dev/null && wrong "mkdir of an entry that exists succeeded"
mkdir "$entry/sub" 2>/dev/null && wrong "mkdir inside an entry succeeded"
(: > "$entry/new") 2>/dev/null && wrong "a new file could be made"
rm -f "$entry/provider" 2>/dev/null && [ ! -e "$entry/provider" ] && wrong "an attribute could be removed"
[ "$(cat "$entry/provider")" = tdx_guest ] || wrong "provider is not tdx_guest"
[ "$(cat "$entry/generation")" = 0 ] || wrong "generation of a new entry is not 0"
cat "$entry/inblob" >/dev/null 2>&1 && wrong "inblob could be read"
(: > "$entry/outblob") 2>/dev/null && wrong "outblob could be opened for writing"
cat "$entry/outblob" >/dev/null 2>&1 && wrong "outblob was there without an inblob"

head -c 64 /dev/urandom > "$work/data" || wrong "no random data"
head -c 63 "$work/data" > "$entry/inblob" || wrong "63 bytes were refused on write"
cat "$entry/outblob" > /dev/null 2>"$work/error" && wrong "63 bytes of inblob gave a quote"
grep -q "Invalid argument" "$work/error" || wrong "63 bytes of inblob: not EINVAL: $(cat "$work/error")"
head -c 65 /dev/zero > "$work/long"
dd if="$work/long" of="$entry/inblob" bs=65 count=1 conv=notrunc 2>"$work/error" && wrong "65 bytes were taken"
grep -q "File too large" "$work/error" || wrong "65 bytes: not EFBIG: $(cat "$work/error")"

before=$(cat "$entry/generation")
cat "$work/data" > "$entry/inblob" || wrong "64 bytes were refused"
cat "$entry/outblob" > "$work/quote" || wrong "no quote"
[ "$(cat "$entry/generation")" -eq $((before + 1)) ] || wrong "generation did not go up by one"
cat "$entry/outblob" | cmp -s - "$work/quote" || wrong "a second read gave another quote"
[ "$(wc -c < "$work/quote")" -gt 1000 ] || wrong "the quote is too short"
# REPORTDATA stands at 48 + 520 of a quote of version 4, at 48 + 6 + 520 of version 5 with a TD 1.5 body.
version=$(od -An -tu2 -N2 "$work/quote" | tr -d ' ')
case $version in
4) at=568 ;;
5) at=574 ;;
*) wrong "quote version $version" ;;
esac
dd if="$work/quote" bs=1 skip=$at count=64 2>/dev/null | cmp -s - "$work/data" || wrong "the quote is over other data"

exec 9< "$entry/generation"
rmdir "$entry" || wrong "rmdir failed"
[ ! -e "$entry" ] || wrong "the entry is still there"
cat <&9 >/dev/null 2>&1 && wrong "an attribute of a removed entry could be read"
exec 9<&-
cat "$work/quote" > "$out" || exit 2
rm -rf "$work"
