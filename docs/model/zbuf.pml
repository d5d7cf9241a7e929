/* SPDX-License-Identifier: BSD-2-Clause
 *
 * zbuf.pml: the protocol of shared/zbuf.h, producer/ring/descriptor.pyx and consumer/reading/segment_reader.pyx, for Spin.
 *
 * A producer appends packets, which are the numbers 1, 2, 3, ..., to two buffers for the readers of one descriptor.
 * Readers come and go at any moment, and anybody may be killed at any moment.  README.md tells what is left out, and why.
 *
 * Memory: a store goes to its writer's own variable first.  At any later moment it gets to the memory, where the others
 * look.  A full fence waits until it has.  Three stores are modelled like that: the ones that are followed by a look at
 * what the other side stored.  All other stores are in memory at once.
 *
 *      writer's own     in memory
 *      gen[b]           kernel_gen[b]     SYNC assign
 *      announced[r]     sleeping[r]       SYNC sleep
 *      told             finished          SYNC state
 */

#ifndef READERS
#define READERS 2       /* at a time, at most */
#endif
#ifndef PACKETS
#define PACKETS 3       /* that the source has, at most */
#endif
#ifndef CAPACITY
#define CAPACITY 2      /* packets in a buffer */
#endif
#ifndef GENERATIONS
#define GENERATIONS 2   /* before the counters wrap: only equality counts, so two must do */
#endif
#ifndef VIEWS
#define VIEWS 1         /* a reader can keep a buffer while it takes the next one, so it can own both */
#endif
#ifndef FLUSH
#define FLUSH 1         /* the producer can empty its store */
#endif
#ifndef LEAVE
#define LEAVE 1         /* readers go, and others may come in their place */
#endif
#ifndef DOORBELL
#define DOORBELL 1      /* 0: readers wait without the sleep handshake, as if the memory itself woke them */
#endif

/* What must hold.  Nobody must wait for ever, either: that is Spin's "invalid end state". */
mtype = { never_overwritten, exactly_once_in_order, all_and_no_more, ledger_adds_up, ends_for_its_reason };
#define must(property, condition) assert(property && (condition))

/* The mistakes that -DMUTATE=... puts in, each with the property that it breaks. */
#define NO_FENCE_READER               1 /* nobody_waits_for_ever: zbuf_sleep() without its fence */
#define NO_FENCE_PRODUCER             2 /* nobody_waits_for_ever: wake() without its fence */
#define NO_LOOK_AGAIN                 3 /* nobody_waits_for_ever: a reader polls without a look after sleeping := 1 */
#define LOOK_BEFORE_BELL              4 /* nobody_waits_for_ever: a reader looks first, and then empties the doorbell */
#define GIVE_UP_UNANNOUNCED           5 /* nobody_waits_for_ever: a reader comes back empty-handed with sleeping = 0 */
#define NO_WAKE_WHEN_FULL             6 /* nobody_waits_for_ever: buffer_full() assigns and rings for nobody */
#define ROTATE_WITHOUT_RECLAIM        7 /* nobody_waits_for_ever: rotate_store() does not reclaim first */
#define LEAVE_KEEPS_OWING             8 /* nobody_waits_for_ever: remove_reader() forgets to clear a debt */
#define RECLAIM_UNCHECKED             9 /* never_overwritten: reclaim() does not ask the readers */
#define RECLAIM_AT_FIRST             10 /* never_overwritten: one reader's acknowledgement is taken for everybody's */
#define WRITE_ASSIGNED               11 /* never_overwritten: can_write_buffer() is not asked */
#define FLUSH_ASSIGNED               12 /* never_overwritten: flush() empties a store that was assigned */
#define REASSIGN_ASSIGNED            13 /* exactly_once_in_order: an assigned store is assigned again as the hold */
#define ACKNOWLEDGE_UNREAD           14 /* exactly_once_in_order: a reader acknowledges, and then reads */
#define ASSIGN_BEFORE_LENGTH         15 /* exactly_once_in_order: kernel_gen is stored before kernel_len */
#define STORE_LEN_BEFORE_BLOCK       16 /* exactly_once_in_order: a length is published before its block is whole */
#define STORE_LEN_WITHOUT_GENERATION 17 /* exactly_once_in_order: the upper half of store_len is not looked at */
#define JOIN_OLD_GENERATION          18 /* exactly_once_in_order: add_reader() does not set user_gen */
#define FLUSH_KEEPS_STORE_LEN        19 /* all_and_no_more: flush() does not publish that the store is empty */
#define FINISHED_BEFORE_TAIL         20 /* all_and_no_more: FINISHED is stored before the tail is assigned */
#define NO_LOOK_AFTER_END            21 /* all_and_no_more: FINISHED, or a hang-up, is believed without a last look */
#define LEAVE_WITHOUT_LOOK           22 /* ledger_adds_up: remove_reader() looks at the hold only */
#define STATE_BEFORE_HANG_UP         23 /* ends_for_its_reason: the state is looked at first, then the hang-up */
#define LET_GO_BEFORE_FINISHED       24 /* ends_for_its_reason: the doorbells are closed before FINISHED is stored */
#define FINISH_UNTOLD                25 /* nobody_waits_for_ever: FINISHED is stored, and rings for nobody */
#define NO_FENCE_FINISH              26 /* nobody_waits_for_ever: finish() looks for sleepers without a fence */
#ifndef MUTATE
#define MUTATE 0
#endif
#define wrong(mistake) (MUTATE == mistake)

