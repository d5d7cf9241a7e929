/* The class of a packet's size: that of RMON's etherStats (RFC 2819), and one of larger ones. */
#ifndef ZBUF_SIZES_H
#define ZBUF_SIZES_H

#include <stdint.h>

static inline int size_class(uint32_t wirelen)
{
    return wirelen <= 64 ? 0 : wirelen > 1518 ? 6 : 32 - __builtin_clz(wirelen) - 6;
}

#endif
