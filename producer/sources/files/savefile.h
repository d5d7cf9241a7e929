/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A reader of pcap and pcapng files: from memory, by steps, without system calls.
 *
 * The caller has a window, which is a part of the file in memory, and asks for the next event in it.  An event uses up
 * its bytes; packets stay in the window, and nothing is copied.  If an event needs more bytes than the window has, the
 * caller is told how many: so a file can come from a mapping, from read(2) or from a pipe, in pieces of any size.  An
 * event never needs more than SAVEFILE_LONGEST_BLOCK and, if a link type has larger packets, one of those.
 *
 * A record or block is checked as a whole before anything in it is told.  The first one that is not well-formed ends the
 * file, and what came before it is good.
 *
 * Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; for what is older, libpcap's sf-pcap.c, and Wireshark's
 * wiretap/libpcap.h and libpcap.c, which describe magic numbers and how to tell AIX's files.
 */
#ifndef ZBUF_SAVEFILE_H
#define ZBUF_SAVEFILE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "zbuf/producer/sources/files/blocks.h"
#include "zbuf/producer/sources/files/ticks.h"
#include "zbuf/shared/zbuf.h"

#define SAVEFILE_LONGEST_BLOCK (16u << 20)    /* libpcap's limit, too */
#define SAVEFILE_LONGEST_PACKET (128u << 20)  /* of the link types with the largest packets */
#define SAVEFILE_INTERFACES 65536u            /* of a file, in all its sections together */
#define SAVEFILE_LONGEST_OPTIONS (128u << 10) /* of a packet that are told: room for two of the longest */

enum savefile_event {
    SAVEFILE_MORE,      /* the window ends within the next event: a window of `need` bytes is wanted */
    SAVEFILE_PACKET,
    SAVEFILE_INTERFACE, /* the last of `interfaces` is new; `block` is its description, or NULL in a pcap file */
    SAVEFILE_BLOCK,     /* another block, `block` */
    SAVEFILE_DAMAGED,   /* the file can't be read from here on: `reason` says why */
    SAVEFILE_END,
};

enum savefile_format { SAVEFILE_UNKNOWN, SAVEFILE_PCAP, SAVEFILE_PCAPNG };

/* The order of the two lengths in a pcap record.  Before version 2.3 the length on the wire came first.  So it does in
 * some files of version 2.3: there, the larger length is the one on the wire. */
enum savefile_lengths { LENGTHS_CAPTURED_FIRST, LENGTHS_WIRE_FIRST, LENGTHS_LARGER_IS_WIRE };

struct savefile_interface {
    struct ticks ticks;
    uint32_t snaplen; /* 0: no limit */
    uint32_t number;  /* the interface number of its packets; the caller sets it at SAVEFILE_INTERFACE */
    uint16_t linktype;
};

/* What a packet has that zbuf_packet has no place for. */
struct savefile_extra {
    const uint8_t *options; /* in the file's byte order, without opt_endofopt */
    uint32_t options_bytes;
    uint32_t flags; /* epb_flags, all 32 bits */
};

struct savefile {
    enum savefile_format format;
    bool swapped;       /* the file, or this section of it, is big-endian */
    uint64_t offset;    /* where the window begins in the file */
    uint64_t packets;   /* told so far */
    uint64_t saturated; /* packets so far whose time is out of range and was made the nearest in range: see ticks.h */
    struct savefile_interface *interfaces; /* of this section */
    uint32_t count, room;
    uint32_t all_interfaces; /* in all sections so far */
    uint32_t longest;        /* a block or record with more bytes is damage */
    bool far; /* set by the caller: the window is a mapping, which the processor's cache does not hold */
    /* of a pcap file */
    uint32_t record_bytes; /* before the data of each packet */
    enum savefile_lengths lengths;
    uint8_t fcs_bits; /* length of the frame check sequence in units of 16 bits; 0xff if that is not known */
    bool over_snaplen; /* a packet was longer than the snapshot length in the file's header */
    /* of the last event */
    size_t used, need;
    const uint8_t *block;
    uint32_t block_bytes, kind;
    char reason[160];
};

