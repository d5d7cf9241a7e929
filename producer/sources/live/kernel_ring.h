/* Which way a packet went, read off the kernel's own header of it in libpcap's ring.
 *
 * libpcap hands out a packet's time, lengths and bytes, and keeps to itself what the kernel says of its direction.  On
 * Linux these bytes lie in a memory-mapped ring (packet(7), PACKET_RX_RING), and before them, at a distance that the
 * header itself tells, a struct tpacket3_hdr (tpacket2_hdr in immediate mode) and a struct sockaddr_ll.  That distance
 * is guessed and then checked against the packet's time and length, to the nanosecond: where it does not fit, as on a
 * device without such a ring, the direction is not known.
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
};

#define DEFINE_RING_DIRECTION(version, header_type)                                                                 \
    static inline uint32_t version##_direction(const struct pcap_pkthdr *packet, const uint8_t *data)               \
    {                                                                                                               \
        const uint32_t nearest = TPACKET_ALIGN(sizeof(struct header_type)) + sizeof(struct sockaddr_ll);            \
        const uintptr_t end = (uintptr_t)data;                                                                      \
        uintptr_t at = (end - nearest) & ~(uintptr_t)(RING_ALIGNMENT - 1);                                          \
        for (; end - at <= RING_LARGEST_GAP; at -= RING_ALIGNMENT) {                                                \
            const struct header_type *header = (const struct header_type *)at;                                      \
            const struct sockaddr_ll *address =                                                                     \
                (const struct sockaddr_ll *)(at + TPACKET_ALIGN(sizeof(struct header_type)));                       \
            if (header->tp_mac != end - at && header->tp_mac != end - at + RING_VLAN_TAG)                           \
                continue;                                                                                           \
            if (header->tp_nsec != (uint32_t)packet->ts.tv_usec || header->tp_sec != (uint32_t)packet->ts.tv_sec || \
                header->tp_snaplen + RING_VLAN_TAG < packet->caplen)                                                \
                continue;                                                                                           \
            return address->sll_pkttype == PACKET_OUTGOING ? ZBUF_OUTBOUND : ZBUF_INBOUND;                          \
        }                                                                                                           \
        return 0;                                                                                                   \
    }

DEFINE_RING_DIRECTION(tpacket3, tpacket3_hdr)
DEFINE_RING_DIRECTION(tpacket2, tpacket2_hdr)

/* SLL_LINKTYPE: the first field of a "cooked" header, https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html */
static inline uint32_t cooked_direction(const struct pcap_pkthdr *packet, const uint8_t *data)
{
    return packet->caplen < 2 ? 0 : data[0] == 0 && data[1] == PACKET_OUTGOING ? ZBUF_OUTBOUND : ZBUF_INBOUND;
}

#endif
