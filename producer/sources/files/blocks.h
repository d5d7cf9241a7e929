/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The byte order of pcapng blocks: reading numbers in either order, and making a block of a big-endian section
 * little-endian (draft-ietf-opsawg-pcapng, sections 3.5 and 4).
 *
 * A caller has checked the length of a block as a whole.  Whatever lengths are inside the block, nothing outside of it is
 * read or written.
 */
#ifndef ZBUF_BLOCKS_H
#define ZBUF_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    BLOCK_INTERFACE = 1,
    BLOCK_OLD_PACKET = 2,
    BLOCK_SIMPLE_PACKET = 3,
    BLOCK_NAMES = 4,
    BLOCK_STATISTICS = 5,
    BLOCK_PACKET = 6,
    BLOCK_JOURNAL = 9,
    BLOCK_SECRETS = 10,
    BLOCK_CUSTOM = 0x0BAD,
    BLOCK_CUSTOM_NOT_COPIED = 0x40000BAD,
    BLOCK_SECTION = 0x0A0D0D0A, /* the same in both byte orders */
};

enum {
    OPTION_END = 0,
    OPTION_CUSTOM = 2988, /* this one and the next three begin with a Private Enterprise Number */
    OPTION_CUSTOM_BINARY = 2989,
    OPTION_CUSTOM_NOT_COPIED = 19372,
    OPTION_CUSTOM_BINARY_NOT_COPIED = 19373,
    PACKET_FLAGS = 2,
    PACKET_DROPCOUNT = 4,
    INTERFACE_SPEED = 8,
    INTERFACE_TSRESOL = 9,
    INTERFACE_TSOFFSET = 14,
};

static inline uint16_t load16(const uint8_t *at, bool swapped)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return swapped ? __builtin_bswap16(value) : value;
}

static inline uint32_t load32(const uint8_t *at, bool swapped)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return swapped ? __builtin_bswap32(value) : value;
}

static inline uint64_t load64(const uint8_t *at, bool swapped)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return swapped ? __builtin_bswap64(value) : value;
}

static inline void store32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline uint32_t padded(uint32_t length_bytes)
{
    return (length_bytes + 3u) & ~3u;
}

static inline void swap16_at(uint8_t *at)
{
    uint16_t value = load16(at, true);
    memcpy(at, &value, sizeof value);
}

static inline void swap32_at(uint8_t *at)
{
    store32(at, load32(at, true));
}

static inline void swap64_at(uint8_t *at)
{
    uint64_t value = load64(at, true);
    memcpy(at, &value, sizeof value);
}

/* ---- options -------------------------------------------------------------------------------------------------------- */

/* Read the head of an option.  Returns the option behind it, or `end`; NULL at the end of the list, or if the option is
 * longer than the list. */
static inline const uint8_t *next_option(const uint8_t *option, const uint8_t *end, bool swapped, uint16_t *code,
                                         uint16_t *length)
{
    if (end - option < 4)
        return NULL;
    *code = load16(option, swapped);
    *length = load16(option + 2, swapped);
    if (*code == OPTION_END || *length > end - option - 4)
        return NULL;
    /* the last option may lack its padding, which nobody reads */
    return (uint32_t)(end - option) - 4 < padded(*length) ? end : option + 4 + padded(*length);
}

static inline bool is_custom_option(uint16_t code)
{
    return code == OPTION_CUSTOM || code == OPTION_CUSTOM_BINARY || code == OPTION_CUSTOM_NOT_COPIED ||
           code == OPTION_CUSTOM_BINARY_NOT_COPIED;
}

/* What the value of an option is: 'l' is 32-bit numbers, 'q' 64-bit ones, 'c' a 32-bit one and then bytes, 'b' bytes. */
static inline char option_form(uint32_t kind, uint16_t code)
{
    if (is_custom_option(code))
        return 'c';
    if (kind == BLOCK_INTERFACE)
        return code == INTERFACE_SPEED || code == INTERFACE_TSOFFSET || code == 16 || code == 17 ? 'q'
               : code == 10 ? 'l'
                            : 'b'; /* 10 is if_tzone; 16 and 17 are the speeds of the two directions */
    if (kind == BLOCK_PACKET)
        return code == PACKET_FLAGS || code == 6 ? 'l' : code == PACKET_DROPCOUNT || code == 5 ? 'q' : 'b';
    return 'b';
}