static inline void savefile_free(struct savefile *file)
{
    free(file->interfaces);
    file->interfaces = NULL;
}

/* ---- the end of an event ---------------------------------------------------------------------------------------- */

static inline __attribute__((format(printf, 2, 3))) int savefile_damaged(struct savefile *file, const char *form, ...)
{
    va_list values;
    va_start(values, form);
    vsnprintf(file->reason, sizeof file->reason, form, values);
    va_end(values);
    file->used = 0;
    return SAVEFILE_DAMAGED;
}

/* The next event has `wanted` bytes, and the window only `length`. */
static inline int savefile_lacks(struct savefile *file, size_t wanted, size_t length, bool last)
{
    file->need = wanted;
    file->used = 0;
    return last ? savefile_damaged(file, "cut short: %zu bytes of %zu are there", length, wanted) : SAVEFILE_MORE;
}

static inline int savefile_used(struct savefile *file, size_t used, int event)
{
    file->used = used;
    file->packets += event == SAVEFILE_PACKET;
    return event;
}

static inline int savefile_block(struct savefile *file, const uint8_t *block, uint32_t bytes, int event)
{
    file->block = block;
    file->block_bytes = bytes;
    file->kind = load32(block, file->swapped);
    return savefile_used(file, bytes, event);
}

/* ---- interfaces ------------------------------------------------------------------------------------------------------ */

static inline uint32_t savefile_longest_packet(uint16_t linktype)
{
    switch (linktype) {
    case 189: /* USB requests */
    case 220:
    case 249:
    case 231: /* D-Bus messages */
    case 279: /* EBHSCR frames */
        return SAVEFILE_LONGEST_PACKET;
    default:
        return ZBUF_MAX_CAPLEN;
    }
}

/* Add an interface to this section; NULL if there are too many, or there is no memory. */
static inline struct savefile_interface *savefile_add_interface(struct savefile *file, uint16_t linktype,
                                                                uint32_t snaplen)
{
    uint32_t room = file->room ? 2 * file->room : 4, longest = savefile_longest_packet(linktype);
    struct savefile_interface *grown = file->interfaces, *added;

    if (file->all_interfaces == SAVEFILE_INTERFACES)
        return NULL;
    if (file->count == file->room) {
        if ((grown = realloc(grown, room * sizeof *grown)) == NULL)
            return NULL;
        file->interfaces = grown;
        file->room = room;
    }
    added = &grown[file->count++];
    *added = (struct savefile_interface){.linktype = linktype, .snaplen = snaplen};
    if (longest > ZBUF_MAX_CAPLEN)
        file->longest = longest + SAVEFILE_LONGEST_BLOCK;
    file->all_interfaces++;
    return added;
}

/* ---- pcap ------------------------------------------------------------------------------------------------------------ */

#define PCAP_HEADER_BYTES 24u

struct pcap_magic {
    uint32_t magic;
    uint8_t resolution; /* of times, as in if_tsresol */
    uint8_t more_header; /* bytes of the file's header behind the usual ones */
    uint8_t record_bytes;
};

/* The variant of the format that a magic number in either byte order stands for; NULL if it is no magic number. */
static inline const struct pcap_magic *pcap_magic(const uint8_t *at, bool *swapped)
{
    static const struct pcap_magic known[] = {
        {0xa1b2c3d4, 6, 0, 16}, {0xa1b23c4d, 9, 0, 16},
        {0xa1b2cd34, 6, 0, 24}, /* Kuznetzov's: with an interface, a protocol and a packet type for each packet */
        {0x1c0001ac, 9, 4, 16}, /* Ixia's, captured by hardware: with the size of all records behind the header */
        {0x1c0001ab, 6, 4, 16}, /* Ixia's, captured by software */
    };
    for (size_t each = 0; each < sizeof known / sizeof *known; each++)
        for (int order = 0; order < 2; order++)
            if (load32(at, order) == known[each].magic) {
                *swapped = order;
                return &known[each];
            }
    return NULL;
}

