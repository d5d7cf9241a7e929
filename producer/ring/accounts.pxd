# The accounts of a descriptor's readers: what each was assigned, what it has given back, and whom it held up.
#
# Plain structures and inline functions, so that the packet path calls no other module.  A descriptor owns its accounts,
# and only the owner of the descriptors calls what is here.

from cpython.buffer cimport PyBuffer_Release
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from zbuf.shared.memory.abi cimport zbuf_ack, zbuf_acknowledged, zbuf_passed, zbuf_sleeper
from zbuf.shared.memory.linux cimport MSG_DONTWAIT, MSG_NOSIGNAL, send

cdef struct reader_account:
    uint32_t number
    const zbuf_ack *ack
    int doorbell
    bint owes[2]             # it was assigned that zbuf and has not given it back
    uint64_t delivered       # packets that it acknowledged
    uint64_t stalls          # times that both buffers were full and this reader had not given back the older one
    bint stalling            # such a time has begun and not ended
    uint64_t dropped_before  # the ledger's count of drops when it began
    uint64_t dropped         # packets dropped in all the times that have ended
    Py_buffer view           # keeps the ack page

cdef struct reader_accounts:
    reader_account *readers
    uint32_t count


cdef inline reader_account *find_account(const reader_accounts *accounts, uint32_t number) noexcept nogil:
    """A reader's account, valid until the next one is opened or closed; NULL where no reader has that number."""
    cdef uint32_t at
    for at in range(accounts.count):
        if accounts.readers[at].number == number:
            return &accounts.readers[at]
    return NULL


cdef inline reader_account *new_account(reader_accounts *accounts) noexcept nogil:
    """Room for one more account, all zeros, which counts once the caller has filled it in and increments the count.

    Returns:
        NULL where there is no memory.
    """
    cdef reader_account *grown = <reader_account *>realloc(
        accounts.readers, (accounts.count + 1) * sizeof(reader_account))
    if grown == NULL:
        return NULL
    accounts.readers = grown
    memset(&grown[accounts.count], 0, sizeof(reader_account))
    return &grown[accounts.count]


cdef inline void close_account(reader_accounts *accounts, reader_account *leaving) noexcept:
    """Let go of a reader's ack page, and forget it; the last account takes its place."""
    PyBuffer_Release(&leaving.view)
    accounts.count -= 1
    leaving[0] = accounts.readers[accounts.count]


cdef inline void note_assigned(reader_accounts *accounts, int which) noexcept nogil:
    """Every reader that is here owes this buffer from now on."""
    cdef uint32_t at
    for at in range(accounts.count):
        accounts.readers[at].owes[which] = True


cdef inline bint has_acknowledged(const reader_account *reader, int which, uint32_t gen) noexcept nogil:
    """Whether a reader has acknowledged a buffer that it owed since it was assigned as generation `gen`."""
    return reader.owes[which] and zbuf_acknowledged(reader.ack, which, gen)


cdef inline bint all_passed(const reader_accounts *accounts, int which, uint32_t gen) noexcept nogil:
    """Whether each reader that owes this buffer waits for the next one, and only views hold this one."""
    cdef uint32_t at
    for at in range(accounts.count):
        if accounts.readers[at].owes[which] and not zbuf_passed(accounts.readers[at].ack, which, gen):
            return False
    return True


cdef inline void note_given_back(reader_account *reader, int which, uint32_t packets, uint64_t dropped) noexcept nogil:
    """A reader gave back a buffer with so many packets, and can't take that back.

    `dropped` is the ledger's count of drops, now: a stall ends with this, since the older buffer is given back first.
    """
    reader.owes[which] = False
    reader.delivered += packets
    if reader.stalling:
        reader.stalling = False
        reader.dropped += dropped - reader.dropped_before


cdef inline void note_stall(reader_accounts *accounts, int which, uint64_t dropped) noexcept nogil:
    """Both buffers are full: the readers that owe the older one are what keeps the producer from writing."""
    cdef uint32_t at
    for at in range(accounts.count):
        if accounts.readers[at].owes[which]:
            accounts.readers[at].stalls += 1
            accounts.readers[at].stalling = True
            accounts.readers[at].dropped_before = dropped


cdef inline uint64_t stalled_packets(const reader_account *reader, uint64_t dropped) noexcept nogil:
    """The packets dropped while this reader kept the producer from writing; `dropped` is the ledger's count, now."""
    return reader.dropped + (dropped - reader.dropped_before if reader.stalling else 0)


cdef inline void forget_stalls(reader_accounts *accounts) noexcept nogil:
    """The ledger begins at zero again, and so do these counts."""
    cdef uint32_t at
    for at in range(accounts.count):
        accounts.readers[at].stalls = accounts.readers[at].dropped = accounts.readers[at].dropped_before = 0


cdef inline uint32_t ring_sleepers(const reader_accounts *accounts) noexcept nogil:
    """Ring the doorbell of each reader that sleeps; the caller has put a fence between its assignment and this.

    Returns:
        How many there were.
    """
    cdef uint32_t at, rung = 0
    for at in range(accounts.count):
        if zbuf_sleeper(accounts.readers[at].ack):
            send(accounts.readers[at].doorbell, b"!", 1, MSG_DONTWAIT | MSG_NOSIGNAL)  # where it is full, it has rung
            rung += 1
    return rung
