/* Writes packets of many sizes, with every choice of options, reads them back, and leaves the blocks on its
 * standard output.  tests/test_abi.py makes the same packets and compares them with what other programs read.
 *
 * It ends with 1 and says why at the first difference.
 */
#include "zbuf.h"

#include <stdio.h>
#include <stdlib.h>

#define UNTOUCHED 0xa5
#define MARGIN 64u
#define OPTION_CHOICES 8u

static const uint32_t odd_sizes[] = {127, 128, 129, 1499, 1500, 1501, 1514, 9001, 65535, 65536, 262143, 262144};
#define ODD_SIZES (sizeof odd_sizes / sizeof odd_sizes[0])
#define SMALL_SIZES 71u
#define PACKETS ((SMALL_SIZES + ODD_SIZES) * OPTION_CHOICES)

static void check(int holds, const char *what, uint32_t number)
{
    if (holds)
        return;
    fprintf(stderr, "packet %u: %s\n", number, what);
    exit(1);
}

static uint8_t byte_of(uint32_t number, uint32_t at)
{
    return (uint8_t)(number * 31 + at);
}

static struct zbuf_packet packet_of(uint32_t number)
{
    static const uint64_t dropped[OPTION_CHOICES] = {0, 0, 1, UINT64_C(0x100000002), 7, UINT64_MAX, 0, 3};
    static const uint16_t direction[OPTION_CHOICES] = {ZBUF_UNKNOWN, ZBUF_INBOUND, ZBUF_UNKNOWN, ZBUF_OUTBOUND,
                                                       ZBUF_INBOUND, ZBUF_UNKNOWN, ZBUF_INBOUND, ZBUF_OUTBOUND};
    static const uint16_t options_words[OPTION_CHOICES] = {0, 0, 0, 0, 0, 0, 3, 5};
    uint32_t size = number / OPTION_CHOICES;
    struct zbuf_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.time_ns = UINT64_C(1700000000123456789) + number * UINT64_C(1000000007);
    packet.dropped = dropped[number % OPTION_CHOICES];
    packet.direction = direction[number % OPTION_CHOICES];
    packet.options_words = options_words[number % OPTION_CHOICES];
    packet.caplen = size < SMALL_SIZES ? size : odd_sizes[size - SMALL_SIZES];
    packet.wirelen = packet.caplen + number % 3;
    packet.interface_id = number % 2;
    return packet;
}

/* Give a packet room for its data, and the options behind it: all flags, where there is room for them, and a comment. */
static uint8_t *with_options(struct zbuf_packet *packet)
{
    uint32_t padded = zbuf_pad(packet->caplen);
    uint8_t *source = (uint8_t *)calloc(1, padded + 4u * packet->options_words + 1), *at = source + padded;

    packet->data = source;
    if (packet->options_words == 5)
        at = zbuf_put32(zbuf_put32(at, ZBUF_EPB_FLAGS), 0x01000000u | packet->direction);
    if (packet->options_words)
        memcpy(zbuf_put32(at, 6u << 16 | 1u), "remark", 6); /* opt_comment */
    return source;
}

static void check_read(const uint8_t *block, uint32_t length, uint32_t number)
{
    struct zbuf_packet want = packet_of(number), got;
    uint32_t at;

    memset(&got, UNTOUCHED, sizeof got);
    check(zbuf_next_packet(block, length, 0, &got) == length, "not read to its end", number);
    check(got.time_ns == want.time_ns, "time", number);
    check(got.dropped == want.dropped, "dropped", number);
    check(got.direction == want.direction, "direction", number);
    check(got.caplen == want.caplen, "caplen", number);
    check(got.wirelen == want.wirelen, "wirelen", number);
    check(got.interface_id == want.interface_id, "interface_id", number);
    for (at = 0; at < got.caplen; at++)
        check(got.data[at] == byte_of(number, at), "data", number);
}

/* What pcapng wants besides: zeros for padding, and the length again at the block's end. */
static void check_block(const uint8_t *block, uint32_t length, uint32_t caplen, uint32_t number)
{
    uint32_t at;

    check(length % 4 == 0, "length", number);
    check(zbuf_get32(block + length - 4) == length, "length at the end", number);
    for (at = ZBUF_EPB_DATA + caplen; at < ZBUF_EPB_DATA + zbuf_pad(caplen); at++)
        check(block[at] == 0, "padding", number);
    for (at = 0; at < MARGIN; at++)
        check(block[length + at] == UNTOUCHED, "written past its end", number);
}

static void round_trip(uint32_t number)
{
    struct zbuf_packet packet = packet_of(number);
    uint32_t length, at;
    uint8_t *memory, *block, *data, *source = with_options(&packet);

    if (packet.options_words && zbuf_has_flags(&packet))
        packet.direction = ZBUF_UNKNOWN; /* as the producer does: the options tell it */
    length = zbuf_block_bytes(&packet);
    memory = (uint8_t *)malloc(MARGIN + length + MARGIN);
    block = memory + MARGIN;
    memset(memory, UNTOUCHED, MARGIN + length + MARGIN);
    data = zbuf_block_begin(block, &packet, zbuf_options(&packet));
    for (at = 0; at < packet.caplen; at++)
        data[at] = byte_of(number, at);
    for (at = 0; at < MARGIN; at++)
        check(memory[at] == UNTOUCHED, "written before its beginning", number);
    check_block(block, length, packet.caplen, number);
    check_read(block, length, number);
    check(fwrite(block, 1, length, stdout) == length, "standard output", number);
    free(memory);
    free(source);
}

int main(void)
{
    uint32_t number;

    for (number = 0; number < PACKETS; number++)
        round_trip(number);
    return fflush(stdout) ? 1 : 0;
}
