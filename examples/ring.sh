#!/bin/sh
# Keep the last packets of a capture in a ring of files: examples/ring.sh NAME [FILE [FILTER...]]
#
# There are five files of a megabyte each, named as dumpcap names them: ring_00001_20261123101500.pcapng. When a sixth
# begins, the oldest is removed. Each is a whole capture file. It ends with the capture, or at Ctrl-C or SIGTERM.
set -eu

name=${1:?say which capture: examples/ring.sh NAME [FILE [FILTER...]]}
shift
file=${1:-ring.pcapng}
[ $# -eq 0 ] || shift

exec zbuf dump "$name" -w "$file" -b filesize:1000 -b files:5 "$@"
