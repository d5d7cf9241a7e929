#!/bin/sh
# The last packets of a capture in a ring of files, as dumpcap writes it: examples/ring.sh NAME [FILE [FILTER...]]
#
# Five files of a megabyte each, named like ring_00001_20261123101500.pcapng; the oldest goes when a sixth begins.
# They can be copied while it runs: each is a whole capture file.  Ctrl-C, SIGTERM or the capture's end stops it.
set -eu

name=${1:?"which capture? say examples/ring.sh NAME [FILE [FILTER...]]"}
file=${2:-ring.pcapng}
[ $# -lt 2 ] && shift || shift 2

exec zbuf dump "$name" -w "$file" -b filesize:1000 -b files:5 "$@"