static inline bool pcap_version(struct savefile *file, uint16_t major, uint16_t minor)
{
    file->lengths = LENGTHS_CAPTURED_FIRST;
    if (major == 543 || (major == 2 && minor < 3)) /* 543.0 is DG/UX's */
        file->lengths = LENGTHS_WIRE_FIRST;
    else if (major == 2 && minor == 3)
        file->lengths = LENGTHS_LARGER_IS_WIRE;
    return major == 2 || major == 543;
}

/* AIX has the usual magic number and version 2.2, nanoseconds, and for a link type the interface type of RFC 1573.  Files
 * of libpcap's own version 2.2 had none of these types, PPP's 9 excepted, and AIX's token ring is the likelier one.
 * Returns the link type; *resolution becomes that of AIX if the file is one of AIX. */
static inline uint32_t pcap_linktype(struct savefile *file, const uint8_t *at, uint8_t *resolution)
{
    static const struct {
        uint8_t interface_type, linktype;
    } aix[] = {{6, 1 /* Ethernet */}, {9, 6 /* token ring */}, {15, 10 /* FDDI */}, {24, 0 /* loopback */}};
    uint32_t linktype = load32(at + 20, file->swapped);

    if (load32(at, file->swapped) != 0xa1b2c3d4 || load16(at + 4, file->swapped) != 2 ||
        load16(at + 6, file->swapped) != 2)
        return linktype;
    for (size_t each = 0; each < sizeof aix / sizeof *aix; each++)
        if (linktype == aix[each].interface_type) {
            *resolution = 9;
            return aix[each].linktype;
        }
    return linktype;
}

/* The file's header, which describes one interface. */
static inline int pcap_begin(struct savefile *file, const uint8_t *at, size_t length, bool last)
{
    const struct pcap_magic *magic = pcap_magic(at, &file->swapped);
    uint32_t linktype, header = PCAP_HEADER_BYTES + magic->more_header;
    uint8_t resolution = magic->resolution;
    struct savefile_interface *interface;

    if (length < header)
        return savefile_lacks(file, header, length, last);
    if (!pcap_version(file, load16(at + 4, file->swapped), load16(at + 6, file->swapped)))
        return savefile_damaged(file, "pcap version %u.%u, where version 2 is known", load16(at + 4, file->swapped),
                                load16(at + 6, file->swapped));
    linktype = pcap_linktype(file, at, &resolution);
    interface = savefile_add_interface(file, (uint16_t)linktype, load32(at + 16, file->swapped));
    if (interface == NULL)
        return savefile_damaged(file, "out of memory");
    interface->ticks = ticks_of(resolution, 0);
    file->fcs_bits = linktype & 1u << 26 ? linktype >> 28 : 0xff;
    file->record_bytes = magic->record_bytes;
    file->format = SAVEFILE_PCAP;
    file->block = NULL;
    return savefile_used(file, header, SAVEFILE_INTERFACE);
}

static inline int pcap_next(struct savefile *file, const uint8_t *at, size_t length, bool last,
                            struct zbuf_packet *packet, struct savefile_extra *extra)
{
    const bool swapped = file->swapped;
    const struct savefile_interface *interface = file->interfaces;
    uint32_t caplen, wirelen;

    if (length < file->record_bytes)
        return length == 0 && last ? SAVEFILE_END : savefile_lacks(file, file->record_bytes, length, last);
    caplen = load32(at + 8, swapped);
    wirelen = load32(at + 12, swapped);
    if (file->lengths == LENGTHS_WIRE_FIRST || (file->lengths == LENGTHS_LARGER_IS_WIRE && caplen > wirelen)) {
        uint32_t first = caplen;
        caplen = wirelen;
        wirelen = first;
    }
    if (caplen > ZBUF_MAX_CAPLEN && caplen > savefile_longest_packet(interface->linktype))
        return savefile_damaged(file, "a packet of %u bytes, where %u is the most", caplen,
                                savefile_longest_packet(interface->linktype));
    if (length - file->record_bytes < caplen)
        return savefile_lacks(file, (size_t)file->record_bytes + caplen, length, last);
    if (caplen > interface->snaplen)
        file->over_snaplen = true;
    packet->time_ns = load32(at, swapped) * NS_PER_S + load32(at + 4, swapped) * interface->ticks.factor;
    packet->dropped = 0;
    packet->caplen = caplen <= ZBUF_MAX_CAPLEN ? caplen : ZBUF_MAX_CAPLEN + 1; /* so that the cut is counted */
    packet->wirelen = wirelen;
    packet->interface_id = interface->number;
    packet->direction = 0;
    packet->data = at + file->record_bytes;
    *extra = (struct savefile_extra){0};
    return savefile_used(file, file->record_bytes + caplen, SAVEFILE_PACKET);
}

