"""Sources of the tests' own: subclasses of the contract, as a new source would be."""

from zbuf.producer.ring.contract cimport SOURCE_FAILED, NativeSource
from zbuf.shared.memory.abi cimport zbuf_packet


cdef class FailingSource(NativeSource):
    """A source that fails at once; its check() raises what it is told to."""

    cdef object error

    def __init__(self, error):
        self.error = error

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        return SOURCE_FAILED

    def check(self):
        if self.error is not None:
            raise self.error


cdef class WatchedSource(NativeSource):
    """What another source gives; a weak reference to it can be had."""

    cdef NativeSource inner
    cdef object __weakref__

    def __init__(self, NativeSource inner):
        self.inner = inner

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        return self.inner.next(batch)

    cdef void wake(self) noexcept nogil:
        self.inner.wake()
