/* zbuf.h and nothing else, twice, in C and in C++; every function of it is compiled, so that it is warned about. */
#include "zbuf.h"
#include "zbuf.h"

typedef void (*function)(void);

function zbuf_everything[] = {
    (function)zbuf_assign,
    (function)zbuf_assigned,
    (function)zbuf_acknowledge,
    (function)zbuf_acknowledged,
    (function)zbuf_pass,
    (function)zbuf_passed,
    (function)zbuf_store,
    (function)zbuf_stored,
    (function)zbuf_sleep,
    (function)zbuf_wake,
    (function)zbuf_fence_sleepers,
    (function)zbuf_sleeper,
    (function)zbuf_set_state,
    (function)zbuf_state,
    (function)zbuf_grow_prologue,
    (function)zbuf_prologue_bytes,
    (function)zbuf_write_ledger,
    (function)zbuf_read_ledger,
    (function)zbuf_pad,
    (function)zbuf_get32,
    (function)zbuf_put32,
    (function)zbuf_options,
    (function)zbuf_has_flags,
    (function)zbuf_block_bytes,
    (function)zbuf_put_options,
    (function)zbuf_block_begin,
    (function)zbuf_next_block,
    (function)zbuf_get_options,
    (function)zbuf_get_packet,
    (function)zbuf_next_packet,
};

int main(void)
{
    return 0;
}
