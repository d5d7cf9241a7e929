/* SPDX-License-Identifier: BSD-2-Clause
 *
 * zbuf.h: the shared memory between a packet producer and its readers, ABI 1.
 *
 * The scheme is that of FreeBSD's zero-copy BPF (bpf(4), "Zero-copy buffer mode"); a process takes the
 * kernel's part.  A descriptor has two buffers.  The producer appends packets to one while the readers
 * work on the other.  Two counters say who owns a buffer:
 *
 *      kernel_gen == user_gen    the producer owns the buffer
 *      kernel_gen != user_gen    the reader does
 *
 * The producer ASSIGNS a buffer by incrementing kernel_gen, a reader ACKNOWLEDGES it by storing that value
 * in its own user_gen.  Only equality matters, so the counters may wrap.  While both sides are busy, each
 * finds its next buffer with one load, and nobody makes a system call.
 *
 *      page 0     struct zbuf_segment   identity, where the rest lies, counters
 *      page 1...  prologue              pcapng Section Header + Interface Description Blocks
 *                 zbuf A                struct zbuf_header, then pcapng Enhanced Packet Blocks
 *                 zbuf B                the same
 *      ack page   struct zbuf_ack       one per reader, a mapping of its own
 *
 * Readers map the segment read-only: (p) marks the fields that the producer writes.  A reader writes only to
 * its ack page: (u).  Buffers are assigned strictly in turn, A first: the n-th assignment is buffer n & 1.
 * The prologue followed by the buffers' blocks is a pcapng file.
 *
 * Trust: the producer reads only user_gen and sleeping, and learns no more from them than "yes" or "no".  A
 * reader walks blocks with zbuf_next_packet(), which never reads outside the buffer, whatever the bytes say.
 *
 * Ordering: each edge carries a label, found at both of its ends: SYNC assign, SYNC acknowledge,
 * SYNC store_len, SYNC sleep, SYNC state.
 *
 * A C or C++ consumer needs only this file; docs/protocol.md says how it gets the file descriptors.
 */
#ifndef ZBUF_H
#define ZBUF_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "zbuf's ABI is little-endian"
#endif

#define ZBUF_ABI 1u
#define ZBUF_MAGIC "ZBUF\r\n\032\n"        /* 8 bytes; the line ends show a copy made in text mode */
#define ZBUF_PAGE_BYTES 4096u
#define ZBUF_MAX_BYTES (UINT64_C(1) << 30) /* of one buffer, its header included */
#define ZBUF_MAX_CAPLEN 262144u            /* libpcap's own limit for a packet */

/* zbuf_segment.state.  A reader that attaches and finds FORMING came before the segment was ready. */
enum { ZBUF_FORMING = 0, ZBUF_OPEN = 1, ZBUF_CLOSED = 2 };

/* The ledger: received = filtered + accepted, accepted = delivered + dropped + abandoned + buffered. */
struct zbuf_ledger {
    uint64_t received;  /* packets that the source gave to this descriptor */
    uint64_t filtered;  /* rejected by its filter */
    uint64_t accepted;  /* passed by its filter */
    uint64_t delivered; /* acknowledged by every reader that was still there */
    uint64_t dropped;   /* lost, because no buffer was free */
    uint64_t abandoned; /* assigned to readers that all left without acknowledging */
    uint64_t buffered;  /* appended, and not acknowledged yet */
    uint64_t truncated; /* appended, but cut to the snaplen or to the size of a buffer */
};

struct zbuf_segment {
    char magic[8];             /* (p) ZBUF_MAGIC */
    uint32_t abi;              /* (p) ZBUF_ABI */
    uint32_t state;            /* (p) SYNC state: everything else here is written before OPEN */
    uint64_t epoch;            /* (p) a random number, one per run of a producer */
    uint64_t segment_bytes;    /* (p) of the whole segment */
    uint64_t prologue_offset;  /* (p) from the segment's start */
    uint64_t prologue_bytes;   /* (p) in use */
    uint64_t zbuf_offset[2];   /* (p) of A and B, from the segment's start, page-aligned */
    uint64_t zbuf_bytes;       /* (p) of each buffer, header included */
    uint32_t snaplen;          /* (p) bytes kept of a packet at most */
    uint32_t linktype;         /* (p) LINKTYPE_ value of every interface */
    uint8_t reserved[48];
    struct zbuf_ledger ledger; /* (p) a copy, as of the last rotation or drop; exact once CLOSED */
    char producer[64];         /* (p) names, NUL-terminated */
    char descriptor[64];       /* (p) */
};

