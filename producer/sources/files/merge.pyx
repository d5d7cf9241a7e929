"""Several native sources as one, in the order of their times; each one's own order stays, whatever its times are.

Where one of them has run dry for the moment, all have: its next packet may be the earliest.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cimport cython

from zbuf.producer.ring.contract cimport NativeSource
from zbuf.shared.memory.abi cimport zbuf_packet

cdef enum:
    BATCH_PACKETS = 256

cdef struct merge_input:
    PyObject *source
    const zbuf_packet *batch
    int packets, at                 # of that batch: how many there are, and which is the next


@cython.final
cdef class Merge(NativeSource):
    """The packets of several sources, of their next ones always the earliest; a native source.

    Of packets with the same time, that of the source which was named first comes first. No packet is copied: a batch
    ends where one of the sources' own does, since that is good until the source is asked for the next.

    Args:
        sources: native ones.
    """

    cdef list _sources
    cdef uint32_t _count
    cdef merge_input *_inputs
    cdef uint32_t *_heap            # of those that have packets, the one with the earliest first
    cdef uint32_t _heaped
    cdef uint32_t _begun            # sources that were asked for their first packet
    cdef zbuf_packet _batch[BATCH_PACKETS]

    def __cinit__(self, sources):
        self._sources = list(sources)
        self._count = <uint32_t>len(self._sources)
        self._inputs = <merge_input *>calloc(len(self._sources) + 1, sizeof(merge_input))
        self._heap = <uint32_t *>calloc(len(self._sources) + 1, sizeof(uint32_t))
        if self._inputs == NULL or self._heap == NULL:
            raise MemoryError
        for number, source in enumerate(self._sources):
            self._inputs[<uint32_t>number].source = <PyObject *><NativeSource?>source

    def __dealloc__(self):
        free(self._inputs)
        free(self._heap)

    @property
    def lasting(self):
        """What keeps packets in their place, if all sources have that; see Savefile."""
        every = [getattr(source, "lasting", None) for source in self._sources]
        return None if None in every else every

    def check(self):
        """Raise the error of a source that failed."""
        for source in self._sources:
            source.check()

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef int count = 0
        cdef merge_input *first
        cdef int status = self.begin()
        if status >= 0:
            status = self.refill()
        if status < 0:
            return status
        while count < BATCH_PACKETS and self._heaped:
            first = &self._inputs[self._heap[0]]
            self._batch[count] = first.batch[first.at]
            first.at += 1
            count += 1
            if first.at == first.packets:
                break
            self.sink(0)
        batch[0] = self._batch
        return count

    cdef int begin(self) noexcept nogil:
        """Before the first batch: have a packet of each source.  Negative is what a source says that has none now."""
        cdef int packets, place
        if self._begun == self._count:
            return 0
        while self._begun < self._count:
            packets = self.read(&self._inputs[self._begun])
            if packets < 0:
                return packets
            if packets:
                self._heap[self._heaped] = self._begun
                self._heaped += 1
            self._begun += 1
        for place in range(<int>self._heaped - 1, -1, -1):
            self.sink(<uint32_t>place)
        return 0

    cdef int refill(self) noexcept nogil:
        """Have a packet again of the source whose batch has been used up.  Negative is what that says without one."""
        cdef merge_input *first = &self._inputs[self._heap[0]]
        cdef int packets
        if self._heaped == 0 or first.at < first.packets:
            return 0
        packets = self.read(first)
        if packets < 0:
            return packets
        if packets == 0:
            self._heaped -= 1
            self._heap[0] = self._heap[self._heaped]
        self.sink(0)
        return 0

    cdef int read(self, merge_input *one) noexcept nogil:
        cdef int packets = (<NativeSource>one.source).next(&one.batch)
        one.packets = max(packets, 0)
        one.at = 0
        return packets

    cdef void sink(self, uint32_t place) noexcept nogil:
        """Let an entry of the heap down to where it belongs."""
        cdef uint32_t entry = self._heap[place]
        cdef uint32_t child = 2 * place + 1
        while child < self._heaped:
            if child + 1 < self._heaped and self.is_before(self._heap[child + 1], self._heap[child]):
                child += 1
            if self.is_before(entry, self._heap[child]):
                break
            self._heap[place] = self._heap[child]
            place, child = child, 2 * child + 1
        self._heap[place] = entry

    cdef bint is_before(self, uint32_t one, uint32_t other) noexcept nogil:
        cdef uint64_t time_ns = self._inputs[one].batch[self._inputs[one].at].time_ns
        cdef uint64_t other_ns = self._inputs[other].batch[self._inputs[other].at].time_ns
        return time_ns < other_ns or (time_ns == other_ns and one < other)
