# Walking the packets of a buffer: zbuf_next_packet(), which knows no prologue, held to what the prologue says.

from libc.stdint cimport uint32_t, uint8_t

from zbuf.shared.memory.abi cimport zbuf_next_packet, zbuf_packet

cdef struct block_limits:
    uint32_t snaplen                # bytes that a packet may have
    uint32_t interfaces             # how many there are


cdef inline uint32_t next_block(const uint8_t *blocks, uint32_t length, uint32_t offset, block_limits limits,
                                zbuf_packet *packet) noexcept nogil:
    """Read the first packet at or after `offset`, passing over blocks of other types.

    Returns where the block after it begins; `length`, with packet.data NULL, where no more packets come; or 0 where no
    whole and possible packet is.
    """
    cdef uint32_t following = zbuf_next_packet(blocks, length, offset, packet)
    if following == 0 or packet.data == NULL:
        return following
    if packet.caplen > limits.snaplen or packet.interface_id >= limits.interfaces:
        return 0
    return following
