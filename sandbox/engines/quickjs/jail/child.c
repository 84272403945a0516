/* The life of a child: it confines itself, waits for its one job, does it, and exits. */
#include <unistd.h>

#include "cell.h"

/* Run a program that was checked. A module is compiled. */
static void run(enum form form, struct text code, struct text arguments)
{
    const struct text body[] = {code, arguments};
    const struct text module[] = {TEXT("__promptlog_run(import(\"program\")"), arguments};
    context_run(memory_join(form == FORM_BODY ? body : module, 2));
}

static void run_module(const struct job *job)
{
    struct fault fault;
    if (context_compile_module(memory_join(&job->code, 1), &fault))
        run(FORM_MODULE, job->code, job->arguments);
    else
        context_tell_broken(fault);
}

static void check(const struct job *job)
{
    enum form form = check_source(job);
    if (form == FORM_NONE)
        return;
    if (job->kind == JOB_CHECK) {
        frames_send_marked('f', (char)form, TEXT(""));
        return;
    }
    const struct text wrapped[] = {job->brackets[7], job->code, job->brackets[8]};
    run(form, form == FORM_BODY ? memory_join(wrapped, 3) : job->code, job->arguments);
}

/* Never returns. Until the confinement is on, nothing of a user's is read and nothing is allocated. */
_Noreturn void child_live(void)
{
    struct job job;
    memory_touch();
    confinement_put_on();
#ifdef TRACE
    trace_writes();
#endif
    frames_read_job(&job);
    hooks_set_arguments(job.prompt, job.env);
    switch (job.kind) {
    case JOB_TEXT:
        context_run(job.code);
        break;
    case JOB_BODY:
        run(FORM_BODY, job.code, job.arguments);
        break;
    case JOB_MODULE:
        run_module(&job);
        break;
    case JOB_CHECK:
    case JOB_CHECK_AND_RUN:
        check(&job);
        break;
    }
    _exit(EXIT_DONE);
}
