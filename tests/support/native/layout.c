/* Prints the size of each structure of zbuf.h and the offset of each of its fields, one "name number" a line. */
#include "zbuf.h"

#include <stdio.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(struct type))
#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(struct type, field))
#define NUMBER(name) printf(#name " %llu\n", (unsigned long long)(name))

static void ledger(void)
{
    SIZE(zbuf_ledger);
    FIELD(zbuf_ledger, received);
    FIELD(zbuf_ledger, filtered);
    FIELD(zbuf_ledger, accepted);
    FIELD(zbuf_ledger, delivered);
    FIELD(zbuf_ledger, dropped);
    FIELD(zbuf_ledger, abandoned);
    FIELD(zbuf_ledger, buffered);
    FIELD(zbuf_ledger, truncated);
    FIELD(zbuf_ledger, received_bytes);
    FIELD(zbuf_ledger, filtered_bytes);
    FIELD(zbuf_ledger, accepted_bytes);
    FIELD(zbuf_ledger, delivered_bytes);
    FIELD(zbuf_ledger, dropped_bytes);
    FIELD(zbuf_ledger, abandoned_bytes);
    FIELD(zbuf_ledger, buffered_bytes);
}

static void segment(void)
{
    SIZE(zbuf_segment);
    FIELD(zbuf_segment, magic);
    FIELD(zbuf_segment, abi);
    FIELD(zbuf_segment, state);
    FIELD(zbuf_segment, epoch);
    FIELD(zbuf_segment, segment_bytes);
    FIELD(zbuf_segment, prologue_offset);
    FIELD(zbuf_segment, prologue_bytes);
    FIELD(zbuf_segment, zbuf_offset);
    FIELD(zbuf_segment, zbuf_bytes);
    FIELD(zbuf_segment, prologue_room);
    FIELD(zbuf_segment, end_sequence);
    FIELD(zbuf_segment, snaplen);
    FIELD(zbuf_segment, ledger_sequence);
    FIELD(zbuf_segment, reserved);
    FIELD(zbuf_segment, ledger);
    FIELD(zbuf_segment, producer);
    FIELD(zbuf_segment, descriptor);
}

static void header(void)
{
    SIZE(zbuf_header);
    FIELD(zbuf_header, kernel_gen);
    FIELD(zbuf_header, kernel_len);
    FIELD(zbuf_header, user_gen);
    FIELD(zbuf_header, packets);
    FIELD(zbuf_header, interfaces);
    FIELD(zbuf_header, wire_bytes);
    FIELD(zbuf_header, sequence);
    FIELD(zbuf_header, first_ns);
    FIELD(zbuf_header, last_ns);
    FIELD(zbuf_header, dropped_before);
    FIELD(zbuf_header, store_len);
}

static void ack(void)
{
    SIZE(zbuf_ack);
    FIELD(zbuf_ack, user_gen);
    FIELD(zbuf_ack, sleeping);
    FIELD(zbuf_ack, passed_gen);
}

int main(void)
{
    ledger();
    segment();
    header();
    ack();
    NUMBER(ZBUF_ABI);
    NUMBER(ZBUF_PAGE_BYTES);
    NUMBER(ZBUF_MAX_BYTES);
    NUMBER(ZBUF_MAX_CAPLEN);
    return 0;
}
