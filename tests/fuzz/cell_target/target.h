/* The cell's readers of bytes, as a fuzzer calls them. Each of_FILE.c has the cell's own file in it, so that what is
 * static there can be called, with what it asks of others exchanged. */
#ifndef TARGET_H
#define TARGET_H

#include "cell.h"

#define REQUIRE(condition) ((condition) ? (void)0 : __builtin_trap())

/* Bytes of the input that are not used yet. */
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

/* of_frames.c: what was written since the last call of frames_begin. Frames are checked to be whole. */
void frames_begin(struct input *daemon);
void frames_require_whole(void);

/* of_context.c */
void context_start_empty(void);
JSContext *context_of_fuzzer(void);

#endif