#define NONE 2          /* an empty slot */
#define other(b) (1 - (b))
#define at(r, b) (2 * (r) + (b))
#define next_gen(g) (((g) + 1) % GENERATIONS)

/* ---- Shared memory: (p) the producer's, (u) a reader's ---- */
byte kernel_gen[2];              /* (p) */
byte kernel_len[2];              /* (p) in packets */
byte store_gen[2], store_len[2]; /* (p) the halves of store_len, always stored together */
byte block[2 * CAPACITY];        /* (p) the packets, by number */
byte dropcount[2];               /* (p) epb_dropcount of the first packet; no other can have it */
bool finished;                   /* (p) state >= FINISHED */
byte user_gen[4];                /* (u) */
bool sleeping[2];                /* (u) */

/* ---- What the kernel keeps ---- */
bool bell[2];                    /* the doorbell was rung, and not emptied since */
bool killed, let_go;             /* the producer was killed; the producer has closed the doorbells */
bool gone[2];                    /* a reader has left, or was killed: its connection is closed */
#define hung_up (killed || let_go)

/* ---- The producer's own ---- */
byte store = 0, hold = NONE, free = 1;
byte gen[2], length[2];
bool assigned[2], acknowledged[2], owes[4], listed[2];
bit next_sequence;               /* its lowest bit */
byte lost;
byte due = NONE;                 /* the buffer that it is about to assign */
bool placing;                    /* there is room for the packet at hand */
bool ending, quiet;              /* no packet will come: the tail was assigned; or there will be no end either */
bool told, spared;               /* that nothing more will be assigned; it lets nobody go, and is not killed */

/* ---- The readers' own ---- */
bool announced[2];
bool blocked[2];                 /* it waits, and does nothing else */
bool dies[2];                    /* it takes no other step */
bit sequence[2];                 /* of the first buffer that it gets, the lowest bit */

/* ---- What only the checks know ---- */
byte sent, last;                 /* the last packet that came; the last one appended */
byte balance;                    /* accepted - delivered - dropped - abandoned */
byte expected[2];                /* the packet that a reader must get next */
bool given_back[2];              /* a reader has acknowledged this filling */
hidden byte n, count;            /* of no meaning between two steps */

#define reads(r, b) (listed[r] && !gone[r] && user_gen[at(r, b)] != gen[b])
#define ledger must(ledger_adds_up, balance == length[0] + length[1] + placing)
#define write_to(b) must(never_overwritten, !reads(0, b) && !reads(1, b))

/* ======== The memory: every store gets there in the end ======== */

active proctype memory()
{
end:
    do
    :: d_step { kernel_gen[0] != gen[0] -> kernel_gen[0] = gen[0] }
    :: d_step { kernel_gen[1] != gen[1] -> kernel_gen[1] = gen[1] }
    :: d_step { sleeping[0] != announced[0] -> sleeping[0] = announced[0] }
    :: d_step { sleeping[1] != announced[1] -> sleeping[1] = announced[1] }
    :: d_step { finished != told -> finished = told }
    od
}

#define producer_drained (kernel_gen[0] == gen[0] && kernel_gen[1] == gen[1] && finished == told)
#define reader_drained(r) (sleeping[r] == announced[r])

/* ======== Death: what the dead one stored is in memory before its connection closes ========
 *
 * A process that is blocked, or has gone quiet, is not killed: Spin would not see that it is stuck if it could still be
 * killed.  It could as well have been killed one step before, which is the same moment for all others. */

