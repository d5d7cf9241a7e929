/* The arithmetic of a schedule: exact, in integers as far as it goes. */
#ifndef ZBUF_PACE_H
#define ZBUF_PACE_H

#include <math.h>
#include <stdint.h>

#define NEVER_NS ((int64_t)1 << 61)     /* 73 years: the sum of two of them is a number yet */

/* count * numerator / denominator nanoseconds, rounded up: no packet is due too early. */
static inline int64_t scaled(uint64_t count, uint64_t numerator, uint64_t denominator)
{
    unsigned __int128 ns = (unsigned __int128)count * numerator + (denominator - 1);
    ns = (uint64_t)(ns >> 64) == 0 ? (uint64_t)ns / denominator : ns / denominator;
    return ns < (unsigned __int128)NEVER_NS ? (int64_t)ns : NEVER_NS;
}

/* Where a rate goes from `from` by `slope` per nanosecond: when so many packets have come. */
static inline int64_t ramped(uint64_t packets, long double from, long double slope)
{
    long double rate = from + sqrtl(fmaxl(0, from * from + 2 * slope * packets));
    return packets == 0 ? 0 : (int64_t)ceill(2 * packets / rate);
}

#endif
