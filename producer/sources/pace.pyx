"""The moment at which each packet is due, and the wait until then.

The schedule is absolute: when a packet is due follows from those before it (their number, their bytes, their time
stamps) and the moment of the first, never from when the one before was offered.  So what goes wrong at one moment is
made good at the next, and errors do not add up.

A wait sleeps while it is long, and looks at the clock for the rest: a sleeper is woken some ten microseconds late.
"""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cimport cython

from zbuf.producer.ring.contract cimport NativeSource, SOURCE_ENDED, SOURCE_WOKEN
from zbuf.shared.histogram cimport Histogram
from zbuf.shared.memory.abi cimport zbuf_packet
from zbuf.shared.memory.linux cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    POLLIN,
    eventfd,
    eventfd_read,
    eventfd_write,
    pollfd,
    ppoll,
)
from zbuf.shared.memory.spin cimport is_raised, lower_flag, now_ns, raise_flag, spin_pause

cdef extern from "<sys/prctl.h>" nogil:
    cdef enum:
        PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)

cdef extern from "zbuf/producer/sources/pace.h" nogil:
    int64_t NEVER_NS
    int64_t scaled(uint64_t count, uint64_t numerator, uint64_t denominator)
    int64_t ramped(uint64_t packets, long double start, long double slope)

cdef enum:
    AT_ONCE, PACKETS, BYTES, NANOSECONDS, RAMP
    GROUP_PACKETS = 16              # that share a stamp: less than a microsecond's worth
    LEAST_MARGIN_NS = 20_000
    MOST_MARGIN_NS = 1_000_000
    LAG_BITS = 6                    # of a lag that the histogram keeps: 3 %

_KINDS = {None: AT_ONCE, "packets": PACKETS, "bytes": BYTES, "nanoseconds": NANOSECONDS, "ramp": RAMP}


