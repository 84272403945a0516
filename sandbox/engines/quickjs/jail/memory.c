/* The engine's memory, and a note of each refusal. RLIMIT_AS is the limit: a refusal is the kernel's. No text that a program
 * throws can pretend one (context.c). */
#include <string.h>
#include <unistd.h>

#include "cell.h"

static bool refused;

static void *noted(void *block)
{
    if (block == NULL)
        refused = true;
    return block;
}

static void *take(void *opaque, size_t size)
{
    (void)opaque;
    return noted(blocks_take(size));
}

static void *take_zeroed(void *opaque, size_t count, size_t size)
{
    (void)opaque;
    size_t bytes;
    return noted(__builtin_mul_overflow(count, size, &bytes) ? NULL : blocks_take_zeroed(bytes));
}

static void give_back(void *opaque, void *block)
{
    (void)opaque;
    blocks_give_back(block);
}

static void *resize(void *opaque, void *block, size_t size)
{
    (void)opaque;
    return noted(blocks_resize(block, size));
}

const JSMallocFunctions memory_functions = {take_zeroed, take, give_back, resize, blocks_capacity};

/* Whether the kernel has refused this process memory. */
bool memory_was_refused(void)
{
    return refused;
}

/* Return a block. A process without the room ends. */
char *memory_take(size_t size)
{
    char *block = blocks_take(size);
    if (block == NULL)
        _exit(EXIT_NO_MEMORY);
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

/* Free a text that memory_join made. */
void memory_free(struct text text)
{
    blocks_give_back((char *)text.start);
}
