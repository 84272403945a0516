/* The engine's allocator. Blocks of up to 32 KiB are cut from chunks. Larger blocks are separate mappings. A freed
 * block goes to the free list of its size; above 1 MiB, it is unmapped. So a child needs three system calls for
 * memory. RLIMIT_AS is the limit. The allocator records when the kernel refuses memory, so that no text that a
 * program throws can forge it (context.c). There is only one thread, so there are no locks.
 *
 * Placement: a child shares the zygote's pages until it writes to them (copy-on-write), and each first write to a
 * page costs a copy. So blocks of the start to which many runs write are contiguous in the hot region, together with
 * all allocations of a child. Blocks to which only some runs write are in the warm region, all other blocks of the
 * start in the cold region. A child does not reuse a warm or cold block. The start allocates the same blocks in the
 * same order each time, so blocks are identified by number: placement.h lists the hot and warm ones (`make
 * placement`). If the table is for another engine or another start, runs work but cost more.
 *
 * A block's capacity is in the 8 bytes before it. Capacities are 8 more than a multiple of 16, so that blocks are
 * aligned to 16 bytes. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cell.h"
#include "placement.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* not every C library defines it */
#endif

/* With the address sanitizer: mark memory that must not be accessed. */
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
    FINE_BYTES = 1024,         /* size classes are multiples of 16 up to here; above, there are 8 for each doubling */
    CUT_BYTES = 32 * 1024,     /* largest block that is cut from a chunk */
    LISTED_BYTES = 1 << 20,    /* largest block that goes to a free list */
    CHUNK_BYTES = 256 * 1024,
    COLD_BYTES = 7 * CHUNK_BYTES, /* size of the cold region; further blocks of the start are hot */
    AHEAD_BYTES = 12 * 1024,   /* memory that a small run allocates */
    MAPPING_BYTES = 16,        /* bytes before a block that is a separate mapping: 8 bytes, and the header */
    FINE_LISTS = FINE_BYTES / 16 + 1,
    LISTS = FINE_LISTS + 10 * 8,
};

struct freed {
    struct freed *next;
};

struct region {
    struct freed *lists[LISTS];
    char *start, *chunk, *chunk_end; /* the current chunk: its start, and its unused rest */
};

static struct region hot, warm, cold;
static bool starting = true;
static unsigned taken; /* number of blocks allocated during the start */
static bool refused;

static size_t *capacity_of(const void *block)
{
    return (size_t *)((const char *)block - HEADER_BYTES);
}

/* Return the capacity of a block for this size, and its free list. For sizes up to LISTED_BYTES. */
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

/* Return a zeroed block that is a separate mapping. */
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

static bool has_room(const struct region *region, size_t capacity)
{
    return (size_t)(region->chunk_end - region->chunk) >= HEADER_BYTES + capacity;
}

static bool add_chunk(struct region *region, size_t size)
{
    char *next = map(size);
    if (next == NULL)
        return false;
    region->start = next;
    region->chunk = next + HEADER_BYTES; /* so that the first block is aligned */
    region->chunk_end = next + size;
    return true;
}

static void *cut_block(struct region *region, size_t capacity)
{
    if (region->start == NULL && !add_chunk(region, region == &cold ? COLD_BYTES : CHUNK_BYTES))
        return NULL;
    if (!has_room(region, capacity))
        region = &hot; /* the other regions have one chunk */
    if (!has_room(region, capacity) && !add_chunk(region, CHUNK_BYTES))
        return NULL;
    char *block = region->chunk + HEADER_BYTES;
    region->chunk = block + capacity;
    *capacity_of(block) = capacity;
    return block;
}

/* Whether the table is for this engine. Whether it is also for this start is known only at the end of the start. */
static bool has_table(void)
{
    return strcmp(PLACEMENT_ENGINE_BUILD, CELL_ENGINE_BUILD) == 0;
}

/* Return the region of the block with this number. Call this with ascending numbers. */
static struct region *placed(unsigned number)
{
#ifdef TRACE
    (void)number;
    return &cold; /* all blocks are traced */
#else
    static size_t range;
    const size_t ranges = sizeof placement / sizeof *placement;
    if (!has_table())
        return &hot;
    while (range < ranges && number >= placement[range].first + placement[range].count)
        range++;
    if (range == ranges || number < placement[range].first)
        return &cold;
    return placement[range].by_many ? &hot : &warm;
#endif
}

