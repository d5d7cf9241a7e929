# The filter programs of a descriptor: one for all interfaces, or one for each, since link types need different ones.
#
# Plain structures and inline functions, so that the packet path calls no other module.

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from zbuf.producer.filters cimport copy_program
from zbuf.producer.pcap cimport bpf_insn

cdef struct filter_programs:
    bpf_insn *common        # of interfaces that have none of their own; NULL accepts everything
    bpf_insn **own          # by interface
    uint32_t count          # how many have one of their own: 0 while one program serves all


cdef inline bpf_insn *program_for(const filter_programs *programs, uint32_t interface) noexcept nogil:
    """The program for the packets of an interface; NULL accepts them all."""
    return programs.own[interface] if interface < programs.count else programs.common


cdef inline bint has_programs(const filter_programs *programs) noexcept nogil:
    """Whether there is any packet that they could refuse."""
    return programs.common != NULL or programs.count != 0


cdef inline void free_programs(filter_programs *programs) noexcept:
    cdef uint32_t at
    for at in range(programs.count):
        free(programs.own[at])
    free(programs.own)
    free(programs.common)
    programs.own = NULL
    programs.common = NULL
    programs.count = 0


cdef inline int set_programs(filter_programs *programs, wanted) except -1:
    """Replace the programs; where one of the new ones is not valid (FilterError), the old ones stay.

    Args:
        wanted: one program (bytes) for all interfaces, or a sequence of them, one for each.
    """
    cdef filter_programs made
    made.common, made.own, made.count = NULL, NULL, 0
    if isinstance(wanted, bytes):
        made.common = copy_program(wanted)
    else:
        made.common = copy_program(bytes([6, 0, 0, 0, 0, 0, 0, 0]))
        made.own = <bpf_insn **>calloc(max(len(wanted), 1), sizeof(bpf_insn *))
        try:
            if made.own == NULL:
                raise MemoryError
            for program in wanted:
                made.own[made.count] = copy_program(program)
                made.count += 1
        except BaseException:
            free_programs(&made)
            raise
    free_programs(programs)
    programs[0] = made
    return 0