static inline void swap_value(uint8_t *value, uint16_t length, char form)
{
    if (form == 'c' && length >= 4)
        swap32_at(value);
    for (uint16_t at = 0; form == 'l' && at + 4 <= length; at += 4)
        swap32_at(value + at);
    for (uint16_t at = 0; form == 'q' && at + 8 <= length; at += 8)
        swap64_at(value + at);
}

/* Make a list of options little-endian.  An option that is longer than the list, and all behind it, becomes zeros. */
static inline void swap_options(uint8_t *option, uint8_t *end, uint32_t kind)
{
    uint16_t code, length;
    const uint8_t *next;

    while ((next = next_option(option, end, true, &code, &length)) != NULL) {
        swap_value(option + 4, length, option_form(kind, code));
        swap16_at(option);
        swap16_at(option + 2);
        option += next - option;
    }
    memset(option, 0, (size_t)(end - option));
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

/* Make the records of a Name Resolution Block little-endian: their types and lengths, since addresses have no byte order.
 * Returns where the block's options begin. */
static inline uint8_t *swap_names(uint8_t *at, uint8_t *end)
{
    uint16_t code, length;
    const uint8_t *next;

    while ((next = next_option(at, end, true, &code, &length)) != NULL) {
        swap16_at(at);
        swap16_at(at + 2);
        at += next - at;
    }
    return end - at >= 4 ? at + 4 : end; /* nrb_record_end is zeros */
}

/* The same for a Decryption Secrets Block. */
static inline uint8_t *swap_secrets(uint8_t *at, uint8_t *end)
{
    uint32_t length = load32(at + 4, true);
    swap32_at(at);
    swap32_at(at + 4);
    return length <= (uint32_t)(end - at) - 8 && padded(length) <= (uint32_t)(end - at) - 8 ? at + 8 + padded(length)
                                                                                            : end;
}

/* The least length of a block of this type, in bytes; 0 if its structure is not known. */
static inline uint32_t block_least(uint32_t kind)
{
    switch (kind) {
    case BLOCK_SECTION:
        return 28;
    case BLOCK_INTERFACE:
        return 20;
    case BLOCK_PACKET:
    case BLOCK_OLD_PACKET:
        return 32;
    case BLOCK_SIMPLE_PACKET:
    case BLOCK_CUSTOM:
    case BLOCK_CUSTOM_NOT_COPIED:
        return 16;
    case BLOCK_STATISTICS:
        return 24;
    case BLOCK_SECRETS:
        return 20;
    case BLOCK_NAMES:
    case BLOCK_JOURNAL:
        return 12;
    default:
        return 0;
    }
}

/* Make a big-endian block little-endian: an Interface Description, names, secrets, or a custom block.  The body of any other
 * block stays as it is.  total_bytes is the length at both ends of the block, a multiple of 4 and block_least() or more. */
static inline void swap_block(uint8_t *block, uint32_t total_bytes)
{
    uint8_t *body = block + 8, *end = block + total_bytes - 4, *options = end;
    uint32_t kind = load32(block, true);

    swap32_at(block);
    store32(block + 4, total_bytes);
    store32(end, total_bytes);
    switch (kind) {
    case BLOCK_INTERFACE:
        swap16_at(body);
        swap16_at(body + 2);
        swap32_at(body + 4);
        options = body + 8;
        break;
    case BLOCK_NAMES:
        options = swap_names(body, end);
        break;
    case BLOCK_SECRETS:
        options = swap_secrets(body, end);
        break;
    case BLOCK_CUSTOM:
    case BLOCK_CUSTOM_NOT_COPIED:
        swap32_at(body);
        break;
    }
    swap_options(options, end, kind);
}

#endif /* ZBUF_BLOCKS_H */