@cython.final
cdef class Pace:
    """A schedule under way: when packets are due, and how late they were offered.

    Args:
        counts: what the schedule counts: "packets", "bytes" on the wire, "nanoseconds" from the latest time stamp to
            the next later one, "ramp" for packets at a rate that changes; None where each packet is due at once.
        ns_per: the nanoseconds that one of what is counted takes, as numerator and denominator, below 2**63.
        ramp: packets per second at first and at last, and the seconds in between; the last rate goes on.
        burst: so many packets are due together.
        duration_ns: the end, in nanoseconds after the first packet; None where there is none.
        max_gap_ns: the longest time from one packet to the next that is counted; None for any.
        held: no packet is due before allow() says so.
        stamp: packets get the time at which they are offered, in place of their own.
        late_after_ns: a packet with a longer lag counts as late, in `behind`.
        limit: how many packets are due at most; None for any number.
        clock: what tells the time in nanoseconds, for tests; by default CLOCK_MONOTONIC, and CLOCK_REALTIME for stamps.
    """

    cdef int _kind
    cdef uint64_t _numerator, _denominator
    cdef long double _ramp_from, _ramp_to, _ramp_slope
    cdef uint64_t _ramp_packets
    cdef int64_t _ramp_ns
    cdef uint64_t _burst
    cdef int64_t _duration_ns, _max_gap_ns, _late_after_ns
    cdef uint64_t _limit
    cdef bint _held
    cdef uint64_t _allowed          # of all, from the first on
    cdef object _clock
    cdef bint _fake
    cdef uint64_t _planned          # packets whose time is known
    cdef uint64_t _counted
    cdef uint64_t _latest_stamp     # of the recording that packets come from
    cdef uint32_t _recording
    cdef uint32_t *_recordings      # of which each interface is
    cdef uint32_t _interfaces
    cdef int64_t _due, _first_due, _last_due
    cdef bint _is_planned           # whether _due is of the packet that comes next
    cdef int64_t _started, _first, _last
    cdef int64_t _margin_ns
    cdef int _woken, _wake_fd
    cdef int _over
    cdef bint _timed_out            # whether it is over since the duration is
    cdef Histogram _lags
    cdef readonly bint stamp
    cdef readonly uint64_t packets
    """Offered so far."""
    cdef readonly uint64_t wire_bytes
    """Theirs, on the wire."""
    cdef readonly uint64_t behind
    """Packets that were offered later than `late_after_ns` after they were due."""

    def __cinit__(
        self, counts=None, *, ns_per=(0, 1), ramp=None, uint64_t burst=1, duration_ns=None, max_gap_ns=None,
        bint held=False, bint stamp=False, int64_t late_after_ns=1_000_000, limit=None, clock=None,
    ):
        self._wake_fd = -1
        self._lags = Histogram(bits=LAG_BITS)
        self._kind = _KINDS[counts]
        self._numerator, self._denominator = ns_per
        if ramp is not None:
            self._set_ramp(ramp)
        self._burst = burst
        self._duration_ns = NEVER_NS if duration_ns is None else min(<object>duration_ns, NEVER_NS)
        self._max_gap_ns = NEVER_NS if max_gap_ns is None else min(<object>max_gap_ns, NEVER_NS)
        self._late_after_ns = late_after_ns
        self._limit = NEVER_NS if limit is None else limit
        self._held = held
        self.stamp = stamp
        self._clock = clock
        self._fake = clock is not None
        self._started = -1
        self._margin_ns = 4 * LEAST_MARGIN_NS
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._wake_fd < 0:
            raise OSError("no file descriptor is left")

    def __dealloc__(self):
        free(self._recordings)
        if self._wake_fd >= 0:
            os.close(self._wake_fd)

    cdef _set_ramp(self, ramp):
        first, last, seconds = ramp
        self._ramp_from, self._ramp_to = first / 1e9, last / 1e9
        self._ramp_ns = int(seconds * 1e9)
        self._ramp_slope = (self._ramp_to - self._ramp_from) / self._ramp_ns
        self._ramp_packets = int((first + last) / 2 * seconds)

    # ---- what others ask --------------------------------------------------------------------------------------------

    @property
    def over(self):
        """Whether the schedule has come to its end: no packet is due any more."""
        return is_raised(&self._over) != 0

    @property
    def timed(self):
        """Whether packets are due at any other time than at once."""
        return self._kind != AT_ONCE

    @property
    def seconds(self):
        """From the first packet that was offered to the last, or to the end of a duration that is over."""
        if self._started < 0:
            return 0.0
        if self._timed_out:
            return self._duration_ns / 1e9
        return (self._last - self._first) / 1e9

    @property
    def packets_per_second(self):
        """The rate that was achieved; 0 where there is none to tell."""
        seconds = self.seconds
        return (<object>self.packets - (not self._timed_out)) / seconds if seconds else 0.0

    @property
    def pace(self):
        """The share of the asked rate that was achieved, as the span of time that the schedule had for these packets
        by the one that they took; None where there is no schedule or it says nothing yet.

        A duration takes all of its time: it was to have every packet that was due in it.
        """
        if self._kind == AT_ONCE or self.packets == 0:
            return None
        if self._timed_out:
            return <double>(self._duration_ns - self.missed_ns) / <double>self._duration_ns
        if self._last <= self._first or self._last_due <= self._first_due:
            return None
        return <double>(self._last_due - self._first_due) / <double>(self._last - self._first)

    @property
    def missed_ns(self):
        """For how long, up to the end of a duration, packets were due that were not offered any more."""
        return max(self._duration_ns - self._due, <int64_t>0) if self._timed_out and self.timed else 0

    def lag_ns(self, double share):
        """The lag that so large a share of the packets did not exceed, within 3 %; 0 where there were none."""
        return self._lags.value_at(share)

    @property
    def max_lag_ns(self):
        """The longest lag."""
        return self._lags.max

    def lags(self):
        """How many packets had a lag of up to so many nanoseconds, and of more than the entry before: a histogram."""
        return self._lags.buckets()

    def next_in_s(self):
        """Seconds until the next packet is due, as far as that is known."""
        return max(0.0, (self._started + self._due - self.now()) / 1e9) if self._is_planned else 0.0

    # ---- what others say ----------------------------------------------------------------------------------------

    def allow(self, uint64_t packets):
        """Let so many more packets go, where they are held; from one thread, which need not be the pump's."""
        self._allowed += packets
        self.wake()

    def end(self):
        """Let no packet go any more; from any thread."""
        raise_flag(&self._over)
        self.wake()

    def set_recordings(self, recordings):
        """Say which recording each interface belongs to, by its number: those of one file to one, for instance.

        Between two recordings no time passes. What is not said is of recording 0.
        """
        cdef uint32_t *table = <uint32_t *>malloc(max(len(recordings), 1) * sizeof(uint32_t))
        if table == NULL:
            raise MemoryError
        for number, recording in enumerate(recordings):
            table[<uint32_t>number] = recording
        free(self._recordings)
        self._recordings, self._interfaces = table, <uint32_t>len(recordings)

    def hold(self, time_ns, wirelen, interface=0):
        """Wait until a packet is due: for packets that do not come from a native source.

        Returns:
            The time that it is to carry; None where somebody interrupted the wait, where it took a tenth of a second,
            or where the schedule is `over`: call again.
        """
        cdef zbuf_packet packet
        cdef int admitted
        memset(&packet, 0, sizeof(packet))
        # What is out of range is refused where it is appended.
        packet.time_ns = min(max(0, time_ns), 0xFFFFFFFFFFFFFFFF)
        packet.wirelen = min(max(0, wirelen), 0xFFFFFFFF)
        packet.interface_id = min(max(0, interface), 0xFFFFFFFF)
        with nogil:
            admitted = self.admit(&packet, 1, 100_000_000)
        if admitted <= 0:
            return None
        return self.stamp_ns() if self.stamp else time_ns

    cdef void wake(self) noexcept nogil:
        raise_flag(&self._woken)
        eventfd_write(self._wake_fd, 1)

    # ---- the schedule -------------------------------------------------------------------------------------------

    cdef void plan(self, const zbuf_packet *packet) noexcept nogil:
        """Count a packet, and find out when it is due, in nanoseconds after the first."""
        if self._kind == NANOSECONDS:
            self.count_gap(packet)
        if self._planned % self._burst == 0:
            if self._kind == RAMP:
                self._due = self.due_on_ramp(self._planned)
            else:
                self._due = scaled(self._counted, self._numerator, self._denominator)
        self._planned += 1
        if self._kind == PACKETS:
            self._counted += 1
        elif self._kind == BYTES:
            self._counted += packet.wirelen
        self._is_planned = True

    cdef void count_gap(self, const zbuf_packet *packet) noexcept nogil:
        """Time goes on from the latest stamp so far: where stamps step back, as they do from one interface to another,
        no time passes until they are there again, and none at all by packets without a stamp (0).

        From one recording to another no time was recorded.
        """
        cdef uint64_t gap = 0
        cdef uint32_t recording = self.recording_of(packet.interface_id)
        if packet.time_ns == 0:
            return
        if recording != self._recording:
            self._recording, self._latest_stamp = recording, 0
        if packet.time_ns > self._latest_stamp:
            if self._latest_stamp:
                gap = min(packet.time_ns - self._latest_stamp, <uint64_t>self._max_gap_ns)
            self._latest_stamp = packet.time_ns
        self._counted = min(self._counted + gap, <uint64_t>NEVER_NS)

    cdef uint32_t recording_of(self, uint32_t interface) noexcept nogil:
        return self._recordings[interface] if interface < self._interfaces else 0

    cdef int64_t due_on_ramp(self, uint64_t packets) noexcept nogil:
        if packets <= self._ramp_packets:
            return min(ramped(packets, self._ramp_from, self._ramp_slope), self._ramp_ns)
        if self._ramp_to == 0:
            return NEVER_NS
        return min(self._ramp_ns + <int64_t>((packets - self._ramp_packets) / self._ramp_to), NEVER_NS)

    cdef int admit(self, const zbuf_packet *packets, int count, int64_t patience_ns) noexcept nogil:
        """Wait until the first of these packets is due; returns how many are, SOURCE_ENDED or SOURCE_WOKEN."""
        cdef int64_t now, left
        cdef int most = min(count, GROUP_PACKETS) if self.stamp else count
        cdef int admitted = 0
        most = <int>min(<uint64_t>most, self._limit - self.packets)
        if self._started < 0:
            self._started = self.now()
        if not self._is_planned:
            self.plan(packets)
        if min(self._due, self._duration_ns) == NEVER_NS:
            raise_flag(&self._over)
        if is_raised(&self._over) or most == 0:
            return SOURCE_ENDED
        if self._held:
            left = self._started + self._duration_ns - self.now()
            if left > 0 and not self.is_allowed():
                self.sleep(min(left, patience_ns))
                return SOURCE_WOKEN
            most = 1
        now = self.wait_until(self._started + min(self._due, self._duration_ns), patience_ns)
        if now < 0:
            return SOURCE_WOKEN
        if now - self._started >= self._duration_ns:
            self._timed_out = True
            raise_flag(&self._over)
            return SOURCE_ENDED
        while self._started + self._due <= now and self._due < self._duration_ns:
            self.note(packets + admitted, now)
            admitted += 1
            if admitted == most:
                break
            self.plan(packets + admitted)
        return admitted

    cdef bint is_allowed(self) noexcept nogil:
        with gil:  # as allow() has it
            return self.packets < self._allowed

    cdef void note(self, const zbuf_packet *packet, int64_t now) noexcept nogil:
        """Count a packet that is offered now."""
        cdef int64_t lag = 0 if self._kind == AT_ONCE else now - self._started - self._due
        if self.packets == 0:
            self._first, self._first_due = now, self._due
        self._last, self._last_due = now, self._due
        self._lags.count(lag)
        self.behind += lag > self._late_after_ns
        self.packets += 1
        self.wire_bytes += packet.wirelen
        self._is_planned = False
        if self.packets == self._limit:
            raise_flag(&self._over)

    # ---- waiting ------------------------------------------------------------------------------------------------

    cdef int64_t wait_until(self, int64_t moment, int64_t patience_ns) noexcept nogil:
        """The time when it has come; -1 where somebody interrupted, a signal came, or patience is over."""
        cdef int64_t now = self.now()
        cdef int64_t limit = now + patience_ns
        while True:
            if is_raised(&self._woken):
                self.forget_wake()
                return -1
            if now >= moment:
                return now
            if now >= limit:
                return -1
            if moment - now > self._margin_ns and not self._fake:
                if not self.sleep_until(min(moment, limit) - self._margin_ns, now):
                    return -1
            else:
                spin_pause()
            now = self.now()

    cdef bint sleep_until(self, int64_t moment, int64_t now) noexcept nogil:
        """Sleep, and learn how late one is woken; False where the sleep was ended."""
        cdef int64_t late
        if not self.sleep(moment - now):
            return False
        late = self.now() - moment
        # So that one sleep in a hundred is too long: twice as much for one that was, a little less for each other.
        self._margin_ns += self._margin_ns if late > self._margin_ns else -(self._margin_ns // 128)
        self._margin_ns = max(<int64_t>LEAST_MARGIN_NS, min(<int64_t>MOST_MARGIN_NS, self._margin_ns))
        return True

    cdef bint sleep(self, int64_t ns) noexcept nogil:
        """Whether nothing but the clock ended it."""
        cdef timespec timeout
        cdef pollfd polled
        cdef int woken
        if ns <= 0:
            return True
        timeout.tv_sec, timeout.tv_nsec = ns // 1_000_000_000, ns % 1_000_000_000
        polled.fd, polled.events = self._wake_fd, POLLIN
        prctl(PR_SET_TIMERSLACK, 1)  # the kernel's own 50 us are for those who do not mind
        woken = ppoll(&polled, 1, &timeout, NULL)
        if woken > 0:
            self.forget_wake()
        return woken == 0

    cdef void forget_wake(self) noexcept nogil:
        cdef uint64_t wakes
        lower_flag(&self._woken)
        eventfd_read(self._wake_fd, &wakes)

    cdef int64_t now(self) noexcept nogil:
        if not self._fake:
            return now_ns()
        with gil:
            return self._clock()

    cdef uint64_t stamp_ns(self) noexcept nogil:
        cdef timespec now
        if self._fake:
            return <uint64_t>self._last
        clock_gettime(CLOCK_REALTIME, &now)
        return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


@cython.final
cdef class Paced(NativeSource):
    """The packets of another native source, each when it is due; a native source.

    Args:
        source: whose packets.
        pace: when they are due; it may go on to the next source.
    """

    cdef Pace _pace
    cdef NativeSource _inner
    cdef const zbuf_packet *_packets
    cdef int _at, _count
    cdef zbuf_packet _stamped[GROUP_PACKETS]

    def __cinit__(self, NativeSource source not None, Pace pace not None):
        self._inner = source
        self._pace = pace

    def check(self):
        """Raise the inner source's error."""
        self._inner.check()

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef int count
        if is_raised(&self._pace._over):
            return SOURCE_ENDED  # before a pipe is asked for a packet that is not wanted
        if self._at == self._count:
            count = self._inner.next(&self._packets)
            if count <= 0:
                batch[0] = self._packets  # a block that is no packet is due at once
                return count
            self._at, self._count = 0, count
        count = self._pace.admit(self._packets + self._at, self._count - self._at, NEVER_NS)
        if count <= 0:
            return count
        batch[0] = self.stamped(count) if self._pace.stamp else self._packets + self._at
        self._at += count
        return count

    cdef void wake(self) noexcept nogil:
        self._pace.wake()
        self._inner.wake()

    cdef const zbuf_packet *stamped(self, int count) noexcept nogil:
        cdef uint64_t now = self._pace.stamp_ns()
        cdef int at
        for at in range(count):
            self._stamped[at] = self._packets[self._at + at]
            self._stamped[at].time_ns = now
        return self._stamped
