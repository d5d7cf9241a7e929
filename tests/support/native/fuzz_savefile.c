/* libFuzzer's way into the reader of capture files: a file, read at once and in pieces, and every block of it turned.
 *
 * The first byte says how large the pieces are.  Both ways must tell the same packets, which are touched. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "zbuf/producer/sources/files/savefile.h"

#define BATCH 16

struct told {
    uint64_t packets, saturated, sum, offset;
    int event;
};

static uint64_t touch(const struct zbuf_packet *packet, const struct savefile_extra *extra)
{
    uint64_t sum = packet->time_ns + packet->dropped + packet->wirelen + packet->interface_id + extra->flags;
    for (uint32_t at = 0; at < packet->caplen; at++)
        sum = sum * 31 + packet->data[at];
    for (uint32_t at = 0; at < extra->options_bytes; at++)
        sum = sum * 31 + extra->options[at];
    return sum;
}

static void turn(const struct savefile *file)
{
    uint8_t *copy;
    if (file->block == NULL || (copy = malloc(file->block_bytes)) == NULL)
        return;
    memcpy(copy, file->block, file->block_bytes);
    if (file->swapped)
        swap_block(copy, file->block_bytes);
    free(copy);
}

static void turn_options(const struct savefile_extra *extra)
{
    uint8_t *copy = malloc(extra->options_bytes + 1);
    if (copy == NULL)
        return;
    if (extra->options_bytes) {
        memcpy(copy, extra->options, extra->options_bytes);
        swap_options(copy, copy + extra->options_bytes, BLOCK_PACKET);
    }
    free(copy);
}

/* The window is a copy of its own, so that AddressSanitizer sees a byte too many. */
static struct told read_all(const uint8_t *data, size_t size, size_t piece)
{
    struct zbuf_packet packets[BATCH];
    struct savefile_extra extras[BATCH];
    struct savefile file;
    struct told told = {0};
    size_t begin = 0, end = piece < size ? piece : size, used;
    int count;

    savefile_begin(&file);
    for (;;) {
        uint8_t *window = malloc(end - begin + 1);
        assert(window != NULL);
        memcpy(window, data + begin, end - begin);
        file.far = piece & 1;
        count = savefile_batch(&file, window, end - begin, end == size, packets, extras, BATCH, &told.event, &used);
        for (int at = 0; at < count; at++) {
            told.sum = told.sum * 31 + touch(&packets[at], &extras[at]);
            turn_options(&extras[at]);
        }
        if (count == 0 && (told.event == SAVEFILE_INTERFACE || told.event == SAVEFILE_BLOCK)) {
            if (told.event == SAVEFILE_INTERFACE)
                file.interfaces[file.count - 1].number = file.all_interfaces - 1;
            turn(&file);
            used = file.used;
            file.offset += used;
        }
        free(window);
        begin += used;
        if (count)
            continue;
        if (told.event == SAVEFILE_MORE)
            end = size - end < piece ? size : end + piece;
        if (told.event == SAVEFILE_DAMAGED || told.event == SAVEFILE_END)
            break;
    }
    told.packets = file.packets;
    told.saturated = file.saturated;
    told.offset = file.offset;
    savefile_free(&file);
    return told;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct told whole, pieces;
    if (size == 0)
        return 0;
    whole = read_all(data + 1, size - 1, size);
    pieces = read_all(data + 1, size - 1, 1 + data[0]);
    assert(whole.packets == pieces.packets && whole.sum == pieces.sum && whole.saturated == pieces.saturated);
    assert(whole.event == pieces.event && whole.offset == pieces.offset);
    return 0;
}
