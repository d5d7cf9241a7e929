/* SPDX-License-Identifier: BSD-2-Clause
 *
 * zbuf.pml: the protocol of shared/zbuf.h, producer/descriptor.pyx and consumer/reader.pyx, for Spin.
 *
 * A producer fills two buffers for two readers of one descriptor.  Packets are the numbers 1, 2, 3, ...; readers
 * join and go, and anybody is killed, at any moment.  README.md tells what is left out, and why that is sound.
 * A macro MUTATE_x puts a mistake in, and ./check sees that each is found.
 *
 * Memory: a store is first in its writer's own variable, and reaches the memory, where the others look, at any later
 * moment.  A full fence waits until it has.  So are modelled the stores that a look at something else follows:
 *
 *      writer's own     in memory
 *      gen[b]           kernel_gen[b]     SYNC assign
 *      user_gen[r,b]    ack[r,b]          SYNC acknowledge
 *      announced[r]     sleeping[r]       SYNC sleep
 *
 * All the others are in memory at once: they are release stores, or behind one, and looked at by an acquire.
 */

#ifndef PACKETS
#define PACKETS 4       /* that the source has, at most */
#endif
#ifndef CAPACITY
#define CAPACITY 2      /* packets in a buffer */
#endif
#ifndef GENERATIONS
#define GENERATIONS 2   /* before the counters wrap: only equality counts, so two must do */
#endif

#define NONE 2          /* an empty slot */
#define other(b) (1 - (b))
#define at(r, b) (2 * (r) + (b))
#define next_gen(g) (((g) + 1) % GENERATIONS)

/* What is checked, besides that nobody waits for ever (Spin's "invalid end state"). */
mtype = { never_overwritten, exactly_once_in_order, nothing_is_left_behind, ledger_adds_up, ends_for_its_reason };
#define must(property, condition) assert(property && (condition))

/* ---- Shared memory ---- */
byte kernel_gen[2];             /* (p) */
byte kernel_len[2];             /* (p) */
byte store_gen[2], store_len[2];/* (p) the halves of store_len, written as one */
byte block[2 * CAPACITY];       /* (p) the packets, by number */
byte dropcount[2];              /* (p) epb_dropcount of a buffer's first packet; no other one can have it */
bool closed;                    /* (p) state == CLOSED */
byte ack[4];                    /* (u) */
bool sleeping[2];               /* (u) */

/* ---- The kernel's part ---- */
bool bell[2];                   /* the doorbell was rung */
bool killed;                    /* the producer was */
bool let_go;                    /* the producer has closed the doorbells */
bool gone[2];                   /* this reader has left, or was killed: its connection is closed */
#define hung_up (killed || let_go)

/* ---- The producer's own ---- */
byte store = 0, hold = NONE, free = 1;
byte gen[2], length[2];
bool assigned[2], acknowledged[2], owes[4], listed[2];
bit next_sequence;              /* its parity */
byte lost;
bool finished, quiet;           /* the tail was assigned; no packet and no end will come */

/* ---- The readers' own ---- */
byte user_gen[4];
bool announced[2];
bit sequence[2];                /* the parity of the first buffer that it will get */

/* ---- What only the checks know ---- */
byte sent;                      /* packets that came so far */
byte last;                      /* the last one appended */
byte balance;                   /* accepted - delivered - dropped - abandoned */
byte expected[2];               /* the packet that this reader must get next */
bool given_back[2];             /* somebody has acknowledged this filling */

#define reads(r, b) (listed[r] && !gone[r] && user_gen[at(r, b)] != gen[b])
#define write_to(b) must(never_overwritten, !reads(0, b) && !reads(1, b))

/* ======== The memory: every store gets there in the end ======== */

active proctype memory()
{
end:
    do
    :: d_step { kernel_gen[0] != gen[0] -> kernel_gen[0] = gen[0] }
    :: d_step { kernel_gen[1] != gen[1] -> kernel_gen[1] = gen[1] }
    :: d_step { ack[0] != user_gen[0] -> ack[0] = user_gen[0] }
    :: d_step { ack[1] != user_gen[1] -> ack[1] = user_gen[1] }
    :: d_step { ack[2] != user_gen[2] -> ack[2] = user_gen[2] }
    :: d_step { ack[3] != user_gen[3] -> ack[3] = user_gen[3] }
    :: d_step { sleeping[0] != announced[0] -> sleeping[0] = announced[0] }
    :: d_step { sleeping[1] != announced[1] -> sleeping[1] = announced[1] }
    od
}

