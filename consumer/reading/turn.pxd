from libc.stdint cimport uint32_t

from zbuf.consumer.reading.blocks cimport block_limits
from zbuf.shared.memory.abi cimport zbuf_ack, zbuf_header, zbuf_segment

cdef struct held_views:         # in a struct of their own, or the garbage collector would clear them unreleased
    Py_buffer segment
    Py_buffer ack_page


cdef class Turn:
    cdef held_views _held
    cdef bint _mapped
    cdef const zbuf_segment *_segment
    cdef const zbuf_header *_headers[2]
    cdef zbuf_ack *_ack
    cdef zbuf_ack _unheard          # where a forked child acknowledges: the page is its parent's
    cdef bint _disowned
    cdef uint32_t _capacity         # bytes of blocks that a buffer has room for
    cdef block_limits _limits       # what the prologue says of every packet
    cdef uint32_t _user_gen[2]      # as acknowledged, or as it will be once the views of that buffer are gone
    cdef uint32_t _views[2]         # living views of a buffer that was released

    cdef void _give_back(self, int which, uint32_t generation) noexcept
    cdef void _release(self, int which, uint32_t generation, uint32_t views) noexcept
    cdef void _view_gone(self, int which, uint32_t generation, uint32_t views) noexcept
