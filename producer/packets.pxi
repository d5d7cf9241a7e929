# What the pump, its sources and its descriptors are to each other: batches of packets, passed by two calls.
# They live in modules of their own and meet through capsules, so that none of them is compiled into another.

cdef extern from *:
    """
    #include "zbuf.h"

    enum { SOURCE_ENDED = 0, SOURCE_FAILED = -1, SOURCE_WOKEN = -2 };

    /* Where packets come from. */
    struct packet_source {
        /* The next batch, valid until the next call; returns its packets, or one of the above.  A source that can
         * run dry waits here, and says SOURCE_WOKEN after wake() or a signal. */
        int (*next)(void *self, const struct zbuf_packet **batch);
        /* End a wait in next(), the one under way or the next one; from any thread.  NULL where it never waits. */
        void (*wake)(void *self);
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

    /* Who changes packets on every pass but the first, pass 0; the bytes are the caller's own copy. */
    struct packet_rewriter {
        void (*rewrite)(void *self, uint8_t *data, uint32_t caplen, uint64_t pass);
        void *self;
    };
    """
    enum:
        SOURCE_ENDED
        SOURCE_FAILED
        SOURCE_WOKEN

    ctypedef struct packet_source "struct packet_source":
        int (*next)(void *self, const zbuf_packet **batch) noexcept nogil
        void (*wake)(void *self) noexcept nogil
        void *self

    ctypedef struct packet_sink "struct packet_sink":
        uint32_t (*take)(void *self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil
        bint (*has_room)(void *self) noexcept nogil
        void *self

    ctypedef struct packet_rewriter "struct packet_rewriter":
        void (*rewrite)(void *self, uint8_t *data, uint32_t caplen, uint64_t number) noexcept nogil
        void *self
