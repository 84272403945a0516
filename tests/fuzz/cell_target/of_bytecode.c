/* bytecode.c: what is packed comes back, and any bytes are unpacked or refused. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "target.h"

enum { MOST_BYTES = 1 << 20 };

static jmp_buf ended;

static char *fuzz_take(size_t size)
{
    if (size > MOST_BYTES)
        longjmp(ended, 1); /* as a process that has no room */
    return malloc(size);
}

#define memory_take fuzz_take
#include "bytecode.c"

void fuzz_bytecode(struct input *input)
{
    struct text source = take_text(input), bytecode = take_text(input), other;
    if (setjmp(ended) == 0 && bytecode_unpack(bytecode, source, &other))
        free_text(other);
    struct text packed = bytecode_pack(bytecode, source), again;
    REQUIRE(packed.size <= bytecode.size + 16);
    REQUIRE(bytecode_unpack(packed, source, &again));
    REQUIRE(again.size == bytecode.size && memcmp(again.start, bytecode.start, again.size) == 0);
    free_text(again);
    memory_functions.js_free(NULL, (char *)packed.start);
    free_text(source);
    free_text(bytecode);
}