/* ---- pcapng ---------------------------------------------------------------------------------------------------------- */

/* What a packet's block says beside its data: flags, losses, and the options themselves. */
static inline void pcapng_packet_options(struct zbuf_packet *packet, struct savefile_extra *extra, uint32_t kind,
                                         const uint8_t *options, const uint8_t *end, bool swapped)
{
    const uint8_t *option = options, *next;
    uint16_t code, length;

    extra->options = options;
    while ((next = next_option(option, end, swapped, &code, &length)) != NULL) {
        if (code == PACKET_FLAGS && length == 4) {
            extra->flags = load32(option + 4, swapped);
            packet->direction = extra->flags & 3u;
        } else if (code == PACKET_DROPCOUNT && length == 8 && kind == BLOCK_PACKET) {
            packet->dropped = load64(option + 4, swapped);
        }
        if ((size_t)(next - options) <= SAVEFILE_LONGEST_OPTIONS)
            extra->options_bytes = (uint32_t)(next - options);
        option = next;
    }
}

/* An Enhanced Packet Block, or the obsolete Packet Block, which has a count of losses beside a shorter interface. */
static inline int pcapng_packet(struct savefile *file, const uint8_t *at, uint32_t total, struct zbuf_packet *packet,
                                struct savefile_extra *extra)
{
    const bool swapped = file->swapped;
    const uint32_t kind = load32(at, swapped);
    const uint32_t number = kind == BLOCK_PACKET ? load32(at + 8, swapped) : load16(at + 8, swapped);
    const uint32_t caplen = load32(at + 20, swapped);
    const struct savefile_interface *interface;
    const uint8_t *options;

    if (number >= file->count)
        return savefile_damaged(file, "a packet of interface %u, where the section has %u", number, file->count);
    interface = &file->interfaces[number];
    if (caplen > total - 32)
        return savefile_damaged(file, "a packet of %u bytes in a block of %u", caplen, total);
    packet->time_ns = ticks_ns(&interface->ticks, (uint64_t)load32(at + 12, swapped) << 32 | load32(at + 16, swapped),
                               &file->saturated);
    packet->dropped = kind == BLOCK_OLD_PACKET ? load16(at + 10, swapped) : 0;
    if (packet->dropped == 0xffff) /* not known */
        packet->dropped = 0;
    packet->caplen = caplen <= ZBUF_MAX_CAPLEN ? caplen : ZBUF_MAX_CAPLEN + 1;
    packet->wirelen = load32(at + 24, swapped);
    packet->interface_id = interface->number;
    packet->direction = 0;
    packet->data = at + 28;
    *extra = (struct savefile_extra){0};
    options = at + 28 + padded(caplen);
    if (options < at + total - 4)
        pcapng_packet_options(packet, extra, kind, options, at + total - 4, swapped);
    return savefile_used(file, total, SAVEFILE_PACKET);
}

/* A Simple Packet Block: a packet of the section's first interface, without a time. */
static inline int pcapng_simple_packet(struct savefile *file, const uint8_t *at, uint32_t total,
                                       struct zbuf_packet *packet, struct savefile_extra *extra)
{
    const struct savefile_interface *interface = file->interfaces;
    uint32_t wirelen = load32(at + 8, file->swapped), caplen = wirelen;

