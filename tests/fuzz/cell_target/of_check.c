/* check.c with a parser whose answers come from the input. */
#include "target.h"

static struct input *answers;
static struct text given[16];
static size_t given_count;

/* Texts of the parser are freed after the check. */
static struct text answer(void)
{
    struct text text = take_text(answers);
    if (given_count < sizeof given / sizeof *given)
        given[given_count++] = text;
    return text;
}

static bool fuzz_parses(struct text script, struct fault *fault)
{
    REQUIRE(script.start[script.size] == 0);
    if (take_byte(answers) % 2 == 0)
        return true;
    *fault = (struct fault){answer(), answer(), answer()};
    return false;
}

static bool fuzz_function_text(struct text script, struct text function, struct text *found)
{
    REQUIRE(script.start[script.size] == 0 && function.size > 0);
    *found = answer();
    return take_byte(answers) % 4 != 0;
}

/* The check leaves these texts to the end of its process. Here they are freed. */
static struct text joined[16];

static struct text fuzz_join(const struct text *parts, size_t count)
{
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (joined[i].start == NULL)
            return joined[i] = memory_join(parts, count);
    __builtin_trap();
}

static void fuzz_free(struct text text)
{
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (joined[i].start == text.start)
            joined[i].start = NULL;
    memory_free(text);
}

static bool fuzz_was_refused(void)
{
    return false;
}

static struct place fuzz_unplaced(struct text source, struct text message)
{
    (void)source, (void)message;
    return (struct place){take_byte(answers), take_byte(answers)};
}

#define unplaced_find fuzz_unplaced
#define context_parses fuzz_parses
#define context_compile_module fuzz_parses
#define context_function_text fuzz_function_text
#define memory_was_refused fuzz_was_refused
#define memory_join fuzz_join
#define memory_free fuzz_free
#include "check.c"

/* Checks a source between brackets. */
void fuzz_check(struct input *input)
{
    struct job job = {.kind = JOB_CHECK, .code = take_text(input)};
    answers = input;
    given_count = 0;
    for (size_t i = 0; i < BRACKETS; i++)
        job.brackets[i] = i == 6 ? take_text(input) : TEXT("(");
    frames_begin(input);
    enum form form = check_source(&job);
    REQUIRE(form == FORM_NONE || form == FORM_BODY || form == FORM_MODULE);
    frames_require_whole();
    free_text(job.code);
    free_text(job.brackets[6]);
    for (size_t i = 0; i < given_count; i++)
        free_text(given[i]);
    for (size_t i = 0; i < sizeof joined / sizeof *joined; i++)
        if (joined[i].start != NULL)
            fuzz_free(joined[i]);
}