active proctype death()
{
end:
    do
    :: d_step { LEAVE && listed[0] && !gone[0] && !blocked[0] && reader_drained(0) -> dies[0] = true }
    :: d_step { LEAVE && listed[1] && !gone[1] && !blocked[1] && reader_drained(1) -> dies[1] = true }
    :: d_step { !killed && !quiet && !spared && producer_drained -> killed = true }
    od
}

/* ======== The producer: descriptor.pyx, by its names ========
 *
 * A step is everything between two stores that a reader can tell apart, or that can be told apart in a killed
 * producer's memory. */

#define can_write_buffer (!assigned[store] || wrong(WRITE_ASSIGNED))
#define fits(room) (can_write_buffer && length[store] + room <= CAPACITY)
#define gave_back(r, b) (!owes[at(r, b)] || user_gen[at(r, b)] == gen[b])
#define can_free_buffer(b) (gave_back(0, b) && gave_back(1, b))

inline look_at_reader(r, b)
{
    if
    :: owes[at(r, b)] && gave_back(r, b) -> owes[at(r, b)] = false; acknowledged[b] = true
    :: else
    fi
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
    hold = store;
    store = free;
    free = NONE;
    begin_store();
    if
    :: !assigned[hold] || wrong(REASSIGN_ASSIGNED) -> due = hold
    :: else
    fi
}

inline buffer_full()
{
    if
    :: !assigned[store] -> due = store
    :: else
    fi
}

inline buffer_reclaimed()
{
    must(ledger_adds_up, acknowledged[free] == given_back[free]); /* delivered, or else abandoned */
    balance = balance - length[free];
    assigned[free] = false;
    acknowledged[free] = false;
    given_back[free] = false;
    length[free] = 0
}

inline reclaim()
{
    do
    :: hold != NONE ->
        look_at_reader(0, hold);
        look_at_reader(1, hold);
        if
        :: wrong(RECLAIM_UNCHECKED) -> acknowledged[hold] = given_back[hold]
        :: wrong(RECLAIM_AT_FIRST) && acknowledged[hold]
        :: !owes[at(0, hold)] && !owes[at(1, hold)]
        :: else -> break
        fi;
        free = hold;
        hold = NONE;
        buffer_reclaimed();
        if
        :: assigned[store] -> rotate_buffers()
        :: else
        fi
    :: else -> break
    od
}

inline place_for(room)
{
    sent++;
    balance++;
    if
    :: !fits(room) -> reclaim()
    :: else
    fi;
    if
    :: fits(room) -> placing = true
    :: !fits(room) && free != NONE -> rotate_buffers(); placing = true
    :: else -> buffer_full(); lost++; balance--
    fi
}

inline appended()
{
#if MUTATE == STORE_LEN_BEFORE_BLOCK
    d_step { store_len[store] = length[store] + 1; last = sent }
#endif
    d_step {
        write_to(store);
        must(exactly_once_in_order, lost == 0 || length[store] == 0);
        block[store * CAPACITY + length[store]] = sent;
        dropcount[store] = dropcount[store] + lost;
        lost = 0
    }
    d_step {
        length[store]++;
        store_gen[store] = next_gen(gen[store]);
        store_len[store] = length[store];
        last = sent;
        placing = false;
        ledger
    }
}

inline rotate_store()
{
    if
    :: !wrong(ROTATE_WITHOUT_RECLAIM) -> reclaim()
    :: else
    fi;
    if
    :: hold == NONE && length[store] > 0 -> rotate_buffers()
    :: else
    fi
}

inline finish()
{
    rotate_store();
    if
    :: due == NONE && length[store] > 0 -> buffer_full()
    :: else
    fi;
    told = wrong(FINISHED_BEFORE_TAIL);
    ending = true
}

