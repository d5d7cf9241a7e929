/* A filter program, and how it is run on a packet.
 *
 * A VLAN tag that the card took off a frame is not in the frame when the kernel runs a capture filter on it: libpcap
 * puts it back later.  For this reason libpcap compiles a filter for a live interface otherwise than for a file, with
 * loads from addresses that no packet has (below, METADATA_BASE): "was there a tag", "which one".  A program
 * with such loads runs here as the kernel runs it: on the frame without that tag, with the loads answered.  So an
 * expression means the same to `zbufd capture` and to a reader.  Other programs run on the packet as it is.
 *
 * To take the tag out, the bytes in front of it are moved for the time of the run: 12 bytes of an Ethernet frame, there
 * and back.  It follows that the bytes of a packet with a tag_at belong to the pump's thread, and can be written.
 */
#ifndef ZBUF_PACKET_FILTER_H
#define ZBUF_PACKET_FILTER_H

#include <linux/if_packet.h>
#include <pcap/pcap.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "zbuf/shared/zbuf.h"

enum { VLAN_TAG_BYTES = 4, TAG_AT_MOST = 31, ETHERNET_TAG = 12, LOAD_CONSTANT = BPF_LD | BPF_IMM };

/* The kernel's own addresses, counted from METADATA_BASE: SKF_AD_OFF and SKF_AD_* in linux/filter.h, which can't be
 * included beside pcap/bpf.h, since both define the instructions. */
#define METADATA_BASE 0xfffff000u
enum { AD_PKTTYPE = 4, AD_VLAN_TAG = 44, AD_VLAN_TAG_PRESENT = 48 };

enum metadata { TAG_PRESENT, TAG_CONTROL, PACKET_TYPE, METADATA_KINDS };

struct metadata_load {
    uint32_t at; /* the instruction */
    enum metadata kind;
};

struct packet_filter {
    struct bpf_insn *program;     /* NULL accepts everything */
    const struct bpf_insn *entry; /* its first instruction that has an effect */
    struct metadata_load *loads;  /* from the entry on */
    uint32_t count;
    int as_kernel;                /* run it on a frame without the tag that the card took off */
};

static inline int is_metadata_load(const struct bpf_insn *one)
{
    return BPF_CLASS(one->code) == BPF_LD && BPF_MODE(one->code) == BPF_ABS && one->k >= METADATA_BASE;
}

/* Which kind of metadata an instruction loads; METADATA_KINDS for one that packets here do not have. */
static inline enum metadata metadata_kind(const struct bpf_insn *one)
{
    switch (one->k - METADATA_BASE) {
    case AD_VLAN_TAG_PRESENT:
        return TAG_PRESENT;
    case AD_VLAN_TAG:
        return TAG_CONTROL;
    case AD_PKTTYPE:
        return PACKET_TYPE;
    default:
        return METADATA_KINDS;
    }
}

/* Whether every load of metadata in a program is one that can be answered here. */
static inline int can_answer_loads(const struct bpf_insn *program, uint32_t instructions)
{
    for (uint32_t at = 0; at < instructions; at++)
        if (is_metadata_load(&program[at]) && metadata_kind(&program[at]) == METADATA_KINDS)
            return 0;
    return 1;
}

/* Whether a program begins with a load that the next one replaces: it says "as the kernel" and does nothing else. */
static inline int begins_with_mark(const struct bpf_insn *program, uint32_t instructions)
{
    return instructions > 1 && is_metadata_load(program) && BPF_CLASS(program[1].code) == BPF_LD;
}

/* Make a filter of a valid program, which it owns from now on; 0 where memory is short, and the program stays whose it
 * was.  The loads become loads of constants, which are written anew for each packet. */