#define producer_drained (kernel_gen[0] == gen[0] && kernel_gen[1] == gen[1])
#define reader_drained(r) (ack[at(r, 0)] == user_gen[at(r, 0)] && ack[at(r, 1)] == user_gen[at(r, 1)] && \
                           sleeping[r] == announced[r])

/* ======== Death: at any moment, of anybody; what the dead one stored is in memory before its connection closes ======== */

active proctype death()
{
    do
    :: d_step { !gone[0] && reader_drained(0) -> gone[0] = true }
    :: d_step { !gone[1] && reader_drained(1) -> gone[1] = true }
    :: d_step { !killed && producer_drained -> killed = true }
    :: break
    od
}

/* ======== The producer (descriptor.pyx, by its names) ======== */

#define can_write_buffer !assigned[store]
#define fits (can_write_buffer && length[store] < CAPACITY)

inline look_at_reader(r, b)
{
    atomic {
        if
        :: owes[at(r, b)] && ack[at(r, b)] == gen[b] -> owes[at(r, b)] = false; acknowledged[b] = true
        :: else
        fi
    }
}

inline wake(r)
{
    if
    :: listed[r] && sleeping[r] -> bell[r] = true
    :: else
    fi
}

inline assign(b)
{
    d_step { write_to(b); kernel_len[b] = length[b] }
    d_step {
        assigned[b] = true;
        acknowledged[b] = false;
        given_back[b] = false;
        owes[at(0, b)] = listed[0];
        owes[at(1, b)] = listed[1];
        next_sequence = 1 - next_sequence;
        gen[b] = next_gen(gen[b])
    }
    producer_drained; /* the fence */
    wake(0);
    wake(1)
}

inline begin_store()
{
    write_to(store);
    length[store] = 0;
    dropcount[store] = 0;
    store_gen[store] = next_gen(gen[store]);
    store_len[store] = 0
}

inline rotate_buffers()
{
    d_step {
        hold = store;
        store = free;
        free = NONE;
        begin_store()
    }
    if
    :: !assigned[hold] -> assign(hold)
    :: else
    fi
}

inline reclaim()
{
    do
    :: hold != NONE ->
        look_at_reader(0, hold);
        look_at_reader(1, hold);
        if
        :: owes[at(0, hold)] || owes[at(1, hold)] -> break
        :: else ->
            d_step {
                free = hold;
                hold = NONE;
                assigned[free] = false;
                must(ledger_adds_up, acknowledged[free] == given_back[free]); /* delivered, else abandoned */
                balance = balance - length[free];
                length[free] = 0
            }
            if
            :: assigned[store] -> rotate_buffers()
            :: else
            fi
        fi
    :: else -> break
    od
}

inline append()
{
    d_step { sent++; balance++ }
    if
    :: !fits -> reclaim()
    :: else
    fi;
    if
    :: fits
    :: !fits && free != NONE -> rotate_buffers()
    :: !fits && free == NONE && !assigned[store] -> assign(store) /* buffer_full */
    :: else
    fi;
    if
    :: fits ->
        d_step {
            write_to(store);
            must(ledger_adds_up, lost == 0 || length[store] == 0);
            block[at(store, 0) * CAPACITY / 2 + length[store]] = sent;
            if :: length[store] == 0 -> dropcount[store] = lost :: else fi
        }
        d_step {
            length[store]++;
            store_gen[store] = next_gen(gen[store]);
            store_len[store] = length[store];
            lost = 0;
            last = sent
        }
    :: else ->
        d_step { lost++; balance-- }
    fi
}

inline rotate_store()
{
    reclaim();
    if
    :: hold == NONE && length[store] > 0 -> rotate_buffers()
    :: else
    fi
}

