/* Declarations that the files of the QuickJS cell share. zygote.c has the theory of operation. */
#ifndef CELL_H
#define CELL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quickjs.h"

enum { DATA = 0, CONTROL = 1, ERRORS = 2 }; /* descriptors */

/* Exit codes of a child and of the zygote. For the daemon, EXIT_NO_MEMORY means that the kernel refused memory. */
enum {
    EXIT_DONE = 0,
    EXIT_BROKEN = 70,      /* the data socket failed, or the job is invalid */
    EXIT_UNCONFINED = 71,  /* the kernel refused a limit or the filter; nothing was read */
    EXIT_NO_MEMORY = 72,   /* the kernel refused memory for the job */
    EXIT_NO_CHILD = 73,    /* the zygote could not fork */
    EXIT_NOT_STARTED = 74, /* the zygote could not start; the reason is on descriptor 2 */
    EXIT_NOT_LOADED = 75,  /* the job's bytecode is damaged, or for another engine */
};

/* Bytes that somebody else owns. They are not terminated, and may contain NUL. */
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

/* --- frames.c: frames on the data socket -------------------------------------------------------------------------- */

enum job_kind {
    JOB_BODY = 'L',          /* run a wrapped body */
    JOB_MODULE = 'M',        /* run a module */
    JOB_BYTECODE = 'K',      /* run packed bytecode */
    JOB_CHECK = 'C',         /* check a source, and compile it */
    JOB_CHECK_AND_RUN = 'S', /* check a source and run it */
};

enum { BRACKETS = 9 };

/* The inputs of a run. */
struct given {
    struct text prompt, env;
    uint32_t result_bytes, log_bytes; /* limits */
    uint32_t seeds[3];                /* seeds of its random numbers */
};

struct job {
    enum job_kind kind;
    struct text code, bytecode;
    struct given given;
    struct text brackets[BRACKETS]; /* with JOB_CHECK and JOB_CHECK_AND_RUN */
    uint32_t bytecode_bytes;        /* maximum size of packed bytecode, with JOB_CHECK */
};

bool frames_parse_job(const char *payload, size_t size, struct job *job);
void frames_read_job(struct job *job);
void frames_send(char kind, struct text payload);
void frames_send_marked(char kind, char mark, struct text payload);
void frames_send_fields(char kind, const struct text *fields, size_t count);
void frames_send_refused(char form, struct text message, struct text stack);

/* A position in a text. Line 0: none. Columns count bytes, from 1. */
struct place {
    unsigned line, column;
};

/* --- confinement.c: rights that a child drops before it reads --------------------------------------------------- */

struct limits {
    uint32_t cpu_ms;
    uint64_t memory_bytes;
};

void confinement_set_limits(const struct limits *limits);
void confinement_put_on(void);
bool confinement_used_at_most(unsigned percent);

/* --- context.c: the JavaScript context ---------------------------------------------------------------------------- */

/* The engine's description of an error. */
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

/* --- scripts.c: promptlog's own scripts --------------------------------------------------------------------------- */

JSValue scripts_evaluate(JSContext *context);
bool scripts_are_bytecode(void);
#ifdef COMPILE
_Noreturn void scripts_compile(void);
#endif

/* --- bytecode.c: packed bytecode ---------------------------------------------------------------------------------- */

struct text bytecode_pack(struct text bytecode, struct text source);
bool bytecode_unpack(struct text packed, struct text source, struct text *bytecode);

/* --- hooks.c: C functions for the scripts ------------------------------------------------------------------------- */

bool hooks_add(JSContext *context);

/* --- plain.c: plain data for the console -------------------------------------------------------------------------- */

bool plain_add(JSContext *owner, JSValueConst engine);

/* --- errors.c: error.stack ---------------------------------------------------------------------------------------- */

bool errors_add(JSContext *context);
JSValue errors_frames(JSContext *context, JSValueConst error);
bool errors_is_function(const struct text *names, size_t count, bool is_new);

/* --- places.c: better positions and messages of the engine's errors ----------------------------------------------- */

void places_set_code(struct text text);
bool places_improve(struct text *message, struct place *place, struct place caller);
bool places_may_search(void);
struct text places_code(void);

/* --- unplaced.c: positions of syntax errors that the engine reports without one ----------------------------------- */

struct place unplaced_find(struct text source, struct text message);
struct text unplaced_declared(struct text source, struct place *place);
size_t unplaced_stray_brace(struct text source, struct place *place);
struct place unplaced_import(struct text source, struct text name);

/* --- check.c: whether a source is a program ----------------------------------------------------------------------- */

enum form { FORM_NONE = 0, FORM_BODY = 'B', FORM_MODULE = 'M' };

/* After FORM_MODULE, the module is the compiled program, so context_run and context_bytecode may be called. */
enum form check_source(const struct job *job);

/* --- child.c ------------------------------------------------------------------------------------------------------ */

_Noreturn void child_live(void);

/* --- takeover.c: only for tests, with -DTAKEOVER ------------------------------------------------------------------ */

#ifdef TAKEOVER
bool takeover_leaves_filter_off(void);
void takeover_start(int *argc, char **argv);
void takeover_job(const char *payload, size_t size);
#endif

/* --- trace.c: only for `make placement`, with -DTRACE ------------------------------------------------------------- */

#ifdef TRACE
struct text memory_cold(void);
void trace_taken(const void *block, unsigned number);
void trace_writes(void);
#endif

#endif
