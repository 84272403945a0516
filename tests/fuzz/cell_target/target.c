/* The entry points of libFuzzer. The first byte of an input chooses the reader. */
#include <stdlib.h>
#include <string.h>

#include "target.h"

unsigned take_byte(struct input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

/* Reads a length (one byte, or 255 and two bytes) and that many bytes, into a block of exactly that size. */
struct text take_text(struct input *input)
{
    size_t size = take_byte(input), left;
    if (size == 255) {
        size = take_byte(input) << 8;
        size |= take_byte(input);
    }
    left = (size_t)(input->end - input->at);
    if (size > left)
        size = left;
    char *block = malloc(size);
    memcpy(block, input->at, size);
    input->at += size;
    return (struct text){block, size};
}

void free_text(struct text text)
{
    free((char *)text.start);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    context_start_empty();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const readers[])(struct input *) = {
        fuzz_job, fuzz_sent, fuzz_check, fuzz_report, fuzz_decode, fuzz_memory, fuzz_bytecode,
    };
    struct input input = {data, data + size};
    if (size > 0)
        readers[take_byte(&input) % (sizeof readers / sizeof *readers)](&input);
    return 0;
}
