/* The engine's memory: the C library's, and a note of each refusal. RLIMIT_AS is the limit, so a refusal is the kernel's.
 * No text that a program throws can forge the note: see context_tell. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cell.h"

static bool refused;

static void *noted(void *memory)
{
    if (memory == NULL)
        refused = true;
    return memory;
}

static void *take(void *opaque, size_t size)
{
    (void)opaque;
    return noted(malloc(size));
}

static void *take_zeroed(void *opaque, size_t count, size_t size)
{
    (void)opaque;
    return noted(calloc(count, size));
}

static void *resize(void *opaque, void *memory, size_t size)
{
    (void)opaque;
    return noted(realloc(memory, size));
}

static void give_back(void *opaque, void *memory)
{
    (void)opaque;
    free(memory);
}

static size_t usable_size(const void *memory)
{
    return malloc_usable_size((void *)memory);
}

const JSMallocFunctions memory_functions = {take_zeroed, take, give_back, resize, usable_size};

/* Whether the kernel has refused this process memory. */
bool memory_was_refused(void)
{
    return refused;
}

/* Return the parts as one text with a NUL behind it, as the engine wants it. A child without the room ends. */
struct text memory_join(const struct text *parts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += parts[i].size;
    char *joined = malloc(size + 1), *end = joined;
    if (joined == NULL)
        _exit(EXIT_NO_MEMORY);
    for (size_t i = 0; i < count; i++) {
        memcpy(end, parts[i].start, parts[i].size);
        end += parts[i].size;
    }
    *end = 0;
    return (struct text){joined, size};
}

/* Free what memory_join or malloc made. */
void memory_free(struct text text)
{
    free((char *)text.start);
}

/* Give back to the kernel what the start used and nobody uses any more: a fork copies the tables of each page. */
void memory_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
