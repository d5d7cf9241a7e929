# The Cython face of zbuf.h: include it, and call its functions without the GIL.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "zbuf/shared/zbuf.h" nogil:
    enum:
        ZBUF_ABI
        ZBUF_PAGE_BYTES
        ZBUF_MAX_CAPLEN
        ZBUF_FORMING
        ZBUF_OPEN
        ZBUF_FINISHED
        ZBUF_MOVED
        ZBUF_CLOSED
        ZBUF_IDB_TYPE
        ZBUF_EPB_TYPE
        ZBUF_BLOCK_BYTES
        ZBUF_EPB_BYTES
        ZBUF_INBOUND
        ZBUF_OUTBOUND
    const char *ZBUF_MAGIC
    const uint64_t ZBUF_MAX_BYTES
    const uint64_t ZBUF_NO_END
    const uint32_t ZBUF_NO_PACKET

    ctypedef struct zbuf_ledger "struct zbuf_ledger":
        uint64_t received
        uint64_t filtered
        uint64_t accepted
        uint64_t delivered
        uint64_t dropped
        uint64_t abandoned
        uint64_t buffered
        uint64_t truncated
        uint64_t received_bytes
        uint64_t filtered_bytes
        uint64_t accepted_bytes
        uint64_t delivered_bytes
        uint64_t dropped_bytes
        uint64_t abandoned_bytes
        uint64_t buffered_bytes

    ctypedef struct zbuf_segment "struct zbuf_segment":
        char magic[8]
        uint32_t abi
        uint32_t state
        uint64_t epoch
        uint64_t segment_bytes
        uint64_t prologue_offset
        uint64_t prologue_bytes
        uint64_t zbuf_offset[2]
        uint64_t zbuf_bytes
        uint64_t prologue_room
        uint64_t end_sequence
        uint32_t snaplen
        zbuf_ledger ledger
        char producer[64]
        char descriptor[64]

    ctypedef struct zbuf_header "struct zbuf_header":
        uint32_t kernel_gen
        uint32_t kernel_len
        uint32_t user_gen
        uint32_t packets
        uint32_t interfaces
        uint64_t wire_bytes
        uint64_t sequence
        uint64_t first_ns
        uint64_t last_ns
        uint64_t dropped_before
        uint64_t store_len

    ctypedef struct zbuf_ack "struct zbuf_ack":
        uint32_t user_gen[2]
        uint32_t sleeping

    ctypedef struct zbuf_packet "struct zbuf_packet":
        uint64_t time_ns
        uint64_t dropped
        uint32_t caplen
        uint32_t wirelen
        uint32_t interface_id
        uint8_t direction
        uint8_t tag_at
        uint16_t options_words
        const uint8_t *data

    void zbuf_assign(zbuf_header *header, uint32_t kernel_gen)
    uint32_t zbuf_assigned(const zbuf_header *header)
    void zbuf_acknowledge(zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
    bint zbuf_acknowledged(const zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
    void zbuf_pass(zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
    bint zbuf_passed(const zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
    void zbuf_store(zbuf_header *header, uint32_t kernel_gen, uint32_t length_bytes)
    uint32_t zbuf_stored(const zbuf_header *header, uint32_t kernel_gen)
    void zbuf_sleep(zbuf_ack *ack)
    void zbuf_wake(zbuf_ack *ack)
    void zbuf_fence_sleepers()
    bint zbuf_sleeper(const zbuf_ack *ack)
    void zbuf_set_state(zbuf_segment *segment, uint32_t state)
    uint32_t zbuf_state(const zbuf_segment *segment)
    uint32_t zbuf_pad(uint32_t length_bytes)
    uint32_t zbuf_block_bytes(const zbuf_packet *packet)
    const uint8_t *zbuf_options(const zbuf_packet *packet)
    bint zbuf_has_flags(const zbuf_packet *packet)
    uint8_t *zbuf_block_begin(uint8_t *at, const zbuf_packet *packet, const uint8_t *options)
    void zbuf_grow_prologue(zbuf_segment *segment, uint64_t prologue_bytes)
    uint64_t zbuf_prologue_bytes(const zbuf_segment *segment)
    void zbuf_write_ledger(zbuf_segment *segment, const zbuf_ledger *ledger)
    bint zbuf_read_ledger(const zbuf_segment *segment, zbuf_ledger *ledger)
    uint32_t zbuf_next_block(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset, uint32_t *type)
    uint32_t zbuf_next_packet(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset, zbuf_packet *packet)
