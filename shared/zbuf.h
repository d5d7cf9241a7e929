/* SPDX-License-Identifier: BSD-2-Clause
 *
 * zbuf.h: the shared memory between a packet producer and its readers, ABI 2.
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
 *                 zbuf A                struct zbuf_header, then pcapng blocks, most of them Enhanced Packet Blocks
 *                 zbuf B                the same
 *      ack page   struct zbuf_ack       one per reader, a mapping of its own
 *
 * The segment is mapped read-only by readers: (p) marks what the producer writes.  A reader writes nothing
 * but its ack page: (u).  Buffers are assigned strictly in turn, A first: the n-th assignment is buffer n & 1.
 * Prologue and buffers, one after the other, are a pcapng file.  An interface that appears later is announced by
 * its Interface Description Block at the head of a buffer, before the interface's first packet; blocks of other
 * types (names, secrets, custom ones) may stand anywhere between packets, and readers skip those they don't know.
 *
 * Trust: the producer reads only the ack page's words, and learns no more from each than "yes" or "no".  A
 * reader walks blocks with zbuf_next_packet(), which never reads outside the buffer, whatever the bytes say.
 *
 * Ordering: each edge carries a label, found at both of its ends: SYNC assign, SYNC acknowledge,
 * SYNC store_len, SYNC sleep, SYNC state, SYNC prologue, SYNC ledger.
 *
 * The comments that begin with an @ are what docs/proof needs to prove that.
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

#define ZBUF_ABI 2u
#define ZBUF_MAGIC "ZBUF\r\n\032\n"        /* 8 bytes; the line ends show a copy made in text mode */
#define ZBUF_PAGE_BYTES 4096u
#define ZBUF_MAX_BYTES (UINT64_C(1) << 30) /* of one buffer, its header included */
#define ZBUF_MAX_CAPLEN 262144u            /* libpcap's own limit for a packet */

/* zbuf_segment.state; it only ever grows.
 *
 *      FORMING   the producer is making the segment: an attaching reader came too early
 *      OPEN      packets come
 *      FINISHED  nothing more will be assigned: a reader that has taken buffer end_sequence - 1 has all of it
 *      MOVED     as FINISHED, and what comes next is in another segment: ask for the descriptor again
 *      CLOSED    the producer has let go of it; if it was not FINISHED before, its last reader was taken off
 */
enum { ZBUF_FORMING = 0, ZBUF_OPEN = 1, ZBUF_FINISHED = 2, ZBUF_MOVED = 3, ZBUF_CLOSED = 4 };

/* zbuf_segment.end_sequence where a segment is CLOSED that was never FINISHED: its stream did not end, but its last reader
 * was taken off.  No reader can have taken so many buffers. */
#define ZBUF_NO_END UINT64_MAX

/* The ledger, first in packets, then in bytes on the wire.  Each of the two halves adds up:
 * received = filtered + accepted, accepted = delivered + dropped + abandoned + buffered. */
struct zbuf_ledger {
    uint64_t received;  /* what the source gave to this descriptor */
    uint64_t filtered;  /* refused by its filter */
    uint64_t accepted;  /* passed by its filter */
    uint64_t delivered; /* acknowledged by their readers, except those that had left */
    uint64_t dropped;   /* no buffer was free */
    uint64_t abandoned; /* their last reader left without acknowledging them */
    uint64_t buffered;  /* appended, and not acknowledged yet */
    uint64_t truncated; /* appended, but cut to the snaplen or to the size of a buffer; packets only */
    uint64_t received_bytes;
    uint64_t filtered_bytes;
    uint64_t accepted_bytes;
    uint64_t delivered_bytes;
    uint64_t dropped_bytes;
    uint64_t abandoned_bytes;
    uint64_t buffered_bytes;
    uint64_t reserved;
};

