# The filter programs of a descriptor: one for all interfaces, or one for each, since link types need different ones.
#
# Plain structures and inline functions, so that the packet path calls no other module.

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from zbuf.producer.filters cimport packet_filter, packet_filter_free, packet_filter_run, set_program
from zbuf.shared.memory.abi cimport zbuf_packet

cdef struct filter_programs:
    packet_filter common    # for interfaces that have none of their own
    packet_filter *own      # by interface
    uint32_t count          # how many have one of their own: 0 while one program serves all


cdef inline uint32_t run_programs(const filter_programs *programs, const zbuf_packet *packet) noexcept nogil:
    """How many bytes of a packet its interface's program wants; 0 where it refuses the packet."""
    cdef uint32_t interface = packet.interface_id
    if interface < programs.count:
        return packet_filter_run(&programs.own[interface], packet)
    return packet_filter_run(&programs.common, packet)


cdef inline bint has_programs(const filter_programs *programs) noexcept nogil:
    """Whether there is any packet that they could refuse."""
    return programs.common.program != NULL or programs.count != 0


cdef inline void free_programs(filter_programs *programs) noexcept:
    cdef uint32_t at
    for at in range(programs.count):
        packet_filter_free(&programs.own[at])
    free(programs.own)
    packet_filter_free(&programs.common)
    memset(programs, 0, sizeof(filter_programs))


cdef inline int set_programs(filter_programs *programs, wanted) except -1:
    """Replace the programs; where one of the new ones is not valid (FilterError), the old ones stay.

    Args:
        wanted: one program (bytes) for all interfaces, or a sequence of them, one for each.
    """
    cdef filter_programs made
    memset(&made, 0, sizeof(made))
    try:
        if isinstance(wanted, bytes):
            set_program(&made.common, wanted)
        else:
            set_program(&made.common, bytes([6, 0, 0, 0, 0, 0, 0, 0]))
            made.own = <packet_filter *>calloc(max(len(wanted), 1), sizeof(packet_filter))
            if made.own == NULL:
                raise MemoryError
            for program in wanted:
                set_program(&made.own[made.count], program)
                made.count += 1
    except BaseException:
        free_programs(&made)
        raise
    free_programs(programs)
    programs[0] = made
    return 0
