/* The life of a child: it confines itself, waits for its only job, executes the job, and exits. */
#include <unistd.h>

#include "cell.h"

static bool compile(enum form form, struct text code, struct fault *fault)
{
    return form == FORM_BODY ? context_compile_body(code, fault) : context_compile_module(code, fault);
}

/* Run a checked program. */
static void run(enum form form, const struct job *job)
{
    struct fault fault;
    struct text code = memory_join(&job->code, 1);
    places_set_code(code);
    if (compile(form, code, &fault))
        context_run(&job->given);
    else
        context_tell_broken(fault);
}

/* Load packed bytecode. */
static bool load(struct text packed, struct text code)
{
    struct text bytecode;
    if (!bytecode_unpack(packed, code, &bytecode))
        return false;
    bool good = context_load(bytecode);
    memory_free(bytecode);
    return good;
}

enum {
    CHECK_PERCENT = 33, /* of the CPU limit; compiling, packing and loading take about as long as the check */
    /* Maximum size of unpacked bytecode: a constant plus a multiple of the program's size. A run needs this memory
     * while it loads the bytecode. */
    BASE_BYTES = 64 * 1024,
    BYTES_PER_BYTE = 8,
};

/* Return packed bytecode of the checked program; an empty text if time or memory is short, or if it is too large. A
 * trial load finds bytecode that cannot be loaded here instead of in the first run. `code`: the text that each run
 * gets. */
static struct text bytecode_of(enum form form, const struct job *job, struct text code)
{
    struct fault fault;
    if (job->bytecode_bytes == 0 || !confinement_used_at_most(CHECK_PERCENT))
        return TEXT("");
    if (form == FORM_BODY && !context_compile_body(code, &fault))
        return TEXT("");
    struct text bytecode = context_bytecode();
    if (bytecode.size > BASE_BYTES + BYTES_PER_BYTE * code.size)
        return TEXT("");
    struct text packed = bytecode_pack(bytecode, code);
    bool good = packed.size <= job->bytecode_bytes && load(packed, code);
    /* JS_WriteObject does not report every refused allocation. */
    return good && !memory_was_refused() ? packed : TEXT("");
}

static void check(const struct job *job)
{
    struct fault fault;
    enum form form = check_source(job);
    if (form == FORM_NONE)
        return;
    const struct text parts[] = {job->brackets[7], job->code, job->brackets[8]};
    struct text code = form == FORM_BODY ? memory_join(parts, 3) : job->code;
    if (job->kind == JOB_CHECK)
        frames_send_marked('f', (char)form, bytecode_of(form, job, code));
    else if (form == FORM_MODULE || compile(FORM_BODY, code, &fault)) {
        places_set_code(code);
        context_run(&job->given);
    }
    else
        context_tell_broken(fault);
}

static void run_bytecode(const struct job *job)
{
    if (!load(job->bytecode, job->code))
        _exit(memory_was_refused() ? EXIT_NO_MEMORY : EXIT_NOT_LOADED);
    places_set_code(job->code);
    context_run(&job->given);
}

/* Never returns. Until the confinement is complete, no user byte is read and no memory is allocated. */
_Noreturn void child_live(void)
{
    struct job job;
    memory_touch();
    confinement_put_on();
#ifdef TRACE
    trace_writes();
#endif
    frames_read_job(&job);
    switch (job.kind) {
    case JOB_BODY:
        run(FORM_BODY, &job);
        break;
    case JOB_MODULE:
        run(FORM_MODULE, &job);
        break;
    case JOB_BYTECODE:
        run_bytecode(&job);
        break;
    case JOB_CHECK:
    case JOB_CHECK_AND_RUN:
        check(&job);
        break;
    }
    _exit(EXIT_DONE);
}
