/* Which options of a packet go along with it: all except those that zbuf writes itself.
 *
 * zbuf writes epb_dropcount from zbuf_packet.dropped, and from zbuf_packet.direction an epb_flags that tells no more than
 * that.  Options here are little-endian, without opt_endofopt, and the reader of the file has checked their lengths.
 */
#ifndef ZBUF_CARRIED_H
#define ZBUF_CARRIED_H

#include <stdint.h>
#include <string.h>

#include "zbuf/shared/zbuf.h"

static inline int is_carried(const uint8_t *option)
{
    uint32_t head = zbuf_get32(option);
    if (head == ZBUF_EPB_FLAGS)
        return zbuf_get32(option + 4) > 3u;
    return head != ZBUF_EPB_DROPCOUNT;
}

/* The length of the options of a packet that go along with it, in words of four bytes. */
static inline uint32_t carried_options(const uint8_t *options, uint32_t options_bytes)
{
    const uint8_t *end = options + options_bytes;
    uint32_t bytes = 0;

    while (end - options >= 4) {
        uint32_t total = 4 + zbuf_pad(zbuf_get32(options) >> 16);
        if (total > (uint32_t)(end - options))
            break;
        if (is_carried(options))
            bytes += total;
        options += total;
    }
    return bytes / 4;
}

/* Write those options, carried_options() words of them. */
static inline void put_carried_options(uint8_t *to, const uint8_t *options, uint32_t options_bytes)
{
    const uint8_t *end = options + options_bytes;
    while (end - options >= 4) {
        uint32_t total = 4 + zbuf_pad(zbuf_get32(options) >> 16);
        if (total > (uint32_t)(end - options))
            return;
        if (is_carried(options)) {
            memcpy(to, options, total);
            to += total;
        }
        options += total;
    }
}

#endif
