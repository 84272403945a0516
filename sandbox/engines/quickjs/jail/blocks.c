/* Blocks of memory. Those of up to 32 KiB are cut from chunks; larger ones are mappings of their own. A freed block goes
 * to the list of its size, and from there to the next who asks for that size; above 1 MiB, to the kernel. So a child
 * needs three system calls for memory. One thread, no locks.
 *
 * A block's capacity stands in the 8 bytes before it. Capacities are 8 above a multiple of 16, so that blocks are aligned
 * to 16 bytes. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cell.h"

#ifdef __SANITIZE_ADDRESS__

/* The sanitizer sees what is outside of its own blocks alone. */
#include <malloc.h>

void *blocks_take(size_t size)
{
    return malloc(size);
}

void *blocks_take_zeroed(size_t size)
{
    return calloc(1, size);
}

void blocks_give_back(void *block)
{
    free(block);
}

void *blocks_resize(void *block, size_t size)
{
    return realloc(block, size);
}

size_t blocks_capacity(const void *block)
{
    return malloc_usable_size((void *)block);
}

void blocks_trim(void)
{
}

#else

enum {
    HEADER_BYTES = 8,
    FINE_BYTES = 1024,         /* up to here sizes go by 16 bytes, above there are 8 in each doubling */
    CUT_BYTES = 32 * 1024,     /* up to here blocks are cut from chunks */
    LISTED_BYTES = 1 << 20,    /* up to here freed blocks are kept */
    CHUNK_BYTES = 256 * 1024,
    MAPPING_BYTES = 16,        /* what stands before a block that is a mapping of its own: 8 bytes, and the header */
    FINE_LISTS = FINE_BYTES / 16 + 1,
    LISTS = FINE_LISTS + 10 * 8,
};

struct freed {
    struct freed *next;
};

static struct freed *lists[LISTS];
static char *chunk, *chunk_end;

static size_t *capacity_of(const void *block)
{
    return (size_t *)((const char *)block - HEADER_BYTES);
}

/* Return the capacity of a block for this size, and which list it belongs to. Not for more than LISTED_BYTES. */
static size_t round_up(size_t size, unsigned *list)
{
    if (size <= FINE_BYTES) {
        *list = (unsigned)(size + 7) / 16;
        return *list * 16 + HEADER_BYTES;
    }
    unsigned doubling = 63 - (unsigned)__builtin_clzll(size - 1), shift = doubling - 3;
    size_t eighths = (size + ((size_t)1 << shift) - 1) >> shift;
    *list = FINE_LISTS + (doubling - 10) * 8 + (unsigned)eighths - 9;
    return (eighths << shift) + HEADER_BYTES;
}

static void *map(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Return a block that is a mapping of its own. All of it is zero. */
static void *map_block(size_t capacity)
{
    char *mapping = map(capacity + MAPPING_BYTES);
    if (mapping == NULL)
        return NULL;
    *capacity_of(mapping + MAPPING_BYTES) = capacity;
    return mapping + MAPPING_BYTES;
}

static void unmap_block(void *block)
{
    munmap((char *)block - MAPPING_BYTES, *capacity_of(block) + MAPPING_BYTES);
}

static void *cut_block(size_t capacity)
{
    if ((size_t)(chunk_end - chunk) < HEADER_BYTES + capacity) {
        char *next = map(CHUNK_BYTES);
        if (next == NULL)
            return NULL;
        chunk = next + HEADER_BYTES; /* so that the first block is aligned */
        chunk_end = next + CHUNK_BYTES;
    }
    char *block = chunk + HEADER_BYTES;
    chunk = block + capacity;
    *capacity_of(block) = capacity;
    return block;
}

/* Give the kernel back the mappings on the lists. Whether there were any. */
static bool unmap_lists(void)
{
    bool any = false;
    unsigned first;
    round_up(CUT_BYTES + 1, &first);
    for (unsigned i = first; i < LISTS; i++) {
        while (lists[i] != NULL) {
            struct freed *block = lists[i];
            lists[i] = block->next;
            unmap_block(block);
            any = true;
        }
    }
    return any;
}

static void *new_block(size_t size, size_t capacity)
{
    return size <= CUT_BYTES ? cut_block(capacity) : map_block(capacity);
}

/* Return a block of at least this size, or NULL if the kernel refuses it. */
void *blocks_take(size_t size)
{
    unsigned list = LISTS;
    if (size > PTRDIFF_MAX - MAPPING_BYTES)
        return NULL;
    size_t capacity = size <= LISTED_BYTES ? round_up(size, &list) : size;
    if (list < LISTS && lists[list] != NULL) {
        struct freed *block = lists[list];
        lists[list] = block->next;
        return block;
    }
    void *block = new_block(size, capacity);
    if (block == NULL && unmap_lists())
        block = new_block(size, capacity);
    return block;
}

/* The same, and all of it is zero. */
void *blocks_take_zeroed(size_t size)
{
    void *block = blocks_take(size);
    if (block != NULL && size <= LISTED_BYTES) /* else it is the kernel's, as it came */
        memset(block, 0, size);
    return block;
}

void blocks_give_back(void *block)
{
    if (block == NULL)
        return;
    size_t capacity = *capacity_of(block);
    if (capacity > LISTED_BYTES + HEADER_BYTES) {
        unmap_block(block);
        return;
    }
    unsigned list;
    round_up(capacity - HEADER_BYTES, &list);
    struct freed *freed = block;
    freed->next = lists[list];
    lists[list] = freed;
}

/* Grow or shrink a mapping of its own, without a copy. */
static void *remap_block(void *block, size_t size)
{
    char *mapping;
    size_t before = *capacity_of(block) + MAPPING_BYTES;
    do
        mapping = mremap((char *)block - MAPPING_BYTES, before, size + MAPPING_BYTES, MREMAP_MAYMOVE);
    while (mapping == MAP_FAILED && unmap_lists());
    if (mapping == MAP_FAILED)
        return NULL;
    *capacity_of(mapping + MAPPING_BYTES) = size;
    return mapping + MAPPING_BYTES;
}

/* Return a block with the same content; NULL, with the old block as it was, if the kernel refuses it. */
void *blocks_resize(void *block, size_t size)
{
    if (block == NULL)
        return blocks_take(size);
    size_t capacity = *capacity_of(block);
    if (size <= capacity && size >= capacity / 2)
        return block;
    if (size > LISTED_BYTES && capacity > LISTED_BYTES + HEADER_BYTES && size <= PTRDIFF_MAX - MAPPING_BYTES)
        return remap_block(block, size);
    void *other = blocks_take(size);
    if (other == NULL)
        return NULL;
    memcpy(other, block, size < capacity ? size : capacity);
    blocks_give_back(block);
    return other;
}

size_t blocks_capacity(const void *block)
{
    return block == NULL ? 0 : *capacity_of(block);
}

/* Give back what nobody uses any more: a fork copies the tables of each page. */
void blocks_trim(void)
{
    unmap_lists();
}

#endif