    if (file->count == 0)
        return savefile_damaged(file, "a packet of interface 0, where the section has none");
    if (interface->snaplen && caplen > interface->snaplen)
        caplen = interface->snaplen;
    if (caplen > total - 16)
        return savefile_damaged(file, "a packet of %u bytes in a block of %u", caplen, total);
    *packet = (struct zbuf_packet){.wirelen = wirelen, .interface_id = interface->number, .data = at + 12};
    packet->caplen = caplen <= ZBUF_MAX_CAPLEN ? caplen : ZBUF_MAX_CAPLEN + 1;
    *extra = (struct savefile_extra){0};
    return savefile_used(file, total, SAVEFILE_PACKET);
}

static inline int pcapng_interface(struct savefile *file, const uint8_t *at, uint32_t total)
{
    const uint8_t *option = at + 16, *next, *end = at + total - 4;
    uint16_t code, length;
    uint8_t resolution = 6;
    int64_t offset_s = 0;
    struct savefile_interface *added =
        savefile_add_interface(file, load16(at + 8, file->swapped), load32(at + 12, file->swapped));

    if (added == NULL)
        return savefile_damaged(file, "more than %u interfaces", SAVEFILE_INTERFACES);
    while ((next = next_option(option, end, file->swapped, &code, &length)) != NULL) {
        if (code == INTERFACE_TSRESOL && length == 1)
            resolution = option[4];
        else if (code == INTERFACE_TSOFFSET && length == 8)
            offset_s = (int64_t)load64(option + 4, file->swapped);
        option = next;
    }
    added->ticks = ticks_of(resolution, offset_s);
    return savefile_block(file, at, total, SAVEFILE_INTERFACE);
}

/* A Section Header: from here on, interfaces are numbered anew. */
static inline int pcapng_section(struct savefile *file, const uint8_t *at, uint32_t total, bool swapped)
{
    uint16_t major = load16(at + 12, swapped), minor = load16(at + 14, swapped);

    if (major != 1)
        return savefile_damaged(file, "pcapng version %u.%u, where 1.0 is known", major, minor);
    file->swapped = swapped;
    file->count = 0;
    file->format = SAVEFILE_PCAPNG;
    return savefile_block(file, at, total, SAVEFILE_BLOCK);
}

/* The byte order of a section, which the magic number in its header tells; false if that is none. */
static inline bool pcapng_order(const uint8_t *at, bool *swapped)
{
    *swapped = load32(at + 8, true) == 0x1a2b3c4d;
    return *swapped || load32(at + 8, false) == 0x1a2b3c4d;
}

static inline int pcapng_next(struct savefile *file, const uint8_t *at, size_t length, bool last,
                              struct zbuf_packet *packet, struct savefile_extra *extra)
{
    bool swapped = file->swapped;
    uint32_t kind, total, whole, trailer;

    if (length < 12)
        return length == 0 && last ? SAVEFILE_END : savefile_lacks(file, 12, length, last);
    kind = load32(at, swapped);
    if (kind == BLOCK_SECTION && !pcapng_order(at, &swapped))
        return savefile_damaged(file, "a section header without a byte order");
    total = load32(at + 4, swapped);
    if (total < 12 || total < block_least(kind))
        return savefile_damaged(file, "a block of type %#x and %u bytes", kind, total);
    if (total > file->longest)
        return savefile_damaged(file, "a block of %u bytes, where %u are the most", total, file->longest);
    whole = padded(total); /* some programs leave the padding out of the length */
    if (length < whole)
        return savefile_lacks(file, whole, length, last);
    trailer = load32(at + whole - 4, swapped);
    if (trailer != total && trailer != whole)
        return savefile_damaged(file, "a block begins with a length of %u bytes, and ends with one of %u", total,
                                trailer);
    switch (kind) {
    case BLOCK_PACKET:
    case BLOCK_OLD_PACKET:
        return pcapng_packet(file, at, whole, packet, extra);
    case BLOCK_SIMPLE_PACKET:
        return pcapng_simple_packet(file, at, whole, packet, extra);
    case BLOCK_INTERFACE:
        return pcapng_interface(file, at, whole);
    case BLOCK_SECTION:
        return pcapng_section(file, at, whole, swapped);
    default:
        return savefile_block(file, at, whole, SAVEFILE_BLOCK);
    }
}

