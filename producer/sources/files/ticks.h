/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The time of a packet in nanoseconds since 1970, from the ticks that a capture file counts.
 *
 * pcapng counts ticks of 10^-n or 2^-n seconds, with n up to 127, from a moment that is if_tsoffset seconds after 1970, or
 * before it (draft-ietf-opsawg-pcapng, section 4.2).  The result has 64 bits, which end in the year 2554.  An earlier time
 * becomes 0 and a later one the last that there is, and both are counted: no time wraps.
 */
#ifndef ZBUF_TICKS_H
#define ZBUF_TICKS_H

#include <stdbool.h>
#include <stdint.h>

#define NS_PER_S UINT64_C(1000000000)
#define TICKS_BINARY 0x80u /* a bit of if_tsresol: ticks are a power of 2, not of 10 */

struct ticks {
    int64_t offset_s;   /* if_tsoffset */
    bool simple;        /* whether a time is ticks * factor + base_ns, up to `most` ticks */
    uint64_t factor;    /* nanoseconds in a tick */
    uint64_t base_ns;   /* the time of tick 0 */
    uint64_t most;
    uint8_t resolution; /* if_tsresol */
};

static inline struct ticks ticks_of(uint8_t resolution, int64_t offset_s)
{
    struct ticks ticks = {.offset_s = offset_s, .factor = 1, .resolution = resolution};
    ticks.simple = resolution <= 9 && offset_s >= 0 && (uint64_t)offset_s <= UINT64_MAX / NS_PER_S;
    if (!ticks.simple)
        return ticks;
    for (unsigned at = resolution; at < 9; at++)
        ticks.factor *= 10;
    ticks.base_ns = (uint64_t)offset_s * NS_PER_S;
    ticks.most = (UINT64_MAX - ticks.base_ns) / ticks.factor;
    return ticks;
}

/* The general case: no product has more than 94 bits. */
static inline uint64_t ticks_far(const struct ticks *ticks, uint64_t count, uint64_t *saturated)
{
    unsigned __int128 ns = (unsigned __int128)count * NS_PER_S;
    unsigned power = ticks->resolution & ~TICKS_BINARY;
    __int128 time;

    if (ticks->resolution & TICKS_BINARY)
        ns >>= power;
    else
        for (; power && ns; power--)
            ns /= 10;
    time = (__int128)ns + (__int128)ticks->offset_s * (__int128)NS_PER_S;
    if (time >= 0 && time <= (__int128)UINT64_MAX)
        return (uint64_t)time;
    ++*saturated;
    return time < 0 ? 0 : UINT64_MAX;
}

/* The time of a tick; *saturated is incremented if 64 bits can't hold it. */
static inline uint64_t ticks_ns(const struct ticks *ticks, uint64_t count, uint64_t *saturated)
{
    if (ticks->simple && count <= ticks->most)
        return count * ticks->factor + ticks->base_ns;
    return ticks_far(ticks, count, saturated);
}

#endif /* ZBUF_TICKS_H */