struct zbuf_header {
    /* bpf(4)'s struct bpf_zbuf_header; the first word of its padding is used */
    uint32_t kernel_gen;     /* (p) SYNC assign: the number of times this buffer was assigned */
    uint32_t kernel_len;     /* (p) bytes of blocks after this header, at the assignment */
    uint32_t user_gen;       /* (p) for observers: the last generation seen acknowledged */
    uint32_t packets;        /* (p) blocks in those kernel_len bytes */
    uint32_t reserved[4];
    /* zbuf's own fields, valid once assigned */
    uint64_t sequence;       /* (p) assignments of this descriptor before this one: 0, 1, 2, ... */
    uint64_t first_ns;       /* (p) time of the first and of the last packet, nanoseconds since 1970 */
    uint64_t last_ns;        /* (p) */
    uint64_t dropped_before; /* (p) packets lost between the buffer before and this one */
    /* On a cache line of its own, because it changes with every packet.  The upper half is the generation
     * that this filling will be assigned as, the lower half the bytes appended so far.  The generation keeps
     * a reader from taking the length of an earlier filling for what a killed producer left. */
    uint64_t store_len;      /* (p) SYNC store_len */
    uint64_t reserved_line[7];
};

struct zbuf_ack {
    uint32_t user_gen[2];    /* (u) SYNC acknowledge: one each for A and B */
    uint32_t sleeping;       /* (u) SYNC sleep: nonzero while the reader wants its doorbell rung */
    uint32_t reserved[13];
};

static_assert(sizeof(struct zbuf_ledger) == 64, "zbuf_ledger");
static_assert(offsetof(struct zbuf_segment, state) == 12, "zbuf_segment.state");
static_assert(offsetof(struct zbuf_segment, zbuf_offset) == 48, "zbuf_segment.zbuf_offset");
static_assert(offsetof(struct zbuf_segment, linktype) == 76, "zbuf_segment.linktype");
static_assert(offsetof(struct zbuf_segment, ledger) == 128, "zbuf_segment.ledger");
static_assert(sizeof(struct zbuf_segment) == 320, "zbuf_segment");
static_assert(offsetof(struct zbuf_header, user_gen) == 8, "zbuf_header.user_gen");
static_assert(offsetof(struct zbuf_header, sequence) == 32, "zbuf_header.sequence");
static_assert(offsetof(struct zbuf_header, store_len) == 64, "zbuf_header.store_len");
static_assert(sizeof(struct zbuf_header) == 128, "zbuf_header");
static_assert(offsetof(struct zbuf_ack, sleeping) == 8, "zbuf_ack.sleeping");
static_assert(sizeof(struct zbuf_ack) == 64, "zbuf_ack");

/* ---- Atomic operations: all of them are here.  Each says which one it pairs with. --------------------- */

/* Producer: hand a buffer to the readers.  Its header's fields and its blocks are already written.
 * SYNC assign (release; pairs with zbuf_assigned): a reader that sees the new generation sees all of them. */
static inline void zbuf_assign(struct zbuf_header *header, uint32_t kernel_gen)
{
    __atomic_store_n(&header->kernel_gen, kernel_gen, __ATOMIC_RELEASE);
}

/* Reader: the generation that a buffer was last assigned as.  The buffer is the reader's while this differs
 * from the generation that the reader acknowledged.
 * SYNC assign (acquire; pairs with zbuf_assign). */
static inline uint32_t zbuf_assigned(const struct zbuf_header *header)
{
    return __atomic_load_n(&header->kernel_gen, __ATOMIC_ACQUIRE);
}

/* Reader: give a buffer back.
 * SYNC acknowledge (release; pairs with zbuf_acknowledged): the reader's loads are complete before the
 * producer can overwrite what they read. */
