/* zbuf_next_packet() over bytes that no honest producer writes: hostile SEED ROUNDS.
 *
 * Every buffer ends where its allocation does, so that AddressSanitizer sees the first byte read past it.  All
 * of a packet's data is touched, and what it says is compared with a second parser, which is here and written
 * for nothing but to be evidently right.  The same seed makes the same bytes.  Ends with 1 where a promise is
 * broken; prints how many packets were read and how many were not.
 */
#include "zbuf.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t random_state;
static uint64_t read_well, refused;
static int found; /* a packet, by the last look for one */
static volatile uint8_t touched;

static uint32_t random32(void) /* splitmix64 */
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(z >> 32);
}

static void promise(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "broken promise: %s\n", what);
    exit(1);
}

static void check_packet(const uint8_t *blocks, uint32_t length, uint32_t offset, uint32_t next,
                         const struct zbuf_packet *packet)
{
    uint32_t at;

    promise(next > offset && next <= length, "the next block begins behind this one, and inside the buffer");
    promise(packet->data >= blocks + offset + ZBUF_EPB_DATA, "the data is in its place");
    promise(packet->data + zbuf_pad(packet->caplen) + 4u * packet->options_words + 4 == blocks + next ||
                (packet->options_words == UINT16_MAX &&
                 packet->data + zbuf_pad(packet->caplen) + 4u * UINT16_MAX + 4 < blocks + next),
            "the data and the options fill their block, or are as long as can be told");
    for (at = 0; at < zbuf_pad(packet->caplen) + 4u * packet->options_words; at++)
        touched ^= packet->data[at];
}

static uint64_t number_at(const uint8_t *bytes, uint64_t at, size_t width)
{
    uint64_t number = 0;

    memcpy(&number, bytes + at, width);
    return number;
}

static uint64_t round_up(uint64_t length)
{
    return (length + 3) / 4 * 4;
}

static void parse_options(const uint8_t *bytes, uint64_t at, uint64_t end, struct zbuf_packet *packet)
{
    while (at + 8 <= end) {
        uint64_t code = number_at(bytes, at, 2), length = number_at(bytes, at + 2, 2), value = at + 4;

        if (code == 0 || value + round_up(length) > end)
            return;
        if (code == 2 && length == 4)
            packet->direction = (uint8_t)(number_at(bytes, value, 4) % 4);
        if (code == 4 && length == 8)
            packet->dropped = number_at(bytes, value, 8);
        at = value + round_up(length);
    }
}

static int is_whole_block(const uint8_t *bytes, uint64_t length, uint64_t at)
{
    uint64_t total;

    if (at + 12 > length)
        return 0;
    total = number_at(bytes, at + 4, 4);
    return total >= 12 && total % 4 == 0 && at + total <= length && number_at(bytes, at + total - 4, 4) == total;
}

/* zbuf_next_packet() once more, in numbers that can't wrap. */
static uint64_t parse(const uint8_t *bytes, uint64_t length, uint64_t at, struct zbuf_packet *packet)
{
    uint64_t total, caplen, options;

    memset(packet, 0, sizeof *packet);
    while (is_whole_block(bytes, length, at) && number_at(bytes, at, 4) != 6) {
        at += number_at(bytes, at + 4, 4);
        if (at == length)
            return length;
    }
    if (!is_whole_block(bytes, length, at) || number_at(bytes, at + 4, 4) < 32)
        return 0;
    total = number_at(bytes, at + 4, 4);
    caplen = number_at(bytes, at + 20, 4);
    options = at + 28 + round_up(caplen);
    if (caplen > 262144 || options + 4 > at + total)
        return 0;
    packet->data = bytes + at + 28;
    packet->options_words =
        (uint16_t)((at + total - 4 - options) / 4 < UINT16_MAX ? (at + total - 4 - options) / 4 : UINT16_MAX);
    packet->interface_id = (uint32_t)number_at(bytes, at + 8, 4);
    packet->time_ns = number_at(bytes, at + 12, 4) * 4294967296 + number_at(bytes, at + 16, 4);
    packet->caplen = (uint32_t)caplen;
    packet->wirelen = (uint32_t)number_at(bytes, at + 24, 4);
    parse_options(bytes, options, at + total - 4, packet);
    return at + total;
}