inline finish()
{
    rotate_store();
    if
    :: length[store] > 0 && !assigned[store] -> assign(store)
    :: else
    fi;
    finished = true
}

inline add_reader(r)
{
    d_step {
        user_gen[at(r, 0)] = gen[0];
        user_gen[at(r, 1)] = gen[1];
        ack[at(r, 0)] = gen[0];
        ack[at(r, 1)] = gen[1];
        sequence[r] = next_sequence;
        expected[r] = last + 1;
        if
        :: !assigned[store] && length[store] > 0 -> expected[r] = last + 1 - length[store] - dropcount[store]
        :: else
        fi;
        listed[r] = true
    }
}

inline remove_reader(r)
{
    look_at_reader(r, 0);
    look_at_reader(r, 1);
    d_step {
        listed[r] = false;
        owes[at(r, 0)] = false;
        owes[at(r, 1)] = false
    }
    reclaim()
}

#define given(r, b) (!owes[at(r, b)] || ack[at(r, b)] == gen[b])
#define can_free_buffer(b) (given(0, b) && given(1, b))

active proctype producer()
{
    {
    d_step { begin_store() }
end:
    do
    :: !quiet && !finished && sent < PACKETS -> append()
    :: (hold == NONE && length[store] > 0) || (hold != NONE && can_free_buffer(hold)) -> rotate_store()
    :: !gone[0] && !listed[0] -> add_reader(0)
    :: !gone[1] && !listed[1] && (listed[0] || gone[0]) -> add_reader(1)
    :: gone[0] && listed[0] -> remove_reader(0)
    :: gone[1] && listed[1] -> remove_reader(1)
    :: !quiet && !finished -> finish()
    :: !quiet && finished -> break
    :: !quiet -> quiet = true
    od;
    closed = true;
    let_go = true
    } unless { killed }
}

/* ======== A reader (reader.pyx) ======== */

#define assigned_to_me (kernel_gen[b] != user_gen[at(r, b)])

inline read_packets()
{
    d_step {
        n = 0;
        do
        :: n < count ->
            must(exactly_once_in_order, block[b * CAPACITY + n] == expected[r] + (n == 0 -> dropcount[b] : 0));
            expected[r] = block[b * CAPACITY + n] + 1;
            n++
        :: else -> break
        od;
        n = 0
    }
}

inline look_for_end()
{
    if
    :: hung_up -> hung = true /* told by another thread */
    :: true
    fi;
    if
    :: closed ->
        if :: assigned_to_me -> goto take :: else -> goto over fi
    :: !closed && hung ->
        if :: assigned_to_me -> goto take :: else -> goto died fi
    :: else
    fi
}

proctype reader(bit r)
{
    bit b;
    byte generation, count, n;
    bool hung;
end_joining:
    listed[r];
    {
    b = sequence[r];
look:
    if
    :: assigned_to_me -> goto take
    :: else
    fi;
    look_for_end();
    if
    :: goto look /* it spins */
    :: true
    fi;
    announced[r] = true;
    reader_drained(r);
    if
    :: assigned_to_me -> goto take
    :: else
    fi;
    look_for_end();
poll:
    if
    :: bell[r] -> bell[r] = false
    :: hung_up -> hung = true
    :: quiet && expected[r] == last + 1 -> goto sleeps_for_ever
    fi;
    if
    :: assigned_to_me -> goto take
    :: else
    fi;
    look_for_end();
    if
    :: announced[r] = false; goto look
    :: goto poll
    fi;
take:
    atomic { generation = kernel_gen[b]; count = kernel_len[b] }
    if :: announced[r] -> announced[r] = false :: true fi;
    read_packets();
    d_step {
        user_gen[at(r, b)] = generation;
        given_back[b] = true;
        generation = 0;
        count = 0;
        b = other(b)
    }
    goto look;
died:
    must(ends_for_its_reason, !closed);
    if
    :: store_gen[b] == next_gen(user_gen[at(r, b)]) -> count = store_len[b]; read_packets()
    :: else
    fi;
over:
    must(nothing_is_left_behind, expected[r] == last + 1);
sleeps_for_ever:
    skip
    } unless { gone[r] }
}

init { atomic { run reader(0); run reader(1) } }