static inline void zbuf_acknowledge(struct zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
{
    __atomic_store_n(&ack->user_gen[which], kernel_gen, __ATOMIC_RELEASE);
}

/* Producer: has this reader given back the buffer that was assigned as kernel_gen?
 * SYNC acknowledge (acquire; pairs with zbuf_acknowledge). */
static inline int zbuf_acknowledged(const struct zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
{
    return __atomic_load_n(&ack->user_gen[which], __ATOMIC_ACQUIRE) == kernel_gen;
}

/* Producer: publish how many bytes are appended to the filling that will be assigned as kernel_gen.
 * SYNC store_len (release; pairs with zbuf_stored): the blocks up to there are complete. */
static inline void zbuf_store(struct zbuf_header *header, uint32_t kernel_gen, uint32_t length_bytes)
{
    __atomic_store_n(&header->store_len, (uint64_t)kernel_gen << 32 | length_bytes, __ATOMIC_RELEASE);
}

/* Reader, after the producer died: the bytes appended to a filling that was never assigned as kernel_gen.
 * SYNC store_len (acquire; pairs with zbuf_store). */
static inline uint32_t zbuf_stored(const struct zbuf_header *header, uint32_t kernel_gen)
{
    uint64_t stored = __atomic_load_n(&header->store_len, __ATOMIC_ACQUIRE);
    return (uint32_t)(stored >> 32) == kernel_gen ? (uint32_t)stored : 0;
}

/* Reader: announce sleep.  The reader must call zbuf_assigned() once more before it really sleeps.
 * SYNC sleep (full fence; pairs with zbuf_fence_sleepers): of "sleeping := 1, look at kernel_gen" here and
 * "assign, look at sleeping" there, at least one look sees the other's store, so no wake-up is lost. */
static inline void zbuf_sleep(struct zbuf_ack *ack)
{
    __atomic_store_n(&ack->sleeping, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void zbuf_wake(struct zbuf_ack *ack)
{
    __atomic_store_n(&ack->sleeping, 0, __ATOMIC_RELAXED);
}

/* Producer, after assigning a buffer and before asking who sleeps: one fence serves all readers.
 * SYNC sleep (full fence; pairs with zbuf_sleep). */
static inline void zbuf_fence_sleepers(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline int zbuf_sleeper(const struct zbuf_ack *ack)
{
    return __atomic_load_n(&ack->sleeping, __ATOMIC_RELAXED) != 0;
}

/* Producer: open or close a segment.
 * SYNC state (release; pairs with zbuf_state): OPEN follows the layout, CLOSED the last assignment. */
static inline void zbuf_set_state(struct zbuf_segment *segment, uint32_t state)
{
    __atomic_store_n(&segment->state, state, __ATOMIC_RELEASE);
}

/* SYNC state (acquire; pairs with zbuf_set_state). */
static inline uint32_t zbuf_state(const struct zbuf_segment *segment)
{
    return __atomic_load_n(&segment->state, __ATOMIC_ACQUIRE);
}

/* ---- Enhanced Packet Blocks (draft-ietf-opsawg-pcapng, section 4.3) ---------------------------------- */

#define ZBUF_EPB_TYPE 6u
#define ZBUF_EPB_BYTES 32u                /* of a block without data and options */
#define ZBUF_EPB_DATA 28u                 /* where the data begins */
#define ZBUF_EPB_FLAGS (4u << 16 | 2u)     /* the option epb_flags: its length, its code */
#define ZBUF_EPB_DROPCOUNT (8u << 16 | 4u) /* the option epb_dropcount */

/* zbuf_packet.direction, as in the lowest bits of epb_flags */
enum { ZBUF_UNKNOWN = 0, ZBUF_INBOUND = 1, ZBUF_OUTBOUND = 2 };

struct zbuf_packet {
    uint64_t time_ns;      /* since 1970-01-01 00:00 UTC */
    uint64_t dropped;      /* packets lost just before this one (epb_dropcount) */
    uint32_t caplen;       /* bytes here */
    uint32_t wirelen;      /* bytes on the wire */
    uint32_t interface_id; /* index of its Interface Description Block in the prologue */
    uint32_t direction : 2; /* epb_flags & 3 */
    uint32_t tag_at : 5; /* where the VLAN tag is in data that the card took off and libpcap put back; 0 for none */
    uint32_t : 25;
    const uint8_t *data;
};

static inline uint32_t zbuf_pad(uint32_t length_bytes)
{
    return (length_bytes + 3u) & ~3u;
}

/* The size of the block that zbuf_block_begin() writes for this packet. */
static inline uint32_t zbuf_block_bytes(const struct zbuf_packet *packet)
{
    uint32_t options = (packet->direction ? 8u : 0u) + (packet->dropped ? 12u : 0u);
    return ZBUF_EPB_BYTES + zbuf_pad(packet->caplen) + (options ? options + 4 : 0);
}

static inline uint8_t *zbuf_put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
    return at + sizeof value;
}

static inline void zbuf_put_options(uint8_t *at, const struct zbuf_packet *packet)
{
    if (packet->direction)
        at = zbuf_put32(zbuf_put32(at, ZBUF_EPB_FLAGS), packet->direction);
    if (packet->dropped) {
        at = zbuf_put32(zbuf_put32(at, ZBUF_EPB_DROPCOUNT), (uint32_t)packet->dropped);
        at = zbuf_put32(at, (uint32_t)(packet->dropped >> 32));
    }
    zbuf_put32(at, 0); /* opt_endofopt */
}

/* Write a block at `at`, except its data (packet->data is not used).  Returns where the caller then copies
 * the packet->caplen bytes of data.  The caller guarantees zbuf_block_bytes() bytes of room. */
static inline uint8_t *zbuf_block_begin(uint8_t *at, const struct zbuf_packet *packet)
{
    uint32_t total = zbuf_block_bytes(packet);
    uint8_t *data = at + ZBUF_EPB_DATA, *tail = data + zbuf_pad(packet->caplen);

    zbuf_put32(tail - 4, 0); /* the padding; whatever else this clears is written below */
    zbuf_put32(at, ZBUF_EPB_TYPE);
    zbuf_put32(at + 4, total);
    zbuf_put32(at + 8, packet->interface_id);
    zbuf_put32(at + 12, (uint32_t)(packet->time_ns >> 32));
    zbuf_put32(at + 16, (uint32_t)packet->time_ns);
    zbuf_put32(at + 20, packet->caplen);
    zbuf_put32(at + 24, packet->wirelen);
    if (packet->direction || packet->dropped)
        zbuf_put_options(tail, packet);
    zbuf_put32(at + total - 4, total);
    return data;
}

/* Load a word once, because another process may be changing it: the value checked is the value used. */
static inline uint32_t zbuf_get32(const uint8_t *at)
{
    return __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline void zbuf_get_options(const uint8_t *option, const uint8_t *end, struct zbuf_packet *packet)
{
    while (end - option >= 8) {
        uint32_t head = zbuf_get32(option), room = (uint32_t)(end - option) - 4, padded = zbuf_pad(head >> 16);
        if ((head & 0xffffu) == 0 || padded > room)
            return;
        if (head == ZBUF_EPB_FLAGS)
            packet->direction = zbuf_get32(option + 4) & 3u;
        else if (head == ZBUF_EPB_DROPCOUNT)
            packet->dropped = zbuf_get32(option + 4) | (uint64_t)zbuf_get32(option + 8) << 32;
        option += 4 + padded;
    }
}

/* Read the packet whose block begins `offset` bytes into a buffer's blocks, which are length_bytes long; both
 * are multiples of 4.  Returns the offset of the next block, or 0 if no whole Enhanced Packet Block with the
 * same length at both ends begins there.  Nothing outside the blocks is read, whatever they say. */
static inline uint32_t zbuf_next_packet(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset,
                                        struct zbuf_packet *packet)
{
    const uint8_t *at = blocks + offset;
    uint32_t room = length_bytes - offset, total, caplen, bare;

    if (offset > length_bytes || room < ZBUF_EPB_BYTES || zbuf_get32(at) != ZBUF_EPB_TYPE)
        return 0;
    total = zbuf_get32(at + 4);
    caplen = zbuf_get32(at + 20);
    bare = ZBUF_EPB_BYTES + zbuf_pad(caplen);
    if (total > room || total % 4 || caplen > ZBUF_MAX_CAPLEN || total < bare || zbuf_get32(at + total - 4) != total)
        return 0;
    packet->interface_id = zbuf_get32(at + 8);
    packet->time_ns = (uint64_t)zbuf_get32(at + 12) << 32 | zbuf_get32(at + 16);
    packet->caplen = caplen;
    packet->wirelen = zbuf_get32(at + 24);
    packet->dropped = packet->direction = packet->tag_at = 0;
    packet->data = at + ZBUF_EPB_DATA;
    if (total > bare)
        zbuf_get_options(packet->data + zbuf_pad(caplen), at + total - 4, packet);
    return offset + total;
}

#endif /* ZBUF_H */
