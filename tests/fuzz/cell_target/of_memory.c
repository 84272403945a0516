/* memory.c: blocks of any size keep their content while blocks are allocated, resized and freed in any order. */
#include <string.h>

#include "target.h"

enum { BLOCKS = 16, MOST_STEPS = 200 };

static void require_filled(const uint8_t *block, size_t size, uint8_t with)
{
    REQUIRE(size == 0 || (block[0] == with && block[size / 2] == with && block[size - 1] == with));
}

static void fill(uint8_t *block, size_t size, uint8_t with)
{
    if (size > 0)
        block[0] = block[size / 2] = block[size - 1] = with;
}

void fuzz_memory(struct input *input)
{
    static const unsigned shifts[] = {0, 0, 0, 1, 2, 4, 6, 8};
    uint8_t *blocks[BLOCKS] = {0};
    size_t sizes[BLOCKS] = {0};
    for (unsigned step = 0; step < MOST_STEPS && input->at < input->end; step++) {
        unsigned what = take_byte(input), place = what % BLOCKS;
        size_t size = (size_t)take_byte(input) << shifts[what >> 5];
        unsigned more = take_byte(input);
        size = more == 0 ? size << 6 : size + more % 16; /* sometimes above 1 MiB */
        uint8_t **block = &blocks[place];
        require_filled(*block, *block == NULL ? 0 : sizes[place], (uint8_t)place);
        if ((what & 16) != 0 && *block != NULL) {
            memory_functions.js_free(NULL, *block);
            *block = NULL;
            continue;
        }
        if (*block == NULL && (size & 1) != 0) {
            *block = memory_functions.js_calloc(NULL, 1, size);
            require_filled(*block, size, 0);
        } else {
            uint8_t *other = memory_functions.js_realloc(NULL, *block, size);
            REQUIRE(*block == NULL || size == 0 || sizes[place] == 0 || other[0] == place);
            REQUIRE(*block == NULL || size < sizes[place] || sizes[place] == 0 || other[sizes[place] - 1] == place);
            *block = other;
        }
        REQUIRE(*block != NULL && (uintptr_t)*block % 16 == 0);
        REQUIRE(memory_functions.js_malloc_usable_size(*block) >= size);
        fill(*block, size, (uint8_t)place);
        sizes[place] = size;
    }
    for (size_t i = 0; i < BLOCKS; i++)
        memory_functions.js_free(NULL, blocks[i]);
}
