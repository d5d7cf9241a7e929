# What the pump asks of sources and of descriptors, and a source of what changes its packets; see contract.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zbuf.shared.memory.abi cimport zbuf_packet

cdef enum:  # what NativeSource.next() returns instead of a number of packets
    SOURCE_ENDED = 0
    SOURCE_FAILED = -1
    SOURCE_WOKEN = -2
    SOURCE_INTERFACES = -3
    SOURCE_BLOCK = -4


cdef class NativeSource:
    cdef int next(self, const zbuf_packet **batch) noexcept nogil
    cdef void wake(self) noexcept nogil


cdef class PacketSink:
    cdef uint32_t take(self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil
    cdef bint take_block(self, const zbuf_packet *block, bint lossless) noexcept nogil
    cdef bint has_room(self) noexcept nogil


cdef class Rewriter:
    cdef void rewrite(self, uint8_t *data, uint32_t caplen, uint64_t number) noexcept nogil
