#!/bin/sh
# A reader of the CC event log where ACPI and the kernel put it, without anything of tdxstack.
#
# usage: ccel.sh TABLE DATA          files that get copies of the ACPI table and of the log area
# exit status: 0 all as described; 2 usage; 3 no CCEL; 1 something is wrong (stderr says what)
set -u
[ $# -eq 2 ] || { echo "usage: ccel.sh TABLE DATA" >&2; exit 2; }
wrong() { echo "ccel: $1" >&2; exit 1; }
tables=/sys/firmware/acpi/tables
[ -r "$tables/CCEL" ] || { echo "ccel: $tables/CCEL is not there" >&2; exit 3; }
[ -r "$tables/data/CCEL" ] || { echo "ccel: $tables/data/CCEL is not there" >&2; exit 3; }
[ "$(head -c 4 "$tables/CCEL")" = CCEL ] || wrong "wrong signature"
[ "$(wc -c < "$tables/CCEL")" -eq 56 ] || wrong "the table does not have 56 bytes"
sum=0
for byte in $(od -An -v -tu1 "$tables/CCEL"); do sum=$(((sum + byte) % 256)); done
[ "$sum" -eq 0 ] || wrong "the table's checksum is wrong"
[ "$(od -An -tu1 -j36 -N1 "$tables/CCEL" | tr -d ' ')" -eq 2 ] || wrong "the CC type is not TDX"
length=$(od -An -tu8 -j40 -N8 "$tables/CCEL" | tr -d ' ')
[ "$(wc -c < "$tables/data/CCEL")" -eq "$length" ] || wrong "the log area does not have $length bytes"
head -c 64 "$tables/data/CCEL" | grep -aq "Spec ID Event03" || wrong "the log does not start with a Spec ID event"
for table in FACP APIC DSDT; do
	[ "$(head -c 4 "$tables/$table")" = "$table" ] || wrong "table $table is gone"
done
cat "$tables/CCEL" > "$1" && cat "$tables/data/CCEL" > "$2"
