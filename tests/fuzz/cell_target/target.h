/* Functions of the cell for the fuzzer. Each of_FILE.c includes the cell's own file, so that it can call static
 * functions, and replaces functions of other files. */
#ifndef TARGET_H
#define TARGET_H

#include "cell.h"

#define REQUIRE(condition) ((condition) ? (void)0 : __builtin_trap())

/* The bytes of the input that are still unused. */
struct input {
    const uint8_t *at, *end;
};

unsigned take_byte(struct input *input);
struct text take_text(struct input *input);
void free_text(struct text text);

void fuzz_job(struct input *input);
void fuzz_sent(struct input *input);
void fuzz_check(struct input *input);
void fuzz_report(struct input *input);
void fuzz_decode(struct input *input);
void fuzz_memory(struct input *input);
void fuzz_bytecode(struct input *input);

/* of_frames.c: checks that the output since the last call of frames_begin consists of whole frames. */
void frames_begin(struct input *daemon);
void frames_require_whole(void);

/* of_context.c */
void context_start_empty(void);
JSContext *context_of_fuzzer(void);

#endif
