/* What the files of the QuickJS cell share. zygote.c has the theory of operation. */
#ifndef CELL_H
#define CELL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quickjs.h"

enum { DATA = 0, CONTROL = 1, ERRORS = 2 }; /* descriptors */

/* Exit codes, of a child and of the zygote. The daemon reads EXIT_NO_MEMORY as "the kernel refused it memory". */
enum {
    EXIT_DONE = 0,
    EXIT_BROKEN = 70,      /* the data socket broke, or the job is not one */
    EXIT_UNCONFINED = 71,  /* the kernel refused a limit or the filter: nothing was read */
    EXIT_NO_MEMORY = 72,   /* the kernel refused memory to what holds the job */
    EXIT_NO_CHILD = 73,    /* the kernel refused the zygote a child */
    EXIT_NOT_STARTED = 74, /* the zygote could not start: descriptor 2 says why */
    EXIT_NOT_LOADED = 75,  /* the job's bytecode is damaged, or of another engine */
};

/* Bytes of somebody else: not terminated, and a NUL may be among them. */
struct text {
    const char *start;
    size_t size;
};

#define TEXT(literal) ((struct text){literal, sizeof(literal) - 1})

/* --- memory.c: the engine's allocator ----------------------------------------------------------------------------- */

extern const JSMallocFunctions memory_functions;
bool memory_was_refused(void);
char *memory_take(size_t size);
struct text memory_join(const struct text *parts, size_t count);
void memory_free(struct text text);
void memory_end_start(void);
void memory_touch(void);
bool memory_is_placed(void);

/* --- frames.c: bytes on the data socket --------------------------------------------------------------------------- */

enum job_kind {
    JOB_BODY = 'L',          /* run a wrapped body */
    JOB_MODULE = 'M',        /* run a module */
    JOB_BYTECODE = 'K',      /* run packed bytecode */
    JOB_CHECK = 'C',         /* check a source, and compile it */
    JOB_CHECK_AND_RUN = 'S', /* check a source and run it */
};

enum { BRACKETS = 9 };

/* What a program is given in a run. */
struct given {
    struct text prompt, env;
    uint32_t result_bytes, log_bytes; /* limits */
    uint32_t seeds[3];                /* of its random numbers */
};

struct job {
    enum job_kind kind;
    struct text code, bytecode;
    struct given given;
    struct text brackets[BRACKETS]; /* with JOB_CHECK and JOB_CHECK_AND_RUN */
    uint32_t bytecode_bytes;        /* the most packed bytecode to return, with JOB_CHECK */
};

bool frames_parse_job(const char *payload, size_t size, struct job *job);
void frames_read_job(struct job *job);
void frames_send(char kind, struct text payload);
void frames_send_marked(char kind, char mark, struct text payload);
void frames_send_fields(char kind, const struct text *fields, size_t count);
void frames_send_refused(char form, struct text message, struct text stack);

/* --- confinement.c: what a child gives up before it reads --------------------------------------------------------- */

struct limits {
    uint32_t cpu_ms;
    uint64_t memory_bytes;
};

void confinement_set_limits(const struct limits *limits);
void confinement_put_on(void);
bool confinement_used_at_most(unsigned percent);

/* --- context.c: the one JavaScript context ------------------------------------------------------------------------ */

/* What the engine says of an error. */
struct fault {
    struct text name, message, stack;
};

bool context_start(void);
struct text context_start_fault(void);
void context_settle(void);
bool context_parses(struct text script, struct fault *fault);
bool context_function_text(struct text script, struct text function, struct text *found);
bool context_compile_body(struct text wrapped, struct fault *fault);
bool context_compile_module(struct text source, struct fault *fault);
bool context_load(struct text bytecode);
struct text context_bytecode(void);
void context_run(const struct given *given);
void context_tell_broken(struct fault fault);

/* --- bytecode.c: bytecode as it is kept --------------------------------------------------------------------------- */

struct text bytecode_pack(struct text bytecode, struct text source);
bool bytecode_unpack(struct text packed, struct text source, struct text *bytecode);

/* --- hooks.c: what the scripts call ------------------------------------------------------------------------------- */

bool hooks_add(JSContext *context);

/* --- errors.c: error.stack ---------------------------------------------------------------------------------------- */

bool errors_add(JSContext *context);
JSValue errors_frames(JSContext *context, JSValueConst error);

/* --- check.c: whether a source is a program ----------------------------------------------------------------------- */

enum form { FORM_NONE = 0, FORM_BODY = 'B', FORM_MODULE = 'M' };

/* After FORM_MODULE the module is the compiled program: context_run and context_bytecode may follow. */
enum form check_source(const struct job *job);

/* --- child.c ------------------------------------------------------------------------------------------------------ */

_Noreturn void child_live(void);

/* --- takeover.c: tests alone, with -DTAKEOVER --------------------------------------------------------------------- */

#ifdef TAKEOVER
bool takeover_leaves_filter_off(void);
void takeover_start(int *argc, char **argv);
void takeover_job(const char *payload, size_t size);
#endif

/* --- trace.c: `make placement` alone, with -DTRACE ---------------------------------------------------------------- */

#ifdef TRACE
struct text memory_cold(void);
void trace_taken(const void *block, unsigned number);
void trace_writes(void);
#endif

#endif
