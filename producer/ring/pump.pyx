"""The native loop: batches of packets from a source into every descriptor, without the GIL.

It comes back to Python at the end of the source, on a signal, and when somebody calls interrupt(): because there is a
command for the owner of the descriptors, or a tick of the clock.  It never comes back for a packet.

In a lossless capture, a descriptor whose readers have both buffers blocks: it holds the batch up, and the pump waits.
It looks for a short time, since a busy reader is about to answer, and sleeps for longer and longer times after that.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from posix.time cimport nanosleep, timespec

cimport cython

from zbuf.producer.ring.contract cimport (
    SOURCE_BLOCK,
    SOURCE_FAILED,
    SOURCE_INTERFACES,
    SOURCE_WOKEN,
    NativeSource,
    PacketSink,
)
from zbuf.producer.ring.filter_share cimport IdleTime
from zbuf.producer.ring.packets cimport fill_packet, misfit
from zbuf.shared.memory.abi cimport zbuf_packet
from zbuf.shared.memory.spin cimport LOOKS_PER_CLOCK, is_raised, lower_flag, now_ns, raise_flag, spin_pause, thread_ns

from zbuf.shared.errors import CaptureFileError, ValueRefused

cdef enum:
    SHORTEST_SPIN_NS = 20_000
    LONGEST_SPIN_NS = 400_000
    FIRST_SLEEP_NS = 50_000
    LONGEST_SLEEP_NS = 1_000_000
    SHORTEST_IDLE_NS = 20_000       # a source that takes longer for a batch waits for it

cdef struct held_view:  # in a struct of its own, or the garbage collector would clear it before it is released
    Py_buffer view

cdef struct served:
    PyObject *sink                  # a PacketSink, which the list of descriptors keeps alive
    uint32_t taken                  # of the current batch


@cython.final
cdef class Pump:
    """Feeds packets to descriptors, each packet to all of them.

    Args:
        lossless: wait for readers instead of dropping packets.
    """

    cdef list _descriptors
    cdef NativeSource _source       # whose batch is under way
    cdef NativeSource _running      # while run() is in it
    cdef served *_served
    cdef uint32_t _count
    cdef int _flag
    cdef const zbuf_packet *_batch
    cdef uint32_t _batch_packets
    cdef bint _is_block             # the batch is one block that is no packet
    cdef zbuf_packet _single
    cdef held_view _held            # of the packet that was offered
    cdef bint _holds_single
    cdef int64_t _usual_wait_ns     # a running mean
    cdef int64_t _wall_ns           # when note_idle() was called last, and the thread's processor time then
    cdef int64_t _worked_ns
    cdef readonly bint interfaces_appeared
    """Whether run() came back because packets of new interfaces follow: announce them before it goes on."""
    cdef readonly bint lossless
    cdef readonly IdleTime idle
    cdef readonly uint64_t offered
    """Packets that came from sources."""
    cdef readonly uint64_t waits
    """Times it slept for readers."""

    def __cinit__(self, *, bint lossless=False):
        self._descriptors = []
        self.idle = IdleTime()
        self.lossless = lossless

    def __dealloc__(self):
        self.drop_single()
        free(self._served)

    def attach(self, PacketSink descriptor not None):
        """Feed one more descriptor (zbuf.producer.ring.descriptor.Descriptor), from the next batch on."""
        cdef served *grown = <served *>realloc(self._served, (self._count + 1) * sizeof(served))
        if grown == NULL:
            raise MemoryError
        self._served = grown
        grown[self._count].sink = <PyObject *>descriptor
        grown[self._count].taken = self._batch_packets
        self._descriptors.append(descriptor)
        self._count += 1

    def detach(self, descriptor):
        """Feed a descriptor no more."""
        cdef uint32_t at = self._descriptors.index(descriptor)
        self._count -= 1
        self._descriptors[at] = self._descriptors[self._count]
        self._served[at] = self._served[self._count]
        del self._descriptors[self._count]

    def interrupt(self):
        """Make run() and resume() return soon; may be called from any thread, and from a signal handler."""
        raise_flag(&self._flag)
        cdef NativeSource running = self._running
        if running is not None:
            running.wake()

    def run(self, NativeSource source not None):
        """Feed everything from a source, until it ends or somebody interrupts.

        Returns:
            True at the end of the source; False after interrupt() or a signal, or where `interfaces_appeared` is true:
            call again to go on.

        Raises:
            CaptureFileError: the source failed; or whatever its check() raises.
        """
        cdef int packets
        if self._holds_single and not self.finish_single(True):
            return False
        if source is not self._source:
            self.cancel()
            self._source = source
        self._running = source
        self.interfaces_appeared = False
        with nogil:
            packets = self.drain(source)
        self._running = None
        self.interfaces_appeared = packets == SOURCE_INTERFACES
        if packets == SOURCE_WOKEN or packets == SOURCE_INTERFACES:
            return False
        self._source = None
        if packets == SOURCE_FAILED:
            source.check()
            raise CaptureFileError("the source failed, and does not say why")
        return True

    cdef int drain(self, NativeSource source) noexcept nogil:
        """Returns why it came back: SOURCE_ENDED, SOURCE_FAILED, SOURCE_INTERFACES, or SOURCE_WOKEN (an interrupt)."""
        cdef int packets
        while True:
            if is_raised(&self._flag) or not self.feed(True):
                lower_flag(&self._flag)
                return SOURCE_WOKEN
            packets = self.next_of(source)
            if packets <= 0 and packets != SOURCE_BLOCK:
                return packets
            self.begin(1 if packets == SOURCE_BLOCK else <uint32_t>packets)
            self._is_block = packets == SOURCE_BLOCK

    cdef inline int next_of(self, NativeSource source) noexcept nogil:
        """source.next(), and how long it had nothing to give."""
        cdef int64_t started_ns = now_ns(), taken_ns
        cdef int packets = source.next(&self._batch)
        taken_ns = now_ns() - started_ns
        if taken_ns > SHORTEST_IDLE_NS:
            self.note_idle(taken_ns)
        return packets

    cdef void note_idle(self, int64_t taken_ns) noexcept nogil:
        """Count the part of so long a call for which this thread had no processor: it slept there, as a rule.

        Where others had the processor at times, that is not known for this call, but for the time since the one before.
        """
        cdef int64_t wall_ns = now_ns(), worked_ns = thread_ns()
        cdef int64_t without_ns = (wall_ns - self._wall_ns) - (worked_ns - self._worked_ns)
        self.idle.ns += max(<int64_t>0, min(taken_ns, without_ns))
        self._wall_ns, self._worked_ns = wall_ns, worked_ns

    cdef void begin(self, uint32_t packets) noexcept nogil:
        cdef uint32_t at
        self._is_block = False
        self._batch_packets = packets
        for at in range(self._count):
            self._served[at].taken = 0

    cdef bint feed(self, bint wait) noexcept nogil:
        """Give the rest of the current batch to all descriptors; False if one blocks, or on an interrupt."""
        cdef uint32_t at
        cdef served *one
        for at in range(self._count):
            one = &self._served[at]
            while one.taken < self._batch_packets:
                one.taken += self.give(<PacketSink>one.sink, one.taken)
                if one.taken < self._batch_packets and not (wait and self.wait_for(<PacketSink>one.sink)):
                    return False
        self.offered += 0 if self._is_block else self._batch_packets
        self._batch_packets = 0
        return True

    cdef inline uint32_t give(self, PacketSink sink, uint32_t first) noexcept nogil:
        """Give the rest of the batch, from number `first` on, to one descriptor; returns how many it took."""
        if self._is_block:
            return sink.take_block(self._batch, self.lossless)
        return sink.take(self._batch + first, self._batch_packets - first, self.lossless)

    cdef bint wait_for(self, PacketSink sink) noexcept nogil:
        """Wait until a descriptor has room; False on an interrupt.

        How long it looks before the first sleep follows from how long waits took lately.  A reader about as fast as the
        pump answers within microseconds, and a sleep would take longer; for a slow reader, looking is a waste.
        """
        cdef int64_t started = now_ns(), waited = 0
        cdef timespec pause
        pause.tv_sec, pause.tv_nsec = 0, FIRST_SLEEP_NS
        while not sink.has_room():
            if is_raised(&self._flag):
                return False
            if waited < self.spin_ns():
                look(sink)
            else:
                nanosleep(&pause, NULL)
                self.waits += 1
                pause.tv_nsec = min(2 * pause.tv_nsec, LONGEST_SLEEP_NS)
            waited = now_ns() - started
        self._usual_wait_ns += (waited - self._usual_wait_ns) // 8
        return True

    cdef int64_t spin_ns(self) noexcept nogil:
        if self._usual_wait_ns > LONGEST_SPIN_NS:
            return SHORTEST_SPIN_NS
        return max(<int64_t>SHORTEST_SPIN_NS, 2 * self._usual_wait_ns)

    def offer(self, data, time_ns, wirelen=None, interface=0, direction=0):
        """Feed one packet.

        Args:
            data: the captured bytes; kept until all descriptors have the packet.
            time_ns: when it was captured, in nanoseconds since 1970.
            wirelen: its length on the wire in bytes; by default the length of `data`.
            interface: the number of its interface in the prologue.
            direction: as direction_number() gives it.

        Returns:
            True; or False where a lossless pump has to wait for a reader to make room: call resume().

        Raises:
            ValueRefused: a value is out of its range, or the packet before still waits.
        """
        cdef uint32_t known_direction = direction
        if self._batch_packets:
            raise ValueRefused("packet offered while the one before still waits for readers")
        PyObject_GetBuffer(data, &self._held.view, PyBUF_SIMPLE)
        self._holds_single = True
        try:
            fill_packet(&self._single, self._held.view.len, time_ns, wirelen, interface, known_direction)
        except (OverflowError, TypeError) as error:
            self.drop_single()
            raise misfit(time_ns, wirelen, interface, error) from None
        self._single.data = <const uint8_t *>self._held.view.buf
        self._batch = &self._single
        self.begin(1)
        return self.finish_single(False)

    def resume(self):
        """Go on with the packet that offer() could not finish, and wait for its readers.

        Returns:
            True once all descriptors have it; False where somebody interrupted the wait: call again.
        """
        return self.finish_single(True)

    cdef bint finish_single(self, bint wait):
        cdef bint done
        if wait:
            with nogil:
                done = self.feed(True)
            lower_flag(&self._flag)
        else:
            done = self.feed(False)
        if done:
            self.drop_single()
        return done

    def cancel(self):
        """Forget the rest of the current batch: descriptors that have not got it never will."""
        self._batch_packets = 0
        self._source = None
        self.drop_single()

    cdef void drop_single(self):
        if self._holds_single:
            self._holds_single = False
            PyBuffer_Release(&self._held.view)


cdef void look(PacketSink sink) noexcept nogil:
    """A microsecond or two of looking for room."""
    cdef int _look
    for _look in range(LOOKS_PER_CLOCK):
        if sink.has_room():
            return
        spin_pause()
