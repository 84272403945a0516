/* context.c with the engine: reports of a run that contain arbitrary bytes. */
#include "context.c"

#include "target.h"

void context_start_empty(void)
{
    REQUIRE(context_start());
}

JSContext *context_of_fuzzer(void)
{
    return context;
}

void fuzz_report(struct input *input)
{
    struct text report = take_text(input);
    frames_begin(input);
    tell_report(report);
    frames_require_whole();
    free_text(report);
}
