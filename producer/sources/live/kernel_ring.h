/* What the kernel says of a packet in libpcap's ring: its direction, and whether the card took a VLAN tag off it.
 *
 * libpcap hands out a packet's time, lengths and bytes, and keeps the rest to itself.  On Linux these bytes lie in a
 * memory-mapped ring (packet(7), PACKET_RX_RING).  A struct tpacket3_hdr (tpacket2_hdr in immediate mode) and a struct
 * sockaddr_ll come before them, at a distance that the header tells.  This code guesses the distance, and then checks
 * the guess against the time and the length of the packet.  Where nothing fits, as on a device without such a ring,
 * direction and tag are not known.
 */
#ifndef ZBUF_KERNEL_RING_H
#define ZBUF_KERNEL_RING_H

#include <linux/if_packet.h>
#include <pcap/pcap.h>
#include <stdint.h>

#include "zbuf/shared/zbuf.h"

enum {
    RING_ALIGNMENT = 8,     /* of a header in the ring, at least */
    RING_LARGEST_GAP = 128, /* from a header to its packet, with libpcap's reserve for a VLAN tag */
    RING_VLAN_TAG = 4,      /* libpcap moves the first bytes of a packet forward to put its tag back in */
    SLL2_PACKET_TYPE = 10,  /* https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html */
};

/* How libpcap lays the packets of one interface out. */
struct ring_view {
    uint32_t unit_ns;       /* of the fraction in its timestamps */
    uint32_t cooked_bytes;  /* of the header that it makes up in front of a packet, which tp_mac does not count */
    uint32_t tag_at;        /* where it puts a VLAN tag back; 0 where it does not */
};

#define DEFINE_RING_LOOK(version, header_type)                                                           \
    static inline void version##_look(const struct ring_view *view, const struct pcap_pkthdr *captured,  \
                                      const uint8_t *data, struct zbuf_packet *packet)                   \
    {                                                                                                    \
        const uint32_t nearest = TPACKET_ALIGN(sizeof(struct header_type)) + sizeof(struct sockaddr_ll); \
        const uintptr_t end = (uintptr_t)data;                                                           \
        uintptr_t at = (end - nearest) & ~(uintptr_t)(RING_ALIGNMENT - 1);                               \
        for (; end - at <= RING_LARGEST_GAP; at -= RING_ALIGNMENT) {                                     \
            const struct header_type *header = (const struct header_type *)at;                           \
            const struct sockaddr_ll *address =                                                          \
                (const struct sockaddr_ll *)(at + TPACKET_ALIGN(sizeof(struct header_type)));            \
            const uint32_t moved = header->tp_mac - (uint32_t)(end - at) - view->cooked_bytes;           \
            if (moved != 0 && moved != RING_VLAN_TAG)                                                    \
                continue;                                                                                \
            if (header->tp_nsec / view->unit_ns != (uint32_t)captured->ts.tv_usec ||                     \
                header->tp_sec != (uint32_t)captured->ts.tv_sec ||                                       \
                header->tp_snaplen + view->cooked_bytes + moved < captured->caplen)                      \
                continue;                                                                                \
            packet->direction = address->sll_pkttype == PACKET_OUTGOING ? ZBUF_OUTBOUND : ZBUF_INBOUND;  \
            if (moved && captured->caplen >= view->tag_at + RING_VLAN_TAG)                               \
                packet->tag_at = view->tag_at;                                                           \
            return;                                                                                      \
        }                                                                                                \
    }

DEFINE_RING_LOOK(tpacket3, tpacket3_hdr)
DEFINE_RING_LOOK(tpacket2, tpacket2_hdr)

/* LINKTYPE_LINUX_SLL2 tells the direction itself, and libpcap puts no tag back into it. */
static inline void sll2_look(const struct ring_view *view, const struct pcap_pkthdr *captured, const uint8_t *data,
                             struct zbuf_packet *packet)
{
    (void)view;
    if (captured->caplen > SLL2_PACKET_TYPE)
        packet->direction = data[SLL2_PACKET_TYPE] == PACKET_OUTGOING ? ZBUF_OUTBOUND : ZBUF_INBOUND;
}

#endif
