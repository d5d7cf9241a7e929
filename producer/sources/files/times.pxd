# How the times of packets go on when these are given again: as if the capture had been that much longer.
# Packets without a time, which have 0 (pcapng's Simple Packet Blocks), have none on any pass.

from libc.stdint cimport uint64_t

cdef struct pass_times:
    uint64_t packets
    uint64_t timed                  # of them, those with a time
    uint64_t earliest_ns, latest_ns
    uint64_t shift                  # what the times of this pass get added


cdef inline void note_time(pass_times *times, uint64_t time_ns) noexcept nogil:
    """Count a packet of the first pass."""
    times.packets += 1
    if time_ns:
        times.earliest_ns = time_ns if times.timed == 0 else min(times.earliest_ns, time_ns)
        times.latest_ns = max(times.latest_ns, time_ns)
        times.timed += 1


cdef inline void begin_next_pass(pass_times *times) noexcept nogil:
    """Have the next pass begin a mean gap after the latest packet of this one, so that no time jumps back between them.

    Where that is after the end of time, 2^64 ns, it has the times of this one once more.
    """
    cdef uint64_t most = <uint64_t>-1
    cdef uint64_t span = times.latest_ns - times.earliest_ns
    cdef uint64_t gap = max(<uint64_t>1, span // max(<uint64_t>1, times.timed - 1))
    if times.timed and span <= most - gap and span + gap <= most - times.latest_ns - times.shift:
        times.shift += span + gap
