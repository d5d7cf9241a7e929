/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A consumer in C that needs zbuf.h, and nothing else of zbuf: consumer NAME [RUN_DIR]
 *
 *      cc -O2 -o consumer examples/consumer.c
 *
 * It counts what a producer captures, to the end or Ctrl-C, in the six steps below; docs/protocol.md tells more.
 * It checks everything that a producer says before it uses it.  One thing it can't check: a producer that cuts the
 * segment short later on ends this process by SIGBUS.
 */
#define _GNU_SOURCE /* F_OFD_GETLK */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../shared/zbuf.h"

enum { SEGMENT, ACK, DOORBELL, DESCRIPTORS }; /* in the order in which they come */
enum { ANSWER_BYTES = 65536, ANSWER_S = 30, LOOKS = 1000, POLL_MS = 250, DEATH_MS = 2000 };
enum found { NOTHING, BUFFER, HUNG_UP, FINISHED, MOVED, DIED, EVICTED, LEFT };

static const char *const endings[] = {[FINISHED] = "the producer closed",
                                      [MOVED] = "the descriptor moved: connect again",
                                      [DIED] = "the producer died",
                                      [EVICTED] = "evicted",
                                      [LEFT] = "interrupted"};

struct reader {
    int fds[DESCRIPTORS];
    const struct zbuf_segment *segment;
    const struct zbuf_header *headers[2];
    struct zbuf_ack *ack;
    uint64_t capacity;    /* bytes of blocks in a buffer */
    uint32_t user_gen[2]; /* the generation of A and of B that we have acknowledged */
    uint64_t sequence;    /* the number of the buffer whose turn it is */
    int hung_up;
    uint64_t packets, bytes, dropped;
};

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* exit() closes the connection.  That is how a reader leaves: the producer takes its buffers back. */
#define FAIL(...) (fprintf(stderr, "consumer: " __VA_ARGS__), fputc('\n', stderr), exit(1))

/* ---- 1. Connect to the control socket ------------------------------------------------------------------------ */

static int connect_to(const char *name, const char *run_dir)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = ANSWER_S};
    size_t room = sizeof address.sun_path;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if ((size_t)snprintf(address.sun_path, room, "%s/%s/control.sock", run_dir, name) >= room)
        FAIL("%s/%s/control.sock is too long for the path of a socket", run_dir, name);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        FAIL("%s: %s", address.sun_path, strerror(errno));
    return fd;
}

/* ---- 2. Ask for a descriptor, and get the segment, an ack page and a doorbell -------------------------------- */

/* Receive one answer, put a NUL behind it, and store the file descriptors that come with it; returns how many. */
static size_t receive(int control, char *answer, int *fds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    } rights;
    struct iovec text = {answer, ANSWER_BYTES - 1};
    struct msghdr message = {
        .msg_iov = &text, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};
    ssize_t length = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *head;
    size_t bytes;

    /* ECONNRESET comes once, ahead of what the producer said before it hung up; EINTR, after SIGSTOP and SIGCONT */
    while (length < 0 && (errno == ECONNRESET || (errno == EINTR && !interrupted)))
        length = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        FAIL("no answer: %s", length == 0 ? "the producer hung up" : strerror(errno));
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        FAIL("the answer is too long, or has too many file descriptors");
    answer[length] = '\0';
    head = CMSG_FIRSTHDR(&message);
    if (head == NULL || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
        return 0;
    bytes = head->cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(head), bytes);
    return bytes / sizeof(int);
}

/* Find where the value of a key begins in a flat JSON object, or the end of the text.  Inside a string each quote has a
 * backslash before it, so only a key can be between two quotes with a colon behind them. */
static const char *value_of(const char *json, const char *quoted_key)
{
    const char *space = " \t\r\n", *at = json;

    while ((at = strstr(at, quoted_key)) != NULL) {
        at += strlen(quoted_key);
        at += strspn(at, space);
        if (*at == ':')
            return at + 1 + strspn(at + 1, space);
    }
    return json + strlen(json);
}

static int begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static void refuse(const char *answer) /* the reason as it was sent, up to anything that a terminal might obey */
{
    const char *reason = value_of(answer, "\"reason\"") + 1;
    int length = 0;

    while (reason[-1] && (unsigned char)reason[length] >= ' ' && (reason[length] != '"' || reason[length - 1] == '\\'))
        length++;
    FAIL("refused: %.*s", length, reason);
}

