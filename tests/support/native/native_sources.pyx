"""Sources of the tests' own: subclasses of the contract, as a new source would be."""

from libc.stdint cimport uint8_t
from libc.string cimport memset

from zbuf.producer.ring.contract cimport SOURCE_BLOCK, SOURCE_ENDED, SOURCE_FAILED, SOURCE_INTERFACES, NativeSource
from zbuf.shared.memory.abi cimport ZBUF_NO_PACKET, zbuf_packet


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


cdef class ScriptedSource(NativeSource):
    """What a test wrote down, each step a batch of its own.

    A step is a packet, (data, options, interface, direction); a block that is no packet, as bytes; or an Interface
    that appears, which is in `interfaces` by then.
    """

    cdef object steps
    cdef readonly list interfaces
    cdef bytes kept
    cdef zbuf_packet packet

    def __init__(self, interfaces, steps):
        self.interfaces = list(interfaces)
        self.steps = iter(steps)

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        with gil:
            batch[0] = &self.packet
            return self.step()

    cdef int step(self):
        step = next(self.steps, None)
        memset(&self.packet, 0, sizeof(self.packet))
        if step is None:
            return SOURCE_ENDED
        if isinstance(step, bytes):
            self.kept = step
            self.packet.data, self.packet.caplen = <const uint8_t *><const char *>self.kept, len(step)
            self.packet.interface_id = ZBUF_NO_PACKET
            return SOURCE_BLOCK
        if isinstance(step, tuple):
            data, options, interface, direction = step
            self.kept = data + bytes(-len(data) % 4) + options
            self.packet.data, self.packet.options_words = <const uint8_t *><const char *>self.kept, len(options) // 4
            self.packet.caplen = self.packet.wirelen = len(data)
            self.packet.interface_id, self.packet.direction = interface, direction
            return 1
        self.interfaces.append(step)
        return SOURCE_INTERFACES
