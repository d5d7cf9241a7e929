/* What zbuf_next_packet() of shared/zbuf.h guarantees, and the functions that it calls, for all bytes and all lengths.
 *
 * Each contract says what may be read: a load of anything else would be an unproved goal.  zbuf_get32() promises nothing
 * about the value that it returns, so that two loads of the same bytes may differ: somebody may change them meanwhile.
 * Its own body, one atomic load of four bytes, is taken on trust.
 */
#include <stdint.h>

#define __atomic_load_n(at, order) (*(at))
#define __atomic_store_n(at, value, order) (*(at) = (value))
#define __atomic_thread_fence(order) ((void)0)

#include "zbuf.h"

/*@ requires \valid_read(at + (0 .. 3));
    assigns \nothing; */
static inline uint32_t zbuf_get32(const uint8_t *at);

/*@ assigns \nothing;
    ensures length_bytes <= 0xfffffffc ==> length_bytes <= \result < length_bytes + 4 && \result % 4 == 0; */
static inline uint32_t zbuf_pad(uint32_t length_bytes);

/*@ requires length_bytes % 4 == 0 && offset % 4 == 0 && offset <= length_bytes;
    requires \valid_read(blocks + (0 .. length_bytes - 1));
    requires \valid(type) && \separated(type, blocks + (0 .. length_bytes - 1));
    assigns *type;
    ensures \result == 0 || (offset + ZBUF_BLOCK_BYTES <= \result <= length_bytes && \result % 4 == 0); */
static inline uint32_t zbuf_next_block(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset, uint32_t *type);

/*@ requires \valid_read(options + (0 .. length_bytes - 1));
    requires \valid(packet) && \separated(packet, options + (0 .. length_bytes - 1));
    assigns packet->direction, packet->dropped; */
static inline void zbuf_get_options(const uint8_t *options, uint32_t length_bytes, struct zbuf_packet *packet);

/*@ requires offset % 4 == 0 && following % 4 == 0 && offset + ZBUF_BLOCK_BYTES <= following;
    requires \valid_read(blocks + (0 .. following - 1));
    requires \valid(packet) && \separated(packet, blocks + (0 .. following - 1));
    assigns *packet;
    ensures \result == 0 || \result == following;
    ensures \result != 0 ==> packet->caplen <= ZBUF_MAX_CAPLEN
        && packet->data == blocks + (offset + ZBUF_EPB_DATA)
        && offset + ZBUF_EPB_DATA + packet->caplen <= following - 4;
    ensures \result != 0 ==> \valid_read(packet->data + (0 .. packet->caplen - 1)); */
static inline uint32_t zbuf_get_packet(const uint8_t *blocks, uint32_t offset, uint32_t following,
                                       struct zbuf_packet *packet);

/*@ requires length_bytes % 4 == 0 && offset % 4 == 0 && offset <= length_bytes;
    requires \valid_read(blocks + (0 .. length_bytes - 1));
    requires \valid(packet) && \separated(packet, blocks + (0 .. length_bytes - 1));
    assigns *packet;
    ensures \result == 0 || (offset <= \result <= length_bytes && \result % 4 == 0);
    ensures \result != 0 && packet->data != \null ==> packet->caplen <= ZBUF_MAX_CAPLEN
        && \valid_read(packet->data + (0 .. packet->caplen - 1)); */
static inline uint32_t zbuf_next_packet(const uint8_t *blocks, uint32_t length_bytes, uint32_t offset,
                                        struct zbuf_packet *packet);