static void request_descriptor(struct reader *reader, int control)
{
    static const char request[] = "{\"type\":\"connect\",\"abi\":2}"; /* "settings" can have a filter and more */
    static char answer[ANSWER_BYTES];
    const char *type, *sequence;
    size_t count;

    static_assert(ZBUF_ABI == 2, "the request names the ABI");
    send(control, request, strlen(request), MSG_NOSIGNAL); /* if that fails, the answer says why, or none comes */
    count = receive(control, answer, reader->fds);
    type = value_of(answer, "\"type\"");
    sequence = value_of(answer, "\"sequence\"");
    if (begins(type, "\"refusal\""))
        refuse(answer);
    if (!begins(type, "\"connected\"") || *sequence < '0' || *sequence > '9' || count != DESCRIPTORS)
        FAIL("malformed answer to connect, with %zu file descriptors: is this a zbuf producer?", count);
    reader->sequence = strtoull(sequence, NULL, 10);
}

/* ---- 3. Map the segment and the ack page, and check what page 0 says ----------------------------------------- */

static void *map(int fd, int protection, uint64_t *size)
{
    struct stat file = {0};
    void *memory = MAP_FAILED;

    if (fstat(fd, &file) == 0 && file.st_size >= (off_t)ZBUF_PAGE_BYTES)
        memory = mmap(NULL, (size_t)file.st_size, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        FAIL("no memory to map: the producer is broken, or died making it");
    *size = (uint64_t)file.st_size;
    return memory;
}

static void check(const struct zbuf_segment *page, uint32_t state, uint64_t size)
{
    if (memcmp(page->magic, ZBUF_MAGIC, sizeof page->magic) != 0)
        FAIL("foreign segment: it does not begin with zbuf's magic");
    if (page->abi != ZBUF_ABI)
        FAIL("segment of ABI %" PRIu32 ", this is ABI %u: use the same version on both sides", page->abi, ZBUF_ABI);
    if (state < ZBUF_OPEN || state > ZBUF_CLOSED) /* a producer that has just ended left us what it had */
        FAIL("segment in state %" PRIu32 ": its producer is still making it, or died doing so", state);
    if (page->segment_bytes > size || page->zbuf_bytes % ZBUF_PAGE_BYTES || page->zbuf_bytes - 1 >= ZBUF_MAX_BYTES)
        FAIL("corrupt segment: %" PRIu64 " bytes, with buffers of %" PRIu64, size, page->zbuf_bytes);
    for (int which = 0; which < 2; which++)
        if (page->zbuf_offset[which] % ZBUF_PAGE_BYTES || page->zbuf_offset[which] > size ||
            page->zbuf_bytes > size - page->zbuf_offset[which])
            FAIL("corrupt segment: a buffer at %" PRIu64, page->zbuf_offset[which]);
}

static void attach(struct reader *reader)
{
    uint64_t size, ack_size;
    const uint8_t *memory = map(reader->fds[SEGMENT], PROT_READ, &size);
    uint32_t state = zbuf_state((const struct zbuf_segment *)(const void *)memory); /* SYNC state: before the rest */
    struct zbuf_segment page;

    memcpy(&page, memory, sizeof page); /* nobody can change the copy between the check and the use */
    check(&page, state, size);
    reader->segment = (const struct zbuf_segment *)(const void *)memory;
    reader->capacity = page.zbuf_bytes - sizeof(struct zbuf_header);
    reader->ack = map(reader->fds[ACK], PROT_READ | PROT_WRITE, &ack_size);
    for (int which = 0; which < 2; which++) { /* the producer has set our ack page to the generations of the moment */
        reader->headers[which] = (const struct zbuf_header *)(const void *)(memory + page.zbuf_offset[which]);
        reader->user_gen[which] = reader->ack->user_gen[which];
    }
}

/* ---- 4. Wait for the buffer whose turn it is ------------------------------------------------------------------ */

/* One load.  While the producer is ahead of us, no more is needed. */
static int is_assigned(const struct reader *reader)
{
    unsigned which = reader->sequence & 1;

    return zbuf_assigned(reader->headers[which]) != reader->user_gen[which];
}

/* What page 0 says of the end, if it says anything. */
static enum found end_of(const struct zbuf_segment *segment)
{
    uint32_t state = zbuf_state(segment);

    if (state < ZBUF_FINISHED)
        return NOTHING;
    if (state == ZBUF_MOVED)
        return MOVED;
    return segment->end_sequence == ZBUF_NO_END ? EVICTED : FINISHED; /* closed because we were its last reader */
}

/* Look for the end first, and then for a buffer: the last buffer may have come just before the end. */
static enum found look(const struct reader *reader)
{
    enum found end = end_of(reader->segment);

    if (interrupted)
        return LEFT;
    if (end == NOTHING && reader->hung_up)
        end = HUNG_UP;
    return is_assigned(reader) ? BUFFER : end;
}

/* Sleep until the doorbell rings or hangs up; the limit is for signals that come just before poll(). */
static void hear(struct reader *reader)
{
    struct pollfd bell = {.fd = reader->fds[DOORBELL], .events = POLLIN};
    char rings[64];

    if (poll(&bell, 1, POLL_MS) <= 0)
        return;
    if (bell.revents & POLLIN && recv(bell.fd, rings, sizeof rings, MSG_DONTWAIT) < 0 && errno == ENOTSOCK)
        FAIL("the doorbell is not a socket: the producer is broken");
    reader->hung_up = (bell.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
}

static enum found wait_for_buffer(struct reader *reader)
{
    enum found found;

    for (int looks = 0; looks < LOOKS && !is_assigned(reader); looks++)
        ;
    while ((found = look(reader)) == NOTHING) {
        zbuf_sleep(reader->ack); /* SYNC sleep: announce it, look once more, and only then sleep */
        if (look(reader) == NOTHING)
            hear(reader);
        zbuf_wake(reader->ack);
    }
    return found;
}

/* ---- 5. Walk the packets of a buffer, and give it back --------------------------------------------------------- */

/* Your code goes here.  packet.data is in shared memory: don't look at it after the buffer was given back. */
static void count(struct reader *reader, const struct zbuf_header *header, uint32_t length)
{
    const uint8_t *blocks = (const uint8_t *)(header + 1);
    struct zbuf_packet packet;

    if (length > reader->capacity || length % 4)
        FAIL("corrupt buffer %" PRIu64 ": %" PRIu32 " bytes", reader->sequence, length);
    for (uint32_t next, offset = 0; offset < length; offset = next) {
        next = zbuf_next_packet(blocks, length, offset, &packet);
        if (next == 0)
            FAIL("corrupt buffer %" PRIu64 ": no packet at byte %" PRIu32, reader->sequence, offset);
        if (packet.data == NULL) /* no packets any more, but blocks of other types, which were passed over */
            return;
        reader->packets++;
        reader->bytes += packet.caplen;
        reader->dropped += packet.dropped;
    }
}

static void take(struct reader *reader, unsigned which)
{
    const struct zbuf_header *header = reader->headers[which];
    uint32_t generation = zbuf_assigned(header);                        /* SYNC assign: before the rest is read */
    uint32_t length = zbuf_get32((const uint8_t *)&header->kernel_len); /* loaded once, checked, and used */

    count(reader, header, length);
    reader->user_gen[which] = generation;
    zbuf_acknowledge(reader->ack, which, generation); /* SYNC acknowledge: nothing of the buffer is read after this */
    reader->sequence++;
}

/* ---- 6. The end ------------------------------------------------------------------------------------------------ */

/* While it lives, the producer has a lock on the segment.  When it dies, the kernel closes its files one by one, so the
 * lock may go a moment after the doorbell. */
static int is_dead(const struct reader *reader)
{
    struct timespec millisecond = {.tv_nsec = 1000000};

    for (int waited_ms = 0; waited_ms < DEATH_MS; waited_ms++, nanosleep(&millisecond, NULL)) {
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
        if (fcntl(reader->fds[SEGMENT], F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK)
            return 1;
    }
    return 0;
}

/* A dead producer has left a part of a buffer.  A live one has taken us off, and may be writing to that buffer. */
static enum found take_rest(struct reader *reader, unsigned which)
{
    if (!is_dead(reader))
        return EVICTED;
    count(reader, reader->headers[which], zbuf_stored(reader->headers[which], reader->user_gen[which] + 1));
    return DIED;
}

/* What the ledger has dropped; the producer may be writing it, and after a death never come to the end of that. */
static uint64_t ledger_drops(const struct reader *reader)
{
    struct zbuf_ledger ledger = {0};

    for (int tries = 0; tries < LOOKS && !zbuf_read_ledger(reader->segment, &ledger); tries++)
        ;
    return ledger.dropped;
}

static enum found take_all(struct reader *reader)
{
    enum found found;

    while ((found = wait_for_buffer(reader)) == BUFFER) {
        if (reader->headers[reader->sequence & 1]->sequence != reader->sequence)
            return EVICTED; /* it went on without us, while we were too busy to hear it hang up */
        take(reader, reader->sequence & 1);
    }
    if (found == FINISHED) /* the ledger is exact now, and counts what was lost after the last packet, too */
        reader->dropped = ledger_drops(reader);
    return found == HUNG_UP ? take_rest(reader, reader->sequence & 1) : found;
}

int main(int argc, char **argv)
{
    const char *run_dir = argc > 2 ? argv[2] : getenv("ZBUF_RUN_DIR");
    struct sigaction action = {.sa_handler = interrupt};
    struct reader reader = {0};
    enum found end;

    if (argc < 2 || argc > 3)
        FAIL("usage: consumer NAME [RUN_DIR]");
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    request_descriptor(&reader, connect_to(argv[1], run_dir ? run_dir : "/run/zbuf"));
    attach(&reader);
    end = take_all(&reader);
    printf("%" PRIu64 " packets, %" PRIu64 " bytes, %" PRIu64 " dropped; %s\n", reader.packets, reader.bytes,
           reader.dropped, endings[end]);
    return 0;
}
