# How the times of packets go on when these are given again: as if the capture had been that much longer.

cdef struct pass_times:
    uint64_t packets
    uint64_t earliest_ns, latest_ns
    uint64_t shift                  # what the packets of this pass get added


cdef inline void note_time(pass_times *times, uint64_t time_ns) noexcept nogil:
    """Count a packet of the first pass."""
    times.earliest_ns = time_ns if times.packets == 0 else min(times.earliest_ns, time_ns)
    times.latest_ns = max(times.latest_ns, time_ns)
    times.packets += 1


cdef inline void begin_next_pass(pass_times *times) noexcept nogil:
    """Have the next pass begin a mean gap after the latest packet of this one, so that no time jumps back between them.

    Where that is after the end of time, 2^64 ns, it has the times of this one once more.
    """
    cdef uint64_t most = <uint64_t>-1
    cdef uint64_t span = times.latest_ns - times.earliest_ns
    cdef uint64_t gap = max(<uint64_t>1, span // max(<uint64_t>1, times.packets - 1))
    if times.packets and span <= most - gap and span + gap <= most - times.latest_ns - times.shift:
        times.shift += span + gap