static int same(const struct zbuf_packet *one, const struct zbuf_packet *other)
{
    if (one->data == NULL || other->data == NULL)
        return one->data == other->data;
    return one->data == other->data && one->options_words == other->options_words &&
           one->interface_id == other->interface_id && one->time_ns == other->time_ns && one->caplen == other->caplen &&
           one->wirelen == other->wirelen && one->direction == other->direction && one->dropped == other->dropped;
}

static uint32_t try_at(const uint8_t *blocks, uint32_t length, uint32_t offset)
{
    struct zbuf_packet packet, parsed;
    uint32_t next = zbuf_next_packet(blocks, length, offset, &packet);

    promise(next == parse(blocks, length, offset, &parsed), "both parsers find the same next block");
    found = next && packet.data != NULL;
    if (next)
        promise(same(&packet, &parsed), "both parsers read the same packet");
    if (found)
        check_packet(blocks, length, offset, next, &packet);
    read_well += found;
    refused += next == 0;
    return next;
}

/* Whole packets from the beginning on. */
static uint32_t walk(const uint8_t *blocks, uint32_t length)
{
    uint32_t offset = 0, packets = 0;

    while (offset < length && (offset = try_at(blocks, length, offset)) != 0)
        packets += found;
    return packets;
}

/* A copy that ends where its allocation does. */
static uint8_t *exactly(const uint8_t *bytes, uint32_t length)
{
    uint8_t *copy = (uint8_t *)malloc(length);

    if (length)
        memcpy(copy, bytes, length);
    return copy;
}

static void try_everywhere(const uint8_t *bytes, uint32_t length)
{
    uint8_t *copy = exactly(bytes, length);
    uint32_t offset;

    walk(copy, length);
    for (offset = 0; offset <= length + 8; offset += 4)
        try_at(copy, length, offset);
    free(copy);
}

static uint32_t append(uint8_t *at, uint32_t caplen, uint16_t direction, uint64_t dropped)
{
    struct zbuf_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.time_ns = random32();
    packet.caplen = caplen;
    packet.wirelen = caplen;
    packet.direction = direction;
    packet.dropped = dropped;
    memset(zbuf_block_begin(at, &packet, NULL), 0x5a, caplen);
    return zbuf_block_bytes(&packet);
}

/* A block of another type, which a reader passes over. */
static uint32_t append_other(uint8_t *at)
{
    static const uint32_t types[] = {ZBUF_IDB_TYPE, 4, 10, 0x0bad, 0x80000001};
    uint32_t length = ZBUF_BLOCK_BYTES + 4 * (random32() % 8);

    memset(at, 0x33, length);
    zbuf_put32(at, types[random32() % (sizeof types / sizeof types[0])]);
    zbuf_put32(at + 4, length);
    zbuf_put32(at + length - 4, length);
    return length;
}

/* One to four packets, each behind as many other blocks; ends[] tells where each packet ends.  Returns how many. */
static uint32_t valid_blocks(uint8_t *at, uint32_t *ends)
{
    uint32_t packets = 1 + random32() % 4, i, length = 0;

    for (i = 0; i < packets; i++) {
        while (random32() % 4 == 0 && length < 900)
            length += append_other(at + length);
        length += append(at + length, random32() % 40, random32() % 3, random32() % 2 ? random32() : 0);
        ends[i] = length;
    }
    return packets;
}

/* A number that checks of lengths get wrong, if any does. */
static uint32_t nasty(uint32_t length)
{
    static const uint32_t values[] = {
        0,          1,          2,          3,          4,          5,          6,          8,
        12,         28,         31,         32,         33,         36,         40,         44,
        65535,      65536,      262143,     262144,     262145,     0x7fffffff, 0x80000000, 0xffffff00,
        0xffffffe0, 0xfffffffb, 0xfffffffc, 0xfffffffd, 0xffffffff, 0x00040002, 0x00080004, 0x00000004,
        0x00000002, 0xfffc0001, 0xffff0001, 0xfffd0001, 0x00010001, 0x00050002};
    uint32_t pick = random32() % (sizeof values / sizeof values[0] + 6);

    if (pick >= sizeof values / sizeof values[0])
        return length - 16 + 4 * (random32() % 8) + (random32() % 4 == 0);
    return values[pick];
}