static inline int packet_filter_set(struct packet_filter *filter, struct bpf_insn *program, uint32_t instructions)
{
    struct metadata_load *loads = (struct metadata_load *)malloc((instructions + 1) * sizeof *loads);
    uint32_t count = 0;
    if (loads == NULL)
        return 0;
    filter->as_kernel = instructions > 0 && is_metadata_load(program);
    filter->entry = program + begins_with_mark(program, instructions);
    for (uint32_t at = (uint32_t)(filter->entry - program); at < instructions; at++) {
        if (!is_metadata_load(&program[at]))
            continue;
        filter->as_kernel = 1;
        loads[count].kind = metadata_kind(&program[at]);
        loads[count++].at = at;
        program[at].code = LOAD_CONSTANT;
    }
    filter->program = program;
    filter->loads = loads;
    filter->count = count;
    return 1;
}

static inline void packet_filter_free(struct packet_filter *filter)
{
    free(filter->program);
    free(filter->loads);
    memset(filter, 0, sizeof *filter);
}

static inline void answer_loads(const struct packet_filter *filter, const struct zbuf_packet *packet)
{
    const uint8_t *tag = packet->data + packet->tag_at;
    const uint32_t answers[METADATA_KINDS + 1] = {
        [TAG_PRESENT] = packet->tag_at != 0,
        [TAG_CONTROL] = packet->tag_at ? (uint32_t)tag[2] << 8 | tag[3] : 0,
        [PACKET_TYPE] = packet->direction == ZBUF_OUTBOUND ? PACKET_OUTGOING : PACKET_HOST,
    };
    for (uint32_t at = 0; at < filter->count; at++)
        filter->program[filter->loads[at].at].k = answers[filter->loads[at].kind];
}

static inline uint32_t run_without_tag(const struct packet_filter *filter, const struct zbuf_packet *packet,
                                       uint32_t tag_at)
{
    uint8_t *frame = (uint8_t *)(uintptr_t)packet->data, saved[TAG_AT_MOST + VLAN_TAG_BYTES];
    uint32_t kept;
    memcpy(saved, frame, tag_at + VLAN_TAG_BYTES);
    memcpy(frame + VLAN_TAG_BYTES, saved, tag_at);
    kept = bpf_filter(filter->entry, frame + VLAN_TAG_BYTES, packet->wirelen - VLAN_TAG_BYTES,
                      packet->caplen - VLAN_TAG_BYTES);
    memcpy(frame, saved, tag_at + VLAN_TAG_BYTES);
    return kept && kept <= UINT32_MAX - VLAN_TAG_BYTES ? kept + VLAN_TAG_BYTES : kept;
}

/* How many bytes of a packet a filter wants; 0 where it refuses the packet. */
static inline uint32_t packet_filter_run(const struct packet_filter *filter, const struct zbuf_packet *packet)
{
    if (filter->program == NULL)
        return ZBUF_MAX_CAPLEN;
    if (filter->count)
        answer_loads(filter, packet);
    if (filter->as_kernel && packet->tag_at == ETHERNET_TAG)
        return run_without_tag(filter, packet, ETHERNET_TAG); /* a constant: the copies need no call */
    if (filter->as_kernel && packet->tag_at)
        return run_without_tag(filter, packet, packet->tag_at);
    return bpf_filter(filter->entry, packet->data, packet->wirelen, packet->caplen);
}

/* What an ordinary filter runs on a packet: a yardstick for others, so that no figure depends on the machine. */
#define LOAD_AND_COMPARE {BPF_LD | BPF_H | BPF_ABS, 0, 0, 12}, {BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0x800}
static const struct bpf_insn ordinary_program[] = {
    LOAD_AND_COMPARE, LOAD_AND_COMPARE, LOAD_AND_COMPARE, LOAD_AND_COMPARE,
    LOAD_AND_COMPARE, LOAD_AND_COMPARE, LOAD_AND_COMPARE, {BPF_RET | BPF_K, 0, 0, 0},
};

static inline uint32_t ordinary_filter_run(const struct zbuf_packet *packet)
{
    return bpf_filter(ordinary_program, packet->data, packet->wirelen, packet->caplen);
}

#endif