/* ---- the reader ------------------------------------------------------------------------------------------------------ */

/* Begin a file. */
static inline void savefile_begin(struct savefile *file)
{
    *file = (struct savefile){.longest = SAVEFILE_LONGEST_BLOCK, .fcs_bits = 0xff};
}

static inline int savefile_first(struct savefile *file, const uint8_t *at, size_t length, bool last)
{
    bool swapped;
    struct zbuf_packet packet;
    struct savefile_extra extra;

    if (length < 4)
        return savefile_lacks(file, 4, length, last);
    if (pcap_magic(at, &swapped) != NULL)
        return pcap_begin(file, at, length, last);
    if (load32(at, false) == BLOCK_SECTION) /* which is no packet */
        return pcapng_next(file, at, length, last, &packet, &extra);
    return savefile_damaged(file, "it begins with %02x %02x %02x %02x, as neither pcap nor pcapng does", at[0], at[1],
                            at[2], at[3]);
}

/* The next event.
 *
 * at, length   the window
 * last         whether the file ends with it
 *
 * Returns an enum savefile_event.  It has used up file->used bytes of the window.  The caller adds these to file->offset
 * when it no longer needs them. */
static inline int savefile_next(struct savefile *file, const uint8_t *at, size_t length, bool last,
                                struct zbuf_packet *packet, struct savefile_extra *extra)
{
    file->used = 0;
    switch (file->format) {
    case SAVEFILE_PCAP:
        return pcap_next(file, at, length, last, packet, extra);
    case SAVEFILE_PCAPNG:
        return pcapng_next(file, at, length, last, packet, extra);
    default:
        return savefile_first(file, at, length, last);
    }
}

/* Whether a packet is next, or too few bytes are there to tell: a batch ends before anything else. */
static inline bool savefile_goes_on(const struct savefile *file, const uint8_t *at, size_t length)
{
    uint32_t kind;
    if (file->format != SAVEFILE_PCAPNG || length < 4)
        return true;
    kind = load32(at, file->swapped);
    return kind == BLOCK_PACKET || kind == BLOCK_SIMPLE_PACKET || kind == BLOCK_OLD_PACKET;
}

#define SAVEFILE_AHEAD_BYTES 2048u
#define CACHE_LINE_BYTES 64u

/* Have the processor fetch the bytes that come next.  Only the header of a packet tells where the next packet begins:
 * without this, the processor waits for memory at each of them, several times as long as all the work on it takes. */
static inline size_t savefile_fetch(const uint8_t *at, size_t fetched, size_t done, size_t length)
{
    size_t until = length - done < SAVEFILE_AHEAD_BYTES ? length : done + SAVEFILE_AHEAD_BYTES;

    for (fetched = fetched < done ? done : fetched; fetched < until; fetched += CACHE_LINE_BYTES)
        __builtin_prefetch(at + fetched);
    return fetched;
}

/* The packets that come next in the window, up to `most`.
 *
 * Returns how many there are.  If there are none, *event is the event that comes instead.  *used bytes of the window are
 * used up by the packets; file->used by an event that is no packet, as savefile_next() says. */
static inline int savefile_batch(struct savefile *file, const uint8_t *at, size_t length, bool last,
                                 struct zbuf_packet *packets, struct savefile_extra *extras, int most, int *event,
                                 size_t *used)
{
    int count = 0;
    size_t done = 0, fetched = 0;

    do {
        if (file->far)
            fetched = savefile_fetch(at, fetched, done, length);
        *event = savefile_next(file, at + done, length - done, last, &packets[count], &extras[count]);
        if (*event != SAVEFILE_PACKET)
            break;
        done += file->used;
        file->offset += file->used;
        count++;
    } while (count < most && savefile_goes_on(file, at + done, length - done));
    *used = done;
    return count;
}

#endif /* ZBUF_SAVEFILE_H */
