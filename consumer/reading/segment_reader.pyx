"""Waiting for a buffer and taking it: one reader's turn after turn, up to the end of the stream.

While the producer is ahead, the next buffer is one load away and no system call is made. A reader that finds nothing
looks again for a while, and then sleeps until its doorbell rings.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zbuf.consumer.reading.buffer cimport Buffer, make_buffer, packets_from
from zbuf.consumer.reading.turn cimport Turn
from zbuf.shared.memory.abi cimport (
    ZBUF_EPB_BYTES,
    ZBUF_FINISHED,
    ZBUF_MOVED,
    ZBUF_NO_END,
    zbuf_assigned,
    zbuf_header,
    zbuf_segment,
    zbuf_sleep,
    zbuf_state,
    zbuf_stored,
    zbuf_wake,
)
from zbuf.shared.memory.linux cimport MSG_DONTWAIT, POLLERR, POLLHUP, POLLIN, POLLNVAL, poll, pollfd, recv
from zbuf.shared.memory.spin cimport LOOKS_PER_CLOCK, is_raised, lower_flag, now_ns, raise_flag, spin_pause

from zbuf.shared.errors import CorruptBuffer, SegmentError, ValueRefused
from zbuf.shared.memory.layout import announced
from zbuf.shared.memory.pcapng import described

cdef enum:
    LONGEST_POLL_MS = 250       # a signal that comes just before a poll does not end it
    LONGEST_WAIT_S = 1 << 30    # decades; and a clock of nanoseconds has room for them
    SIGNALS_NS = 100_000_000    # how long to look without a pause for Python's signal handlers

cdef enum:                      # what a wait came to
    READY
    NOT_YET
    FINISHED                    # nothing more will be assigned
    MOVED                       # likewise: the descriptor goes on in another segment
    TAKEN_OFF                   # this reader was removed, while the stream goes on or has no reader left
    DIED                        # or this reader was removed: _is_dead() tells


cdef int64_t nanoseconds_of(timeout) except -1:
    """A time to wait, of seconds."""
    try:
        return <int64_t>(min(max(timeout, 0), LONGEST_WAIT_S) * 1e9)
    except TypeError:
        raise TypeError(
            f"timeout must be a number or None, not {type(timeout).__name__}: {timeout!r:.60}") from None


cdef class SegmentReader(Turn):
    """One reader of a segment: takes its buffers strictly in turn.

    Args:
        segment: a read-only mapping of the segment.
        layout: what read_layout() said of it.
        ack_page: a writable mapping of this reader's ack page.
        doorbell: the reader's end of its doorbell; the caller closes it.
        sequence: the number of the first buffer that it will be assigned.
        spin_ns: how long to look for a buffer before going to sleep; negative to never sleep.
        interfaces: those that packets may come from; None where they are not known.
    """

    cdef Buffer _current
    cdef int _doorbell
    cdef int64_t _spin_ns
    cdef uint64_t _sequence
    cdef uint64_t _sleeps
    cdef uint32_t _state            # of the wait that found the end: FINISHED, MOVED, TAKEN_OFF or DIED
    cdef bint _finished
    cdef bint _announced            # that it sleeps, by a next_buffer() that came back without a buffer
    cdef int _hung_up               # set by another thread for a reader that never makes a system call
    cdef int _interrupted           # set by a signal handler or another thread

    def __cinit__(self, *_, int doorbell, uint64_t sequence, int64_t spin_ns, **_others):
        self._doorbell = doorbell
        self._spin_ns = spin_ns
        self._sequence = sequence

    # ---- taking -----------------------------------------------------------------------------------------------

    def next_buffer(self, timeout=None):
        """Acknowledge the last buffer and wait for the next.

        Where a view of the last one lives (a memoryview, a NumPy array), it is acknowledged the moment that view dies.
        The stream ends where the producer has said that it assigns no more, whatever views are alive.

        Args:
            timeout: how long to wait, in seconds; None for as long as it takes, 0 to look once.

        Returns:
            A Buffer; None when the time is over or interrupt() was called, or at the end of the stream, which
            `finished` tells.

        Raises:
            BufferError: views of the buffer whose turn it is are still alive, from its last filling.
            CorruptBuffer: the producer assigned a length that is impossible, or announced an interface by rubbish.
            ValueRefused: the reader is closed, or this process was forked from the one that owns it.
        """
        cdef int found
        cdef int which = <int>(self._sequence & 1)
        cdef int64_t timeout_ns = -1 if timeout is None else nanoseconds_of(timeout)
        self._move_on()
        if self._disowned:
            raise ValueRefused("this reader belongs to the process that forked this one: connect() in each process")
        if self._finished:
            self._check_open()
            return None
        if self._views[which]:
            if self._is_past_end():
                return self._end(end_of(self._segment), which)
            raise BufferError(
                f"{self._views[which]} of your own views still hold buffer {self._sequence - 2}, whose memory buffer "
                f"{self._sequence} needs: release them (memoryview, NumPy array), or copy what you keep; a traceback "
                "or a notebook's Out[] may hold one, too"
            )
        found = READY if self._look(which) else self._wait(which, timeout_ns)
        if found == READY and self._announced:
            self._announced = False
            zbuf_wake(self._ack)
        if found == READY and self._headers[which].sequence != self._sequence:
            found = TAKEN_OFF  # the producer has gone on without this reader
        if found == READY:
            return self._take(which)
        if found == NOT_YET:
            return None
        return self._end(found, which)

    cdef _move_on(self):
        cdef Buffer last = self._current
        self._current = None
        if last is not None and not last._released:
            last._release()

    cdef bint _is_past_end(self) noexcept nogil:
        """Whether the producer has said that nothing more is assigned, and all that was is taken."""
        return zbuf_state(self._segment) >= ZBUF_FINISHED and self._sequence >= self._segment.end_sequence

    cdef bint _look(self, int which) noexcept nogil:
        return zbuf_assigned(self._headers[which]) != self._user_gen[which]

    cdef Buffer _take(self, int which):
        """The buffer that was assigned. Its header is the producer's: what bounds an access is checked here."""
        cdef const zbuf_header *header = self._headers[which]
        cdef uint32_t generation = zbuf_assigned(header), length = header.kernel_len, packets = header.packets
        if length > self._capacity or length % 4 or packets > length // ZBUF_EPB_BYTES:
            raise CorruptBuffer(
                f"buffer {self._sequence}: {packets} packets in {length} bytes, where it holds {self._capacity}: "
                "its producer is broken"
            )
        self._meet_interfaces(header, length)
        return self._hand_out(make_buffer(self, self._sequence, generation, length, packets))

    cdef int _meet_interfaces(self, const zbuf_header *header, uint32_t length) except -1:
        """Interfaces that appeared are announced at the head of a buffer, and belong to the prologue from then on."""
        cdef uint32_t count = header.interfaces
        if count <= self._limits.interfaces:
            return 0
        head = announced(PyMemoryView_FromMemory(<char *>(header + 1), length, PyBUF_READ))
        try:
            appeared = described(head)
        except SegmentError as error:
            raise CorruptBuffer(f"buffer {self._sequence}: {error}: its producer is broken") from None
        if self._limits.interfaces + len(appeared) != count:
            raise CorruptBuffer(
                f"buffer {self._sequence}: it announces {len(appeared)} interfaces, where {count} should be known, and "
                f"{self._limits.interfaces} were: its producer is broken"
            )
        self._limits.interfaces = count
        self._interfaces_appeared(head, appeared)
        return 0

    def _interfaces_appeared(self, head, appeared):
        """Told of interfaces that the next buffer announces, and of their blocks; a subclass overrides it."""

    cdef Buffer _hand_out(self, Buffer buffer):
        self._current = buffer
        self._sequence += 1
        return buffer

    cdef Buffer _end(self, int found, int which):
        """No buffer will be assigned any more; a killed producer may have left a part of one."""
        cdef uint32_t generation = self._user_gen[which] + 1, length
        cdef Buffer left
        self._finished = True
        self._state = found
        if found != DIED or not self._is_dead():
            return None
        length = zbuf_stored(self._headers[which], generation)
        if length == 0 or length > self._capacity or length % 4:
            return None
        self._meet_interfaces(self._headers[which], length)
        left = make_buffer(self, self._sequence, generation, length, 0)
        left._packets = left._walk()[0]  # nobody has counted them, since it was never assigned
        return self._hand_out(left)

    def _check_open(self):
        """Called instead of a wait after the end; a subclass raises ValueRefused if it was closed."""

    def _is_dead(self):
        """Whether a connection hung up because the producer died; the subclass that knows overrides it."""
        return True

    # ---- waiting ----------------------------------------------------------------------------------------------

    cdef int _wait(self, int which, int64_t timeout_ns) except -1:
        cdef int found
        cdef int64_t deadline = -1 if timeout_ns < 0 else now_ns() + timeout_ns
        cdef int64_t spin_until = deadline if self._spin_ns < 0 else now_ns() + self._spin_ns
        if 0 <= deadline < spin_until:
            spin_until = deadline
        while True:
            with nogil:
                found = self._spin(which, spin_until)
                if found == NOT_YET and self._spin_ns >= 0:
                    found = self._sleep(which, deadline)
            if found != NOT_YET or self._announced or (self._spin_ns < 0 and 0 <= deadline <= now_ns()):
                return found
            PyErr_CheckSignals()
            if is_raised(&self._interrupted):
                lower_flag(&self._interrupted)
                return NOT_YET

    cdef int _ended(self, int which) noexcept nogil:
        """NOT_YET, or what ended the stream. Called when there is no buffer; after an end it looks once more."""
        cdef int found = NOT_YET
        cdef bint hung_up = is_raised(&self._hung_up)  # before the state: a clean end sets that before it hangs up
        cdef uint32_t state = zbuf_state(self._segment)
        if state >= ZBUF_FINISHED:
            found = end_of(self._segment)
        elif hung_up:
            found = DIED
        return READY if found != NOT_YET and self._look(which) else found

    cdef int _spin(self, int which, int64_t until) noexcept nogil:
        cdef int _nth, found
        cdef int64_t started = now_ns()
        while True:
            for _nth in range(LOOKS_PER_CLOCK):
                if self._look(which):
                    return READY
                spin_pause()
            found = self._ended(which)
            if found != NOT_YET:
                return found
            if 0 <= until <= now_ns() or (until < 0 and now_ns() - started > SIGNALS_NS):
                return NOT_YET  # the second lets Python's signal handlers run

    cdef int _sleep(self, int which, int64_t deadline) noexcept nogil:
        """Sleep until the doorbell rings: announce it, look once more, then poll (see SYNC sleep in zbuf.h)."""
        cdef int found = READY
        cdef int rung
        cdef int64_t left_ms = -1
        cdef pollfd bell
        bell.fd = self._doorbell
        bell.events = POLLIN
        self._silence()
        zbuf_sleep(self._ack)
        if not self._look(which):
            found = self._ended(which)
            if found == NOT_YET:
                if deadline >= 0:
                    left_ms = max(<int64_t>0, (deadline - now_ns() + 999_999) // 1_000_000)
                self._sleeps += 1
                rung = poll(&bell, 1, LONGEST_POLL_MS if left_ms < 0 else <int>min(left_ms, LONGEST_POLL_MS))
                found = self._answer(which, rung, bell.revents)
        self._announced = found == NOT_YET and 0 <= deadline <= now_ns()  # so that fileno() becomes readable
        if not self._announced:
            zbuf_wake(self._ack)
        return found

    cdef int _answer(self, int which, int rung, short events) noexcept nogil:
        if rung < 0 and errno != EINTR:
            return DIED
        if rung > 0 and events & (POLLHUP | POLLERR | POLLNVAL):
            raise_flag(&self._hung_up)
        return READY if self._look(which) else self._ended(which)

    cdef void _silence(self) noexcept nogil:
        """Drain the doorbell; before a sleep and not after it, where that would delay the packet."""
        cdef char rings[64]
        # The producer shares this socket's flags and could make it blocking: so MSG_DONTWAIT each time.
        while recv(self._doorbell, rings, sizeof(rings), MSG_DONTWAIT) == sizeof(rings):
            pass

    def interrupt(self):
        """End the wait for a buffer that goes on now, or else the next one; from any thread or signal handler.

        next_buffer() then returns None and an iteration ends, although the stream goes on. If a signal handler calls
        this, a wait in the handler's own thread ends at once; any other ends within a quarter of a second. A buffer
        that is already there is still given.
        """
        raise_flag(&self._interrupted)

    def _note_hang_up(self):
        """Called by the thread that watches the doorbell for a reader that spins."""
        raise_flag(&self._hung_up)

    # ---- what it says of itself -------------------------------------------------------------------------------

    @property
    def sequence(self):
        """The number of the next buffer to take."""
        return self._sequence

    @property
    def sleeps(self):
        """Times that it slept for a buffer."""
        return self._sleeps

    @property
    def finished(self):
        """Whether the stream has ended, and everything in it was taken."""
        return self._finished

    @property
    def holds_views(self):
        """Whether any view (memoryview, NumPy array) of a buffer is alive."""
        return bool(self._views[0] or self._views[1] or (self._current is not None and self._current._exports))

    @property
    def _closed_cleanly(self):
        return self._state == FINISHED

    @property
    def _has_moved(self):
        return self._state == MOVED

    def _finish(self):
        """Give back what is held, views permitting, and take no more."""
        self._move_on()
        self._finished = True

    def _disown(self):
        """In a forked child: see Turn."""
        Turn._disown(self)
        self._finish()

    # ---- iterating --------------------------------------------------------------------------------------------

    @property
    def _packets_left(self):
        """How many packets of the current buffer an iteration gives before it takes the next buffer."""
        if self._current is None or self._current._released:
            return 0
        return self._current._cursor_left

    def _rewind(self):
        """Leave all packets of the current buffer to the next iteration."""
        if self._current is not None:
            self._current._cursor, self._current._cursor_left = 0, self._current._packets

    def __iter__(self):
        """Iterate over the packets, zero-copy: each is valid until its buffer is acknowledged, which moving on does.

        It goes on where the last iteration stopped, at a break for example.
        """
        return packets_from(self, self._current)

    def buffers(self):
        """Iterate over the buffers, each valid until the next is taken; ends with the stream."""
        while (buffer := self.next_buffer()) is not None:
            yield buffer


cdef int end_of(const zbuf_segment *segment) noexcept nogil:
    """What a segment says of the end that its state has told."""
    if zbuf_state(segment) == ZBUF_MOVED:
        return MOVED
    return TAKEN_OFF if segment.end_sequence == ZBUF_NO_END else FINISHED