static void mutate(uint8_t *bytes, uint32_t length)
{
    uint32_t changes = 1 + random32() % 4;

    while (changes--) {
        uint32_t value = random32() % 3 ? nasty(length) : random32();

        memcpy(bytes + 4 * (random32() % (length / 4)), &value, sizeof value);
    }
}

/* The second copy of the first block's length, where that now says it is. */
static void repeat_length(uint8_t *bytes, uint32_t length)
{
    uint32_t total;

    memcpy(&total, bytes + 4, sizeof total);
    if (total >= 8 && total <= length)
        memcpy(bytes + total - 4, &total, sizeof total);
}

static void mutated_blocks(void)
{
    uint8_t bytes[2048];
    uint32_t ends[4], length = ends[valid_blocks(bytes, ends) - 1];

    mutate(bytes, length);
    if (random32() % 2)
        repeat_length(bytes, length);
    try_everywhere(bytes, length);
}

static void random_words(void)
{
    uint8_t bytes[256];
    uint32_t length = 4 * (random32() % 64), at, word;

    for (at = 0; at < length; at += 4) {
        word = random32() % 4 ? nasty(length) : random32();
        memcpy(bytes + at, &word, sizeof word);
    }
    try_everywhere(bytes, length);
}

/* A block that is right but for its options. */
static void wild_options(void)
{
    static const uint32_t words[] = {ZBUF_EPB_FLAGS, ZBUF_EPB_DROPCOUNT, 0,          5,          0x00010002,
                                     0x00030004,     0x00040004,         0x00080002, 0x00040005, 0x00050005,
                                     0xffff0005,     0xfffc0005,         0x00080000};
    uint8_t bytes[128];
    uint32_t length = append(bytes, random32() % 9, 0, 0) - 4, room = random32() % 9;

    while (room--) {
        zbuf_put32(bytes + length, random32() % 8 ? words[random32() % (sizeof words / sizeof words[0])] : random32());
        length += 4;
    }
    length += 4;
    zbuf_put32(bytes + length - 4, length);
    zbuf_put32(bytes + 4, length);
    try_everywhere(bytes, length);
}

/* Valid blocks, cut at every byte: those that are whole are read, the one that is cut is not. */
static void every_truncation(void)
{
    uint8_t bytes[2048], *cut;
    uint32_t ends[4], blocks = valid_blocks(bytes, ends), length, whole = 0;

    for (length = 0; length <= ends[blocks - 1]; length++) {
        cut = exactly(bytes, length);
        whole += length == ends[whole];
        promise(walk(cut, length) == whole, "all whole blocks of a buffer that is cut are read, and no others");
        free(cut);
    }
}

/* A packet's block that ends before its own fixed fields do, and the buffer with it. */
static void shortest_blocks(void)
{
    uint8_t bytes[ZBUF_EPB_BYTES], *copy;
    uint32_t length;

    for (length = ZBUF_BLOCK_BYTES; length < ZBUF_EPB_BYTES; length += 4) {
        memset(bytes, 0, sizeof bytes);
        zbuf_put32(bytes, ZBUF_EPB_TYPE);
        zbuf_put32(bytes + 4, length);
        zbuf_put32(bytes + length - 4, length);
        copy = exactly(bytes, length);
        promise(walk(copy, length) == 0, "a block without room for a packet's fields is not read");
        free(copy);
    }
}

/* The limit of a packet's length, which small buffers don't come to. */
static void longest_packet(void)
{
    uint32_t length = ZBUF_EPB_BYTES + ZBUF_MAX_CAPLEN + 4, caplen = ZBUF_MAX_CAPLEN + 1;
    uint8_t *bytes = (uint8_t *)calloc(1, length);

    append(bytes, ZBUF_MAX_CAPLEN, 0, 0);
    promise(walk(bytes, length - 4) == 1, "a packet of ZBUF_MAX_CAPLEN bytes is read");
    zbuf_put32(bytes + 4, length);
    zbuf_put32(bytes + 20, caplen);
    promise(walk(bytes, length) == 0, "a packet of one byte more is not");
    free(bytes);
}

int main(int argc, char **argv)
{
    uint32_t rounds = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;

    random_state = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
    longest_packet();
    shortest_blocks();
    while (rounds--) {
        mutated_blocks();
        random_words();
        wild_options();
        every_truncation();
    }
    printf("%llu read, %llu refused\n", (unsigned long long)read_well, (unsigned long long)refused);
    return 0;
}
