#!/bin/sh
# The last packets of a capture in a ring of files: examples/ring.sh NAME [FILE [FILTER...]]
#
# Five files of a megabyte each, named as dumpcap does: ring_00001_20261123101500.pcapng; the oldest goes when a sixth
# begins. Each is a whole capture file. The capture's end, Ctrl-C or SIGTERM ends it.
set -eu

name=${1:?say which capture: examples/ring.sh NAME [FILE [FILTER...]]}
shift
file=${1:-ring.pcapng}
[ $# -eq 0 ] || shift

exec zbuf dump "$name" -w "$file" -b filesize:1000 -b files:5 "$@"