struct zbuf_segment {
    char magic[8];             /* (p) ZBUF_MAGIC */
    uint32_t abi;              /* (p) ZBUF_ABI */
    uint32_t state;            /* (p) SYNC state: everything else here is written before OPEN */
    uint64_t epoch;            /* (p) a random number, one per run of a producer */
    uint64_t segment_bytes;    /* (p) of the whole segment */
    uint64_t prologue_offset;  /* (p) from the segment's start */
    uint64_t prologue_bytes;   /* (p) SYNC prologue: in use; grows as interfaces appear */
    uint64_t zbuf_offset[2];   /* (p) of A and B, from the segment's start, page-aligned */
    uint64_t zbuf_bytes;       /* (p) of each buffer, header included */
    uint64_t prologue_room;    /* (p) bytes that the prologue may grow to */
    uint64_t end_sequence;     /* (p) assignments in all; written before FINISHED, MOVED or CLOSED: see ZBUF_NO_END */
    uint32_t snaplen;          /* (p) bytes kept of a packet at most; an interface may have a smaller one */
    uint32_t ledger_sequence;  /* (p) SYNC ledger: odd while the ledger is being written */
    uint8_t reserved[32];
    struct zbuf_ledger ledger; /* (p) a copy, as of the last rotation or drop; exact once FINISHED */
    char producer[64];         /* (p) names, NUL-terminated */
    char descriptor[64];       /* (p) */
};

struct zbuf_header {
    /* bpf(4)'s struct bpf_zbuf_header; the first word of its padding is used */
    uint32_t kernel_gen;     /* (p) SYNC assign: the number of times this buffer was assigned */
    uint32_t kernel_len;     /* (p) bytes of blocks behind this header, at the assignment */
    uint32_t user_gen;       /* (p) for observers: the last generation that the producer saw acknowledged */
    uint32_t packets;        /* (p) packets in those kernel_len bytes */
    uint32_t interfaces;     /* (p) announced so far: by the prologue and by the heads of buffers up to this one's */
    uint32_t reserved;
    uint64_t wire_bytes;     /* (p) of those packets, on the wire */
    /* what zbuf adds, valid with the assignment */
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
    uint32_t passed_gen[2];  /* (u) a hint: it wants the next buffer, while its program still looks at this one */
    uint32_t reserved[11];
};

static_assert(sizeof(struct zbuf_ledger) == 128, "zbuf_ledger");
static_assert(offsetof(struct zbuf_segment, state) == 12, "zbuf_segment.state");
static_assert(offsetof(struct zbuf_segment, zbuf_offset) == 48, "zbuf_segment.zbuf_offset");
static_assert(offsetof(struct zbuf_segment, ledger_sequence) == 92, "zbuf_segment.ledger_sequence");
static_assert(offsetof(struct zbuf_segment, ledger) == 128, "zbuf_segment.ledger");
static_assert(sizeof(struct zbuf_segment) == 384, "zbuf_segment");
static_assert(offsetof(struct zbuf_header, user_gen) == 8, "zbuf_header.user_gen");
static_assert(offsetof(struct zbuf_header, sequence) == 32, "zbuf_header.sequence");
static_assert(offsetof(struct zbuf_header, store_len) == 64, "zbuf_header.store_len");
static_assert(sizeof(struct zbuf_header) == 128, "zbuf_header");
static_assert(offsetof(struct zbuf_ack, sleeping) == 8, "zbuf_ack.sleeping");
static_assert(offsetof(struct zbuf_ack, passed_gen) == 12, "zbuf_ack.passed_gen");
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

/* Reader: it waits for the next buffer, and can't acknowledge this one yet, which is still looked at.  A reader that
 * never says so gets the next buffer when that is full.
 * Relaxed: only this one word is told, and nothing is overwritten because of it. */