/* Here a flush counts the packets that it discards as lost, since the ledger, which begins anew, would tell nobody. */
inline flush()
{
    reclaim();
    if
    :: !assigned[store] || wrong(FLUSH_ASSIGNED) ->
        lost = lost + length[store] + dropcount[store];
        last = last - length[store] - dropcount[store];
        balance = balance - length[store];
        n = store_len[store];
        begin_store();
        store_len[store] = (wrong(FLUSH_KEEPS_STORE_LEN) -> n : 0)
    :: else
    fi
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
    d_step {
        ledger;
        write_to(b);
        if
        :: !wrong(ASSIGN_BEFORE_LENGTH) -> kernel_len[b] = length[b]
        :: else
        fi;
        assigned[b] = true;
        owes[at(0, b)] = listed[0];
        owes[at(1, b)] = listed[1];
        next_sequence = 1 - next_sequence;
        gen[b] = next_gen(gen[b])
    }
    d_step {
        producer_drained || wrong(NO_FENCE_PRODUCER);
        if
        :: wrong(NO_WAKE_WHEN_FULL) && due == store
        :: else -> wake(0); wake(1)
        fi;
        if
        :: wrong(ASSIGN_BEFORE_LENGTH) -> kernel_len[b] = length[b]
        :: else
        fi;
        due = NONE
    }
}

inline add_reader(r)
{
    user_gen[at(r, 0)] = (wrong(JOIN_OLD_GENERATION) -> 0 : gen[0]);
    user_gen[at(r, 1)] = (wrong(JOIN_OLD_GENERATION) -> 0 : gen[1]);
    sequence[r] = next_sequence;
    expected[r] = last + 1; /* or the first packet in the store, since it will be assigned that */
    if
    :: !assigned[store] -> expected[r] = last + 1 - length[store] - dropcount[store]
    :: else
    fi;
    listed[r] = true
}

inline remove_reader(r)
{
    if
    :: wrong(LEAVE_WITHOUT_LOOK) -> reclaim()
    :: else -> look_at_reader(r, 0); look_at_reader(r, 1)
    fi;
    listed[r] = false;
    if
    :: wrong(LEAVE_KEEPS_OWING)
    :: else ->
        owes[at(r, 0)] = false;
        owes[at(r, 1)] = false;
        reclaim();
        user_gen[at(r, 0)] = 0; /* from here on, room for another reader */
        user_gen[at(r, 1)] = 0;
        announced[r] = false;
        sleeping[r] = false;
        bell[r] = false;
        sequence[r] = 0;
        expected[r] = 0;
        gone[r] = false
    fi
}

#define idle (due == NONE && !placing && producer_drained) /* its next store does not overtake the last */
#define busy (!quiet && !ending)
#if MUTATE == ROTATE_WITHOUT_RECLAIM
#define worth_a_tick (hold == NONE && length[store] > 0)
#else
#define worth_a_tick (hold == NONE && length[store] > 0 || hold != NONE && can_free_buffer(hold))
#endif

active proctype producer()
{
    {
    d_step { begin_store() }
end:
    do
    :: due != NONE -> assign(due)
    :: due == NONE && placing && producer_drained -> appended()
    :: d_step { idle && busy && sent < PACKETS -> place_for(1) }
    :: d_step { idle && busy && sent < PACKETS -> place_for(CAPACITY) } /* too large for what is left */
    :: d_step { idle && worth_a_tick -> rotate_store() } /* a timeout, immediate mode, or a reader's wish */
    :: d_step { idle && busy && FLUSH && length[store] > 0 -> flush() }
    :: d_step { idle && !listed[0] && !gone[0] -> add_reader(0) }
    :: d_step { idle && !listed[1] && !gone[1] && (listed[0] || gone[0]) && READERS > 1 -> add_reader(1) }
    :: d_step { idle && gone[0] && listed[0] -> remove_reader(0) }
    :: d_step { idle && gone[1] && listed[1] -> remove_reader(1) }
    :: d_step { idle && busy -> finish() }
    :: d_step { idle && busy -> quiet = true }
    :: idle && ending -> break
    od;
#if MUTATE == LET_GO_BEFORE_FINISHED
    let_go = true;
#endif
    told = true;
    d_step {
        producer_drained || wrong(NO_FENCE_FINISH);
        if
        :: wrong(FINISH_UNTOLD)
        :: else -> wake(0); wake(1)
        fi
    };
    if
    :: producer_drained -> let_go = true
    :: spared = true /* it waits for what readers keep, as long as they like: they have been told, and have ended */
    fi
    } unless { killed }
}

/* ======== A reader: segment_reader.pyx, by its names ======== */

#define assigned_to_me (kernel_gen[b] != user_gen[at(r, b)])
#define may_look (!holds[b] && (VIEWS || !holds[other(b)]))

inline read_packets()
{
    n = 0;
    do
    :: n < count ->
        must(exactly_once_in_order, block[b * CAPACITY + n] == expected[r] + (n == 0 -> dropcount[b] : 0));
        expected[r] = block[b * CAPACITY + n] + 1;
        n++
    :: else -> break
    od;
    count = 0
}

