/* A producer and a reader as two threads on one mapping, with nothing but zbuf.h between them:
 *
 *      handover HAND-OVERS LOOKS
 *
 * The reader looks LOOKS times for its next buffer and then sleeps, without a limit of time: a wake-up that is
 * lost is a program that does not end.  It checks that every packet arrives, whole, once and in order; so it does
 * with the blocks of a store that is not assigned yet, which it may read as far as store_len says.
 *
 * Built with -fsanitize=thread this is a proof, for what it runs through, of the edges assign, acknowledge,
 * store_len and state: any of their orders that is missing leaves two accesses without a happens-before, and
 * ThreadSanitizer reports them (tests/test_abi.py sees to it that it does).  It is none of the edge sleep:
 * ThreadSanitizer takes no account of atomic_thread_fence (gcc says so, -Wtsan), nor of a stale load.  Both ends
 * of that edge are atomic and order no other data, so there is nothing in it to be reported wrongly; that no
 * wake-up is lost, the plain build shows.
 */
#define _GNU_SOURCE
#include "zbuf.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BLOCKS_BYTES 256u /* of each buffer: small, so that there are many hand-overs */
#define CAPLEN_MAX 61u
#define BLOCK_BYTES_MAX 120u
#define LAYOUT_SNAPLEN 4711u
#define PEEK_EVERY 64u    /* the producer waits in the middle of every 64th filling until the reader has seen it */

static struct zbuf_segment *segment;
static struct zbuf_header *headers[2];
static struct zbuf_ack *ack;
static int doorbell[2];
static uint64_t handovers, looks_before_sleep;
static uint64_t fillings_peeked_at; /* relaxed, always: it must order nothing, or it would hide what is missing */
static uint64_t sleeps, bells, packets_read;

static void check(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "handover: %s\n", what);
    exit(1);
}

/* Between two looks: the other thread may be waiting for this processor. */
static void relax(uint64_t looks)
{
    if (looks % 32 == 31)
        sched_yield();
}

static uint8_t *blocks_of(struct zbuf_header *header)
{
    return (uint8_t *)(header + 1);
}

/* What the packet of this number is. */
static struct zbuf_packet packet_of(uint64_t number)
{
    struct zbuf_packet packet;

    memset(&packet, 0, sizeof packet);
    packet.time_ns = number;
    packet.caplen = (uint32_t)(number * 7 % (CAPLEN_MAX + 1));
    packet.wirelen = packet.caplen + (uint32_t)(number % 5);
    packet.interface_id = (uint32_t)(number % 4);
    packet.direction = (uint8_t)(number % 3);
    packet.dropped = number % 11 ? 0 : number + 1;
    return packet;
}

static uint8_t byte_of(uint64_t number, uint32_t at)
{
    return (uint8_t)(number * 31 + at);
}

/* ---- the producer ------------------------------------------------------------------------------------ */

static uint32_t append(uint8_t *at, uint64_t number)
{
    struct zbuf_packet packet = packet_of(number);
    uint8_t *data = zbuf_block_begin(at, &packet, NULL);
    uint32_t i;

    for (i = 0; i < packet.caplen; i++)
        data[i] = byte_of(number, i);
    return zbuf_block_bytes(&packet);
}

static void wait_for_peek(uint64_t filling)
{
    uint64_t looks;

    for (looks = 0; __atomic_load_n(&fillings_peeked_at, __ATOMIC_RELAXED) <= filling; looks++)
        relax(looks);
}

/* Fill a buffer from the packet `number` on; returns how many it took. */
static uint32_t fill(struct zbuf_header *header, uint32_t gen, uint64_t filling, uint64_t number)
{
    uint32_t length = 0, packets = 0;

    zbuf_store(header, gen, 0);
    while (length + BLOCK_BYTES_MAX <= BLOCKS_BYTES) {
        length += append(blocks_of(header) + length, number + packets);
        packets++;
        zbuf_store(header, gen, length);
        if (packets == 1 && filling % PEEK_EVERY == 0)
            wait_for_peek(filling);
    }
    header->kernel_len = length;
    header->packets = packets;
    header->sequence = filling;
    return packets;
}

static void wake(void)
{
    zbuf_fence_sleepers();
    if (zbuf_sleeper(ack)) {
        check(write(doorbell[1], "!", 1) == 1, "the doorbell is full");
        bells++;
    }
}

static void form(void)
{
    segment->snaplen = LAYOUT_SNAPLEN;
    segment->zbuf_bytes = BLOCKS_BYTES;
    zbuf_set_state(segment, ZBUF_OPEN);
}

static void *produce(void *unused)
{
    struct zbuf_ledger total = {0};
    uint32_t gen[2] = {0, 0};
    uint64_t filling, number = 0, looks;

    form();
    for (filling = 0; filling < handovers; filling++) {
        unsigned which = filling & 1;

        for (looks = 0; !zbuf_acknowledged(ack, which, gen[which]); looks++)
            relax(looks);
        gen[which]++;
        number += fill(headers[which], gen[which], filling, number);
        zbuf_assign(headers[which], gen[which]);
        wake();
    }
    segment->end_sequence = handovers;
    total.received = number;
    zbuf_write_ledger(segment, &total);
    zbuf_set_state(segment, ZBUF_FINISHED);
    close(doorbell[1]);
    return unused;
}