static inline void zbuf_pass(struct zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
{
    __atomic_store_n(&ack->passed_gen[which], kernel_gen, __ATOMIC_RELAXED);
}

/* Producer: does this reader wait for the buffer after the one that was assigned as kernel_gen? */
static inline int zbuf_passed(const struct zbuf_ack *ack, unsigned which, uint32_t kernel_gen)
{
    return __atomic_load_n(&ack->passed_gen[which], __ATOMIC_RELAXED) == kernel_gen;
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

/* Producer: move a segment on to its next state.
 * SYNC state (release; pairs with zbuf_state): OPEN follows the layout; FINISHED, MOVED and CLOSED follow the last
 * assignment and end_sequence. */
static inline void zbuf_set_state(struct zbuf_segment *segment, uint32_t state)
{
    __atomic_store_n(&segment->state, state, __ATOMIC_RELEASE);
}

/* SYNC state (acquire; pairs with zbuf_set_state). */
static inline uint32_t zbuf_state(const struct zbuf_segment *segment)
{
    return __atomic_load_n(&segment->state, __ATOMIC_ACQUIRE);
}

/* Producer: publish a prologue to which blocks were added.
 * SYNC prologue (release; pairs with zbuf_prologue_bytes): the blocks up to there are whole. */
static inline void zbuf_grow_prologue(struct zbuf_segment *segment, uint64_t prologue_bytes)
{
    __atomic_store_n(&segment->prologue_bytes, prologue_bytes, __ATOMIC_RELEASE);
}

/* SYNC prologue (acquire; pairs with zbuf_grow_prologue). */
static inline uint64_t zbuf_prologue_bytes(const struct zbuf_segment *segment)
{
    return __atomic_load_n(&segment->prologue_bytes, __ATOMIC_ACQUIRE);
}

/* Producer: replace the ledger on page 0, so that nobody takes a half-written one for whole.
 * SYNC ledger (sequence write; pairs with zbuf_read_ledger): the count is odd from before the first word is
 * written until after the last. */
static inline void zbuf_write_ledger(struct zbuf_segment *segment, const struct zbuf_ledger *ledger)
{
    uint32_t count = segment->ledger_sequence, at;
    const uint64_t *from = (const uint64_t *)(const void *)ledger;
    uint64_t *to = (uint64_t *)(void *)&segment->ledger;

    __atomic_store_n(&segment->ledger_sequence, count | 1u, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (at = 0; at < sizeof *ledger / sizeof *from; at++)
        __atomic_store_n(&to[at], from[at], __ATOMIC_RELAXED);
    __atomic_store_n(&segment->ledger_sequence, (count | 1u) + 1u, __ATOMIC_RELEASE);
}

/* Observer: copy the ledger; false where the producer was writing it: try again.  A producer that was killed while it
 * wrote leaves an odd count for good, so a caller bounds its tries.
 * SYNC ledger (sequence read; pairs with zbuf_write_ledger). */
static inline int zbuf_read_ledger(const struct zbuf_segment *segment, struct zbuf_ledger *ledger)
{
    uint32_t count = __atomic_load_n(&segment->ledger_sequence, __ATOMIC_ACQUIRE), at;
    const uint64_t *from = (const uint64_t *)(const void *)&segment->ledger;
    uint64_t *to = (uint64_t *)(void *)ledger;

    for (at = 0; at < sizeof *ledger / sizeof *to; at++)
        to[at] = __atomic_load_n(&from[at], __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(count & 1u) && __atomic_load_n(&segment->ledger_sequence, __ATOMIC_RELAXED) == count;
}

/* ---- Blocks (draft-ietf-opsawg-pcapng, sections 3.1 and 4.3) ----------------------------------------- */

#define ZBUF_IDB_TYPE 1u
#define ZBUF_EPB_TYPE 6u
#define ZBUF_BLOCK_BYTES 12u              /* of the smallest block: its type, and its length at both ends */
#define ZBUF_EPB_BYTES 32u                /* of a packet's block without data and options */
#define ZBUF_EPB_DATA 28u                 /* where the data begins */
#define ZBUF_EPB_FLAGS (4u << 16 | 2u)     /* the option epb_flags: its length, its code */
#define ZBUF_EPB_DROPCOUNT (8u << 16 | 4u) /* the option epb_dropcount */

/* zbuf_packet.direction, as in the lowest bits of epb_flags */
enum { ZBUF_UNKNOWN = 0, ZBUF_INBOUND = 1, ZBUF_OUTBOUND = 2 };

/* zbuf_packet.interface_id, within the producer, of a block that is no packet: its data are the whole block */
#define ZBUF_NO_PACKET 0xffffffffu

/* A packet, where its bytes are.  Its options stand behind its data, which are padded to four bytes: as they are in a
 * block, without opt_endofopt where the producer appends them, and with it where a reader finds them.  What the producer
 * appends has no epb_dropcount among them, since that is `dropped`. */
struct zbuf_packet {
    uint64_t time_ns;            /* since 1970-01-01 00:00 UTC */
    uint64_t dropped;            /* packets lost just before this one (epb_dropcount) */
    uint32_t caplen;             /* bytes here */
    uint32_t wirelen;            /* bytes on the wire */
    uint32_t interface_id;       /* which of the Interface Description Blocks is its own, from 0 on */
    uint8_t direction;           /* epb_flags & 3 */
    uint8_t tag_at;              /* where the VLAN tag is in data that the card took off and libpcap put back, or 0 */
    uint16_t options_words;      /* of its options: their length / 4; of longer ones, the first 262,140 bytes */
    const uint8_t *data;
};

static_assert(sizeof(struct zbuf_packet) == 40, "zbuf_packet");

static inline uint32_t zbuf_pad(uint32_t length_bytes)
{
    return (length_bytes + 3u) / 4u * 4u;
}

/* One load of a word that somebody else may be changing: what was checked is what is used. */
static inline uint32_t zbuf_get32(const uint8_t *at)
{
    return __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_RELAXED);
}

static inline uint8_t *zbuf_put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
    return at + sizeof value;
}

/* ---- Writing blocks: the producer ---- */

static inline const uint8_t *zbuf_options(const struct zbuf_packet *packet)
{
    return packet->data + zbuf_pad(packet->caplen);
}

/* Whether its options tell its flags: the producer sets `direction` to 0 then, which is written otherwise. */
static inline int zbuf_has_flags(const struct zbuf_packet *packet)
{
    const uint8_t *at = zbuf_options(packet), *end = at + 4u * packet->options_words;
    while (end - at >= 8) {
        uint32_t head = zbuf_get32(at);
        if (head == ZBUF_EPB_FLAGS)
            return 1;
        at += 4 + zbuf_pad(head >> 16);
    }
    return 0;
}

/* The size of the block that zbuf_block_begin() writes for this packet. */
static inline uint32_t zbuf_block_bytes(const struct zbuf_packet *packet)
{
    uint32_t bare = ZBUF_EPB_BYTES + zbuf_pad(packet->caplen);
    uint32_t options = (packet->direction ? 8u : 0u) + (packet->dropped ? 12u : 0u) + 4u * packet->options_words;
    return options ? bare + options + 4 : bare;
}

static inline void zbuf_put_options(uint8_t *at, const struct zbuf_packet *packet, const uint8_t *options)
{
    if (packet->direction)
        at = zbuf_put32(zbuf_put32(at, ZBUF_EPB_FLAGS), packet->direction);
    if (packet->dropped) {
        at = zbuf_put32(zbuf_put32(at, ZBUF_EPB_DROPCOUNT), (uint32_t)packet->dropped);
        at = zbuf_put32(at, (uint32_t)(packet->dropped >> 32));
    }
    if (options) {
        memcpy(at, options, 4u * packet->options_words);
        at += 4u * packet->options_words;
    }
    zbuf_put32(at, 0); /* opt_endofopt */
}

/* Write a block at `at`, all but its data.  Returns where the caller puts those packet->caplen bytes.  The caller has
 * made sure of zbuf_block_bytes() bytes of room.  `options` are zbuf_options() of the packet before its caplen was cut;
 * NULL where it has none. */
static inline uint8_t *zbuf_block_begin(uint8_t *at, const struct zbuf_packet *packet, const uint8_t *options)
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
    if (packet->direction || packet->dropped || packet->options_words)
        zbuf_put_options(tail, packet, options);
    zbuf_put32(at + total - 4, total);
    return data;
}

/* ---- Reading blocks: whoever trusts nobody ---- */

/* Look at the block that begins `offset` bytes into a buffer's blocks, which are length_bytes long (a multiple of 4, as
 * is the offset).  Returns the offset of the next block, or 0 where no whole block begins, with its length at both of
 * its ends.  Nothing outside the blocks is read, whatever they say. */
static inline uint32_t zbuf_next_block(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset, uint32_t *type)
{
    const uint8_t *at = blocks + offset;
    uint32_t room = length_bytes - offset, total;

    if (offset > length_bytes || room < ZBUF_BLOCK_BYTES)
        return 0;
    *type = zbuf_get32(at);
    total = zbuf_get32(at + 4);
    if (total > room || total % 4 || total < ZBUF_BLOCK_BYTES || zbuf_get32(at + total - 4) != total)
        return 0;
    return offset + total;
}

static inline void zbuf_get_options(const uint8_t *options, uint32_t length_bytes, struct zbuf_packet *packet)
{
    uint32_t at = 0;

    /*@ loop invariant at <= length_bytes;
        loop assigns at, packet->direction, packet->dropped;
        loop variant length_bytes - at; */
    while (length_bytes - at >= 8) {
        const uint8_t *option = options + at;
        uint32_t head = zbuf_get32(option), padded = zbuf_pad(head >> 16);
        if ((head & 0xffffu) == 0 || padded > length_bytes - at - 4)
            return;
        if (head == ZBUF_EPB_FLAGS)
            packet->direction = (uint8_t)(zbuf_get32(option + 4) & 3u);
        else if (head == ZBUF_EPB_DROPCOUNT)
            packet->dropped = zbuf_get32(option + 4) | (uint64_t)zbuf_get32(option + 8) << 32;
        at += 4 + padded;
    }
}

/* Read the packet whose block is whole and ends at `following`; returns that, or 0 where it has no room for its data. */
static inline uint32_t zbuf_get_packet(const uint8_t *blocks, uint32_t offset, uint32_t following,
                                       struct zbuf_packet *packet)
{
    const uint8_t *at = blocks + offset;
    uint32_t total = following - offset, caplen, bare, words;

    if (total < ZBUF_EPB_BYTES)
        return 0;
    caplen = zbuf_get32(at + 20);
    bare = ZBUF_EPB_BYTES + zbuf_pad(caplen);
    if (caplen > ZBUF_MAX_CAPLEN || total < bare)
        return 0;
    packet->interface_id = zbuf_get32(at + 8);
    packet->time_ns = (uint64_t)zbuf_get32(at + 12) << 32 | zbuf_get32(at + 16);
    packet->caplen = caplen;
    packet->wirelen = zbuf_get32(at + 24);
    packet->dropped = packet->direction = packet->tag_at = 0;
    words = (total - bare) / 4;
    packet->options_words = (uint16_t)(words < UINT16_MAX ? words : UINT16_MAX);
    packet->data = at + ZBUF_EPB_DATA;
    if (total > bare)
        zbuf_get_options(packet->data + zbuf_pad(caplen), total - bare, packet);
    return following;
}

/* Read the first packet at or after the block that begins at `offset`, passing over blocks of other types.
 * Returns the offset of the block behind it; length_bytes, with packet->data NULL, where no more packets come; or 0
 * where there is no whole block, or no whole packet in it.  As for zbuf_next_block() otherwise. */
static inline uint32_t zbuf_next_packet(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset,
                                        struct zbuf_packet *packet)
{
    uint32_t type, following;

    /*@ loop invariant \at(offset, Pre) <= offset <= length_bytes && offset % 4 == 0;
        loop assigns offset, type, following;
        loop variant length_bytes - offset; */
    do {
        following = zbuf_next_block(blocks, length_bytes, offset, &type);
        if (following == 0)
            return 0;
        if (type == ZBUF_EPB_TYPE)
            return zbuf_get_packet(blocks, offset, following, packet);
        offset = following;
    } while (offset < length_bytes);
    packet->data = NULL;
    return length_bytes;
}

#endif /* ZBUF_H */