inline give_back(which)
{
    user_gen[at(r, which)] = taken[which];
    given_back[which] = true;
    holds[which] = false;
    taken[which] = 0
}

proctype reader(bit r)
{
    bit b;                      /* whose turn it is */
    bool holds[2];              /* it has taken that buffer, and has not given it back */
    byte taken[2];              /* as which generation */
    bool ready;                 /* the doorbell is empty, and it has announced itself: it looks once more */
end_joining:
    listed[r] && !gone[r];
    {
    b = sequence[r];
look:
    if
    :: d_step { holds[0] -> give_back(0) }; goto look
    :: d_step { holds[1] -> give_back(1) }; goto look
    :: may_look && assigned_to_me -> goto take
    :: d_step { may_look && !assigned_to_me -> blocked[r] = !DOORBELL }
    fi;
#if DOORBELL
    if
    :: finished -> goto found_finished
    :: !finished && hung_up -> goto found_dead /* the hang-up was looked at first, then the state */
    :: !finished /* nor was it told of a hang-up */
    fi;
#if MUTATE == STATE_BEFORE_HANG_UP
    if
    :: hung_up -> goto found_dead
    :: true
    fi;
#endif
    if
    :: !ready && !announced[r] -> goto look /* it spins */
    :: !ready ->
        d_step { ready = true; bell[r] = wrong(LOOK_BEFORE_BELL) && bell[r]; announced[r] = true }
        reader_drained(r) || wrong(NO_FENCE_READER);
        if
        :: wrong(NO_LOOK_AGAIN) -> blocked[r] = true
        :: else -> goto look
        fi
    :: d_step { ready -> blocked[r] = true; bell[r] = !wrong(LOOK_BEFORE_BELL) && bell[r] }
    fi;
    ready = false;
poll:
    if
    :: d_step { bell[r] -> blocked[r] = false } /* the bell is emptied before the next poll, or by an event loop */
    :: d_step { hung_up -> blocked[r] = false }
    :: d_step { holds[other(b)] -> give_back(other(b)) }; goto poll
    :: quiet && expected[r] == last + 1 -> goto done
    fi;
    if
    :: announced[r] = false
    :: true /* it comes back without a buffer, and stays announced: an event loop polls for it */
    fi;
#if MUTATE == GIVE_UP_UNANNOUNCED
    bell[r] = false;
    if
    :: assigned_to_me
    :: else -> blocked[r] = true; goto poll
    fi;
#endif
    goto look;
#else
wait:
    if
    :: d_step { assigned_to_me -> blocked[r] = false }
    :: d_step { finished -> blocked[r] = false }; goto found_finished
    :: d_step { hung_up && !finished -> blocked[r] = false }; goto found_dead
    :: d_step { holds[other(b)] -> give_back(other(b)) }; goto wait
    :: quiet && expected[r] == last + 1 -> goto done
    fi;
#endif
take:
    if
    :: d_step { DOORBELL -> ready = false; announced[r] = false }
    :: ready = false /* it was announced by a wait that came back without a buffer */
    fi;
#if MUTATE == ACKNOWLEDGE_UNREAD
    d_step { user_gen[at(r, b)] = kernel_gen[b]; given_back[b] = true }
#endif
    d_step {
        taken[b] = kernel_gen[b];
        count = kernel_len[b];
        must(exactly_once_in_order, count > 0);
        read_packets();
        holds[b] = true;
        b = other(b)
    }
    goto look;
found_finished:
    if
    :: assigned_to_me && !wrong(NO_LOOK_AFTER_END) -> goto take
    :: else -> goto over
    fi;
found_dead:
    if
    :: assigned_to_me && !wrong(NO_LOOK_AFTER_END) -> goto take
    :: else
    fi;
    must(ends_for_its_reason, killed && !finished);
    if
    :: d_step { store_gen[b] == next_gen(user_gen[at(r, b)]) || wrong(STORE_LEN_WITHOUT_GENERATION) ->
        count = store_len[b]; read_packets() }
    :: else
    fi;
over:
    must(all_and_no_more, expected[r] == last + 1);
    goto done
    } unless {
        d_step {
            dies[r] ->
            dies[r] = false;
            gone[r] = true;
            b = 0; ready = false; holds[0] = false; holds[1] = false; taken[0] = 0; taken[1] = 0
        }
    };
    goto end_joining;
done:
    skip
}

init { atomic { run reader(0); run reader(1) } }
