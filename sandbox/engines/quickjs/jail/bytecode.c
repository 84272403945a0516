/* Packs bytecode for the store. Bytecode contains the source text of each function, for toString(), so nested functions
 * repeat text. Packing replaces text that is also in the program's source by a reference. It finds such text with a
 * rolling hash, as rsync does (Tridgell and Mackerras, "The rsync algorithm", 1996). The time is linear for any input.
 *
 * Format: the unpacked size, then parts. A part is: size of a literal, literal, offset in the source, size of the copy.
 * Numbers are 32-bit, big-endian. */
#include <string.h>

#include "cell.h"

enum { BLOCK_BYTES = 64, NUMBER_BYTES = 4 };

static const uint32_t factor = 0x01000193; /* the FNV-1 prime, an odd number without a pattern */

static uint32_t hash_of(const char *block)
{
    uint32_t hash = 0;
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        hash = hash * factor + (unsigned char)block[i];
    return hash;
}

/* Return the weight of a block's first byte in its hash. */
static uint32_t weight_of_first(void)
{
    uint32_t power = 1;
    for (size_t i = 1; i < BLOCK_BYTES; i++)
        power *= factor;
    return power;
}

/* Return the hash of the block that starts one byte later. `first`: see weight_of_first. */
static uint32_t rolled(uint32_t hash, char out, char in, uint32_t first)
{
    return (hash - (unsigned char)out * first) * factor + (unsigned char)in;
}

/* Maps a block's hash to its offset in the source, plus 1; 0: none. On a collision, the later block is kept. */
struct blocks {
    uint32_t *slots;
    unsigned shift;
};

static uint32_t *slot_of(const struct blocks *blocks, uint32_t hash)
{
    return &blocks->slots[(hash * 0x9e3779b1u) >> blocks->shift];
}

static bool index_blocks(struct text source, struct blocks *blocks)
{
    unsigned bits = 1;
    while ((size_t)BLOCK_BYTES << bits < 2 * source.size)
        bits++;
    blocks->shift = 32 - bits;
    blocks->slots = memory_functions.js_calloc(NULL, (size_t)1 << bits, sizeof *blocks->slots);
    if (blocks->slots == NULL)
        return false;
    for (size_t at = 0; at + BLOCK_BYTES <= source.size; at += BLOCK_BYTES)
        *slot_of(blocks, hash_of(source.start + at)) = (uint32_t)at + 1;
    return true;
}

static char *put_number(char *to, size_t number)
{
    to[0] = (char)(number >> 24), to[1] = (char)(number >> 16), to[2] = (char)(number >> 8), to[3] = (char)number;
    return to + NUMBER_BYTES;
}

static char *put_part(char *to, const char *literal, size_t literal_bytes, size_t place, size_t bytes)
{
    to = put_number(to, literal_bytes);
    memcpy(to, literal, literal_bytes);
    return put_number(put_number(to + literal_bytes, place), bytes);
}

/* Return the length of the common prefix. */
static size_t common(struct text source, size_t place, struct text bytecode, size_t at)
{
    size_t bytes = 0;
    while (place + bytes < source.size && at + bytes < bytecode.size &&
           source.start[place + bytes] == bytecode.start[at + bytes])
        bytes++;
    return bytes;
}

/* Return packed bytecode; an empty text if an allocation fails. */
struct text bytecode_pack(struct text bytecode, struct text source)
{
    struct blocks blocks;
    /* A part adds 12 bytes, and each part except the last replaces at least 64. */
    char *packed = memory_functions.js_malloc(NULL, bytecode.size + 4 * NUMBER_BYTES);
    if (packed == NULL || !index_blocks(source, &blocks))
        return TEXT("");
    char *end = put_number(packed, bytecode.size);
    const uint32_t first = weight_of_first();
    uint32_t hash = 0;
    size_t done = 0, at = 0; /* number of packed bytes; start of the block of `hash` */
    bool is_current = false; /* whether `hash` is the hash of the previous block */
    while (at + BLOCK_BYTES <= bytecode.size) {
        const char *block = bytecode.start + at;
        hash = is_current ? rolled(hash, block[-1], block[BLOCK_BYTES - 1], first) : hash_of(block);
        is_current = true;
        uint32_t place = *slot_of(&blocks, hash);
        size_t bytes = place == 0 ? 0 : common(source, place - 1, bytecode, at);
        if (bytes < BLOCK_BYTES) {
            at++;
            continue;
        }
        size_t from = place - 1;
        while (from > 0 && at > done && source.start[from - 1] == bytecode.start[at - 1])
            from--, at--, bytes++;
        end = put_part(end, bytecode.start + done, at - done, from, bytes);
        done = at = at + bytes;
        is_current = false;
    }
    end = put_part(end, bytecode.start + done, bytecode.size - done, 0, 0);
    memory_functions.js_free(NULL, blocks.slots);
    return (struct text){packed, (size_t)(end - packed)};
}

/* A part of packed bytecode. */
struct part {
    struct text literal, copy;
};

static bool take_number(struct text *rest, size_t *number)
{
    const unsigned char *at = (const unsigned char *)rest->start;
    if (rest->size < NUMBER_BYTES)
        return false;
    *number = (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
    *rest = (struct text){rest->start + NUMBER_BYTES, rest->size - NUMBER_BYTES};
    return true;
}

/* Remove the next part from `rest`. False if there is none, or if it is out of bounds. */
static bool take_part(struct text *rest, struct text source, struct part *part)
{
    size_t literal, place, bytes;
    if (!take_number(rest, &literal) || literal > rest->size)
        return false;
    part->literal = (struct text){rest->start, literal};
    *rest = (struct text){rest->start + literal, rest->size - literal};
    if (!take_number(rest, &place) || !take_number(rest, &bytes) || place > source.size || bytes > source.size - place)
        return false;
    part->copy = (struct text){source.start + place, bytes};
    return true;
}

/* Unpack the result of bytecode_pack. False if the bytes are invalid, or if an allocation fails. */
bool bytecode_unpack(struct text packed, struct text source, struct text *bytecode)
{
    struct part part;
    size_t size, found = 0;
    if (!take_number(&packed, &size))
        return false;
    for (struct text rest = packed; rest.size > 0; found += part.literal.size + part.copy.size)
        if (!take_part(&rest, source, &part))
            return false;
    if (found != size)
        return false;
    char *unpacked = memory_functions.js_malloc(NULL, size), *to = unpacked;
    if (unpacked == NULL)
        return false;
    *bytecode = (struct text){unpacked, size};
    while (packed.size > 0) {
        take_part(&packed, source, &part);
        memcpy(to, part.literal.start, part.literal.size);
        memcpy(to + part.literal.size, part.copy.start, part.copy.size);
        to += part.literal.size + part.copy.size;
    }
    return true;
}
