from libc.stdint cimport uint32_t, uint64_t, uint8_t

from zbuf.consumer.reading.blocks cimport block_limits
from zbuf.consumer.reading.turn cimport Turn


cdef class Buffer:
    cdef Turn _turn
    cdef int _which
    cdef uint32_t _generation
    cdef const uint8_t *_blocks
    cdef uint32_t _length
    cdef block_limits _limits
    cdef uint32_t _cursor           # where the next iteration over the reader begins in it
    cdef uint32_t _cursor_left      # packets behind that
    cdef uint32_t _exports          # living views of it, and of its packets
    cdef bint _released
    cdef uint32_t _packets
    cdef uint64_t _sequence         # its number in the descriptor's stream of buffers
    cdef uint64_t _dropped_before
    cdef uint32_t _interfaces

    cdef _check(self)
    cdef _release(self)
    cdef tuple _walk(self)
    cdef void _view_gone(self) noexcept


cdef Buffer make_buffer(Turn turn, uint64_t sequence, uint32_t generation, uint32_t length, uint32_t packets)
cdef object packets_from(object reader, Buffer buffer)
