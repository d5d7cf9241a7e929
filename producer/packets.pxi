# What the pump, its sources and its descriptors are to each other: batches of packets, passed by two calls.
# They live in modules of their own and meet through capsules, so that none of them is compiled into another.

cdef extern from *:
    """
    #include "zbuf.h"

    /* Where packets come from. */
    struct packet_source {
        /* The next batch, valid until the next call; returns its packets, 0 at the end, -1 on an error. */
        int (*next)(void *self, const struct zbuf_packet **batch);
        void *self;
    };

    /* Who takes them. */
    struct packet_sink {
        /* Take up to `count` packets; returns how many were taken.  It is all of them, unless `lossless`,
         * which stops before a packet that no buffer has room for. */
        uint32_t (*take)(void *self, const struct zbuf_packet *packets, uint32_t count, int lossless);
        /* Whether a reader has given back a buffer since. */
        int (*has_room)(void *self);
        void *self;
    };
    """
    ctypedef struct packet_source "struct packet_source":
        int (*next)(void *self, const zbuf_packet **batch) noexcept nogil
        void *self

    ctypedef struct packet_sink "struct packet_sink":
        uint32_t (*take)(void *self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil
        bint (*has_room)(void *self) noexcept nogil
        void *self
