/* bytecode.c: packed bytecode unpacks to the same bytes, and arbitrary bytes are unpacked or refused. */
#include <string.h>

#include "target.h"

enum { MOST_BYTES = 1 << 20 };

/* Refuse large blocks, as the kernel does above the memory limit. */
static void *fuzz_malloc(void *opaque, size_t size)
{
    return size > MOST_BYTES ? NULL : memory_functions.js_malloc(opaque, size);
}

static void *fuzz_calloc(void *opaque, size_t count, size_t size)
{
    return memory_functions.js_calloc(opaque, count, size);
}

static void fuzz_give_back(void *opaque, void *block)
{
    memory_functions.js_free(opaque, block);
}

static const JSMallocFunctions fuzz_functions = {fuzz_calloc, fuzz_malloc, fuzz_give_back, NULL, NULL};

#define memory_functions fuzz_functions
#include "bytecode.c"

void fuzz_bytecode(struct input *input)
{
    struct text source = take_text(input), bytecode = take_text(input), other;
    if (bytecode_unpack(bytecode, source, &other))
        fuzz_give_back(NULL, (char *)other.start);
    struct text packed = bytecode_pack(bytecode, source);
    REQUIRE(packed.size <= bytecode.size + 16);
    REQUIRE(bytecode_unpack(packed, source, &other));
    REQUIRE(other.size == bytecode.size && memcmp(other.start, bytecode.start, other.size) == 0);
    fuzz_give_back(NULL, (char *)other.start);
    fuzz_give_back(NULL, (char *)packed.start);
    free_text(source);
    free_text(bytecode);
}