/* Return the region of the next block. Separate mappings use the free lists of the hot region. */
static struct region *next_region(size_t size)
{
    if (!starting)
        return &hot;
    struct region *region = placed(taken++);
    return size > CUT_BYTES ? &hot : region;
}

/* Return the region that contains a block. */
static struct region *region_of(const void *block)
{
    struct region *const one_chunk[] = {&warm, &cold};
    for (int i = 0; i < 2; i++) {
        const struct region *region = one_chunk[i];
        if ((uintptr_t)block - (uintptr_t)region->start < (uintptr_t)(region->chunk_end - region->start))
            return one_chunk[i];
    }
    return &hot;
}

/* Unmap the mappings on the free lists. Return whether there were any. */
static bool unmap_lists(void)
{
    bool any = false;
    unsigned first;
    round_up(CUT_BYTES + 1, &first);
    for (unsigned i = first; i < LISTS; i++) {
        while (hot.lists[i] != NULL) {
            struct freed *block = hot.lists[i];
            SHOW(block, sizeof *block);
            hot.lists[i] = block->next;
            unmap_block(block);
            any = true;
        }
    }
    return any;
}

static void *new_block(struct region *region, size_t size, size_t capacity)
{
    return size <= CUT_BYTES ? cut_block(region, capacity) : map_block(capacity);
}

static void *take(void *opaque, size_t size)
{
    (void)opaque;
    unsigned list = LISTS;
    if (size > PTRDIFF_MAX - MAPPING_BYTES) {
        refused = true;
        return NULL;
    }
    struct region *region = next_region(size);
    size_t capacity = size <= LISTED_BYTES ? round_up(size, &list) : size;
    void *block;
    if (list < LISTS && region->lists[list] != NULL) {
        block = region->lists[list];
        SHOW(block, *capacity_of(block));
        region->lists[list] = region->lists[list]->next;
    } else {
        block = new_block(region, size, capacity);
        if (block == NULL && unmap_lists())
            block = new_block(region, size, capacity);
    }
    if (block == NULL)
        refused = true;
#ifdef TRACE
    if (starting)
        trace_taken(block, taken - 1);
#endif
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
    struct region *region = region_of(block);
    if (region != &hot && !starting)
        return; /* adding it to a free list would write to the page */
    unsigned list;
    round_up(capacity - HEADER_BYTES, &list);
    struct freed *freed = block;
    SHOW(block, capacity);
    freed->next = region->lists[list];
    region->lists[list] = freed;
    HIDE(block, capacity);
}

/* Grow or shrink a separate mapping, without a copy. */
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

/* Whether the kernel has refused memory to this process. */
bool memory_was_refused(void)
{
    return refused;
}

/* Unmap memory that the start no longer uses, because a fork copies page tables. New blocks are hot from now on. */
void memory_end_start(void)
{
    unmap_lists();
    starting = false;
}

/* Whether the table is for this engine and this start. */
bool memory_is_placed(void)
{
    return has_table() && taken == PLACEMENT_BLOCKS;
}

/* Copy the hot pages, and populate the pages that a run uses next, with one call. This costs the kernel less than a
 * fault for each page. Kernels before 5.14 refuse the call; then each page has its fault. Not without a table,
 * because too many pages are hot then. */
void memory_touch(void)
{
    char *end = hot.chunk + AHEAD_BYTES;
    if (!memory_is_placed())
        return;
    if (end > hot.chunk_end)
        end = hot.chunk_end;
    madvise(hot.start, (size_t)(end - hot.start), MADV_POPULATE_WRITE);
}

#ifdef TRACE
/* Return the used part of the cold region. */
struct text memory_cold(void)
{
    return (struct text){cold.start, (size_t)(cold.chunk - cold.start)};
}
#endif

/* Return a block. If the allocation fails, the process exits. */
char *memory_take(size_t size)
{
    char *block = take(NULL, size);
    if (block == NULL)
        _exit(EXIT_NO_MEMORY);
    HIDE(block + size, *capacity_of(block) - size);
    return block;
}

/* Return the parts as one text, terminated by NUL, as the engine requires. */
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

/* Free a text returned by memory_join or memory_take. */
void memory_free(struct text text)
{
    give_back(NULL, (char *)text.start);
}
