/* The engine's memory. Blocks of up to 32 KiB are cut from chunks; larger ones are mappings of their own. A freed block
 * goes to the list of its size, and from there to the next who asks for that size; above 1 MiB, to the kernel. So a child
 * needs three system calls for memory. RLIMIT_AS is the limit: a refusal is the kernel's, and is noted, so that no text
 * that a program throws can pretend one (context.c). One thread, no locks.
 *
 * A block's capacity stands in the 8 bytes before it. Capacities are 8 above a multiple of 16, so that blocks are aligned
 * to 16 bytes. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cell.h"

/* With the address sanitizer: what nobody may touch. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define HIDE(at, size) ASAN_POISON_MEMORY_REGION(at, size)
#define SHOW(at, size) ASAN_UNPOISON_MEMORY_REGION(at, size)
#else
#define HIDE(at, size) ((void)0)
#define SHOW(at, size) ((void)0)
#endif

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
static bool refused;

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
    SHOW(block, *capacity_of(block));
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
            SHOW(block, sizeof *block);
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

static void *take(void *opaque, size_t size)
{
    (void)opaque;
    unsigned list = LISTS;
    if (size > PTRDIFF_MAX - MAPPING_BYTES) {
        refused = true;
        return NULL;
    }
    size_t capacity = size <= LISTED_BYTES ? round_up(size, &list) : size;
    if (list < LISTS && lists[list] != NULL) {
        struct freed *block = lists[list];
        SHOW(block, *capacity_of(block));
        lists[list] = block->next;
        return block;
    }
    void *block = new_block(size, capacity);
    if (block == NULL && unmap_lists())
        block = new_block(size, capacity);
    if (block == NULL)
        refused = true;
    return block;
}

static void *take_zeroed(void *opaque, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        bytes = SIZE_MAX; /* refused */
    void *block = take(opaque, bytes);
    if (block != NULL && bytes <= LISTED_BYTES)
        memset(block, 0, bytes);
    return block;
}

static void give_back(void *opaque, void *block)
{
    (void)opaque;
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
    SHOW(block, capacity);
    freed->next = lists[list];
    lists[list] = freed;
    HIDE(block, capacity);
}

/* Grow or shrink a mapping of its own, without a copy. */
static void *remap_block(void *block, size_t size)
{
    char *mapping;
    size_t before = *capacity_of(block) + MAPPING_BYTES;
    do
        mapping = mremap((char *)block - MAPPING_BYTES, before, size + MAPPING_BYTES, MREMAP_MAYMOVE);
    while (mapping == MAP_FAILED && unmap_lists());
    if (mapping == MAP_FAILED) {
        refused = true;
        return NULL;
    }
    *capacity_of(mapping + MAPPING_BYTES) = size;
    return mapping + MAPPING_BYTES;
}

static void *resize(void *opaque, void *block, size_t size)
{
    if (block == NULL)
        return take(opaque, size);
    size_t capacity = *capacity_of(block);
    if (size <= capacity && size >= capacity / 2)
        return block;
    if (size > LISTED_BYTES && capacity > LISTED_BYTES + HEADER_BYTES && size <= PTRDIFF_MAX - MAPPING_BYTES)
        return remap_block(block, size);
    void *other = take(opaque, size);
    if (other == NULL)
        return NULL;
    memcpy(other, block, size < capacity ? size : capacity);
    give_back(opaque, block);
    return other;
}

static size_t usable_size(const void *block)
{
    return block == NULL ? 0 : *capacity_of(block);
}

const JSMallocFunctions memory_functions = {take_zeroed, take, give_back, resize, usable_size};

/* Whether the kernel has refused this process memory. */
bool memory_was_refused(void)
{
    return refused;
}

/* Give back what the start used and nobody uses any more: a fork copies the tables of each page. */
void memory_trim(void)
{
    unmap_lists();
}

/* Return a block. A process without the room ends. */
char *memory_take(size_t size)
{
    char *block = take(NULL, size);
    if (block == NULL)
        _exit(EXIT_NO_MEMORY);
    HIDE(block + size, *capacity_of(block) - size);
    return block;
}

/* Return the parts as one text with a NUL behind it, as the engine wants it. */
struct text memory_join(const struct text *parts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].size;
    char *joined = memory_take(size + 1), *end = joined;
    for (size_t i = 0; i < count; i++) {
        memcpy(end, parts[i].start, parts[i].size);
        end += parts[i].size;
    }
    *end = 0;
    return (struct text){joined, size};
}

/* Free a text that memory_join or memory_take made. */
void memory_free(struct text text)
{
    give_back(NULL, (char *)text.start);
}