/* ---- the reader -------------------------------------------------------------------------------------- */

static void check_packet(const struct zbuf_packet *packet, uint64_t number)
{
    struct zbuf_packet want = packet_of(number);
    uint32_t at;

    check(packet->time_ns == want.time_ns, "a packet is missing, or out of its order");
    check(packet->caplen == want.caplen && packet->wirelen == want.wirelen, "lengths");
    check(packet->interface_id == want.interface_id, "interface");
    check(packet->direction == want.direction && packet->dropped == want.dropped, "options");
    for (at = 0; at < packet->caplen; at++)
        check(packet->data[at] == byte_of(number, at), "data");
}

/* Checks the packets from `number` on; returns how many there are. */
static uint32_t check_blocks(struct zbuf_header *header, uint32_t length, uint64_t number)
{
    struct zbuf_packet packet;
    uint32_t offset = 0, packets = 0;

    memset(&packet, 0, sizeof packet);
    check(length <= BLOCKS_BYTES, "length");
    while (offset < length) {
        offset = zbuf_next_packet(blocks_of(header), length, offset, &packet);
        check(offset != 0, "a block is damaged");
        check_packet(&packet, number + packets);
        packets++;
    }
    return packets;
}

/* The part of the next buffer that is stored already, as a reader may take it that outlives its producer. */
static void peek(struct zbuf_header *header, uint32_t next_gen, uint64_t filling)
{
    uint32_t length = zbuf_stored(header, next_gen);

    if (length) {
        check_blocks(header, length, packets_read);
        __atomic_store_n(&fillings_peeked_at, filling + 1, __ATOMIC_RELAXED);
    }
}

static int ended(struct zbuf_header *header, uint32_t user_gen)
{
    return zbuf_state(segment) >= ZBUF_FINISHED && zbuf_assigned(header) == user_gen;
}

static void sleep_for(struct zbuf_header *header, uint32_t user_gen)
{
    struct pollfd bell = {doorbell[0], POLLIN, 0};
    char rings[64];

    zbuf_sleep(ack);
    if (zbuf_assigned(header) == user_gen && !ended(header, user_gen)) {
        check(poll(&bell, 1, -1) == 1, "poll");
        while (read(doorbell[0], rings, sizeof rings) > 0)
            ;
        sleeps++;
    }
    zbuf_wake(ack);
}

/* Whether the next buffer came; if not, the stream has ended. */
static int await(struct zbuf_header *header, uint32_t user_gen, uint64_t filling)
{
    uint64_t looks;

    for (looks = 0;; looks++) {
        if (zbuf_assigned(header) != user_gen)
            return 1;
        peek(header, user_gen + 1, filling);
        if (ended(header, user_gen))
            return 0;
        if (looks < looks_before_sleep || filling % PEEK_EVERY == 0)
            relax(looks);
        else
            sleep_for(header, user_gen);
    }
}

static void *consume(void *unused)
{
    uint32_t user_gen[2] = {0, 0};
    uint64_t filling, looks;

    for (looks = 0; zbuf_state(segment) == ZBUF_FORMING; looks++)
        relax(looks);
    check(segment->snaplen == LAYOUT_SNAPLEN && segment->zbuf_bytes == BLOCKS_BYTES, "open, and not laid out");
    for (filling = 0; await(headers[filling & 1], user_gen[filling & 1], filling); filling++) {
        struct zbuf_header *header = headers[filling & 1];

        check(header->sequence == filling, "sequence");
        check(zbuf_assigned(header) == user_gen[filling & 1] + 1, "assigned before it was acknowledged");
        check(check_blocks(header, header->kernel_len, packets_read) == header->packets, "packets");
        packets_read += header->packets;
        zbuf_acknowledge(ack, filling & 1, ++user_gen[filling & 1]);
    }
    check(filling == handovers, "the stream ended too early");
    check(segment->ledger.received == packets_read, "the ledger of a closed segment");
    return unused;
}

/* ------------------------------------------------------------------------------------------------------ */

static uint8_t *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    check(memory != MAP_FAILED, "mmap");
    return (uint8_t *)memory;
}

static void set_up(void)
{
    uint8_t *memory = map(3 * ZBUF_PAGE_BYTES);

    segment = (struct zbuf_segment *)memory;
    headers[0] = (struct zbuf_header *)(memory + ZBUF_PAGE_BYTES);
    headers[1] = (struct zbuf_header *)(memory + 2 * ZBUF_PAGE_BYTES);
    ack = (struct zbuf_ack *)map(ZBUF_PAGE_BYTES);
    check(pipe2(doorbell, O_NONBLOCK | O_CLOEXEC) == 0, "pipe");
}

int main(int argc, char **argv)
{
    pthread_t producer, reader;

    check(argc == 3, "usage: handover HAND-OVERS LOOKS");
    handovers = strtoull(argv[1], NULL, 10);
    looks_before_sleep = strtoull(argv[2], NULL, 10);
    set_up();
    check(pthread_create(&reader, NULL, consume, NULL) == 0, "pthread_create");
    check(pthread_create(&producer, NULL, produce, NULL) == 0, "pthread_create");
    pthread_join(producer, NULL);
    pthread_join(reader, NULL);
    printf("packets %llu sleeps %llu bells %llu\n", (unsigned long long)packets_read, (unsigned long long)sleeps,
           (unsigned long long)bells);
    return 0;
}
