/* The JavaScript context. The zygote creates it and evaluates promptlog's scripts in it. A child uses it for one job.
 * Values that a program throws, returns or replaces are not trusted: everything that is sent counts only as a claim of
 * the program about itself. */
#include <string.h>

#include "cell.h"

enum {
    STACK_BYTES = 1024 * 1024,
    BELOW_STACK_BYTES = 256 * 1024, /* stack for the engine's own functions when a program has used up its stack */
    BEFORE_COLLECTION_BYTES = 3 * 1024 * 1024, /* memory that a run may allocate before garbage collection: see below */
};

/* File names in stacks. host/stack.py parses them. */
#define SCRIPT "eval_script"
#define PROGRAM "program"

static JSRuntime *runtime;
static JSContext *context;
static JSValue run_hook; /* the value of prelude.js: run(body, prompt, env, ...) */
static JSValue compiled; /* the program: a script whose value is the body, or a module */

static JSValue evaluate(struct text script, const char *file, int flags)
{
    return JS_Eval(context, script.start, script.size, file, JS_EVAL_TYPE_GLOBAL | flags);
}

/* Return a value as text; an empty text if it cannot be converted. It is never freed. */
static struct text text_of(JSValueConst value)
{
    struct text text;
    text.start = JS_IsUndefined(value) || JS_IsNull(value) ? NULL : JS_ToCStringLen(context, &text.size, value);
    if (text.start == NULL) {
        JS_FreeValue(context, JS_GetException(context));
        return TEXT("");
    }
    return text;
}

static struct text member(JSValueConst object, const char *name)
{
    JSValue value = JS_GetPropertyStr(context, object, name);
    struct text text = JS_IsException(value) ? TEXT("") : text_of(value);
    if (JS_IsException(value))
        JS_FreeValue(context, JS_GetException(context));
    JS_FreeValue(context, value);
    return text;
}

/* Return the frames of an error, without its name and message. */
static struct text frames_of(JSValueConst error)
{
    JSValue frames = errors_frames(context, error);
    if (!JS_IsString(frames)) {
        JS_FreeValue(context, JS_IsException(frames) ? JS_GetException(context) : frames);
        return TEXT("");
    }
    struct text text = text_of(frames);
    JS_FreeValue(context, frames);
    return text;
}

/* Return the description of an error, and free the error. The description of a primitive value is its text. */
static struct fault fault_of(JSValue error)
{
    struct fault fault = {TEXT(""), TEXT(""), TEXT("")};
    if (JS_IsObject(error)) {
        fault.name = member(error, "name");
        fault.message = member(error, "message");
        fault.stack = frames_of(error);
    } else {
        fault.message = JS_IsNull(error) ? TEXT("null") : text_of(error);
    }
    JS_FreeValue(context, error);
    return fault;
}

/* Create the context. If this returns false, context_start_fault has the reason. */
bool context_start(void)
{
    runtime = JS_NewRuntime2(&memory_functions, NULL);
    if (runtime == NULL)
        return false;
    JS_SetMaxStackSize(runtime, STACK_BYTES);
    context = JS_NewContext(runtime);
    if (context == NULL || !hooks_add(context) || !errors_add(context))
        return false;
    run_hook = scripts_evaluate(context);
    return !JS_IsException(run_hook);
}

/* Return the reason why context_start failed. */
struct text context_start_fault(void)
{
    if (context == NULL)
        return TEXT("out of memory");
    struct fault fault = fault_of(JS_GetException(context));
    const struct text parts[] = {fault.name, TEXT(": "), fault.message, TEXT("\n"), fault.stack};
    return memory_join(parts, 5);
}

/* Make the kernel extend the stack to its maximum size, by a write to its far end. Otherwise a child that has used up
 * its memory could not extend the stack, and would be ended by a signal. Only the written page takes memory. */
static void extend_stack(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    *(volatile char *)(here - STACK_BYTES - BELOW_STACK_BYTES) = 0;
}

/* Collect garbage in the zygote. A collection in a child writes to every object, so that the kernel copies each page of
 * the heap. So it is deferred until a run has allocated much memory. */
void context_settle(void)
{
    JSMemoryUsage usage;
    JS_RunGC(runtime);
    JS_ComputeMemoryUsage(runtime, &usage);
    JS_SetGCThreshold(runtime, (size_t)usage.malloc_size + BEFORE_COLLECTION_BYTES);
    JS_UpdateStackTop(runtime);
    extend_stack();
}

/* Whether a script parses. No part of it is executed. */
bool context_parses(struct text script, struct fault *fault)
{
    JSValue function = evaluate(script, SCRIPT, JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(function)) {
        *fault = fault_of(JS_GetException(context));
        return false;
    }
    JS_FreeValue(context, function);
    return true;
}

/* Return the text of a function that a script declares; false if there is none. No part of the script is executed,
 * because its first statement throws. */
bool context_function_text(struct text script, struct text function, struct text *found)
{
    const struct text declaring[] = {TEXT("throw 0;"), script};
    JS_FreeValue(context, evaluate(memory_join(declaring, 2), SCRIPT, 0));
    JS_FreeValue(context, JS_GetException(context));
    JSValue value = evaluate(function, SCRIPT, 0);
    bool good = JS_IsString(value);
    if (good)
        *found = text_of(value);
    JS_FreeValue(context, value);
    return good;
}

static bool compile(struct text source, const char *file, int type, struct fault *fault)
{
    compiled = JS_Eval(context, source.start, source.size, file, type | JS_EVAL_FLAG_COMPILE_ONLY);
    if (!JS_IsException(compiled))
        return true;
    *fault = fault_of(JS_GetException(context));
    return false;
}

/* Compile a wrapped body as the program. False if it does not parse. */
bool context_compile_body(struct text wrapped, struct fault *fault)
{
    return compile(wrapped, SCRIPT, JS_EVAL_TYPE_GLOBAL, fault);
}

/* Compile a module as the program. False if it does not parse, or imports something. From then on, the engine has it
 * under its name, for import(). */
bool context_compile_module(struct text source, struct fault *fault)
{
    return compile(source, PROGRAM, JS_EVAL_TYPE_MODULE, fault);
}

/* Load the result of context_bytecode as the program. False if it cannot be loaded. The engine does not verify
 * bytecode, so it is as hostile as native code. Call this only with the second filter installed. */
bool context_load(struct text bytecode)
{
    compiled = JS_ReadObject(context, (const uint8_t *)bytecode.start, bytecode.size, JS_READ_OBJ_BYTECODE);
    return JS_IsModule(compiled) || JS_VALUE_GET_TAG(compiled) == JS_TAG_FUNCTION_BYTECODE;
}

/* Return the bytecode of the program that was compiled last; an empty text if an allocation fails. It contains the
 * source texts of functions, for toString(). */
struct text context_bytecode(void)
{
    struct text bytecode;
    bytecode.start = (const char *)JS_WriteObject(context, &bytecode.size, compiled, JS_WRITE_OBJ_BYTECODE);
    return bytecode.start == NULL ? TEXT("") : bytecode;
}

static bool is(struct text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.start, word, text.size) == 0;
}

/* Send the error that ended a run. A program can throw any text, so an out-of-memory error counts only if the kernel
 * has refused memory. */
static void tell_thrown(const struct fault *fault)
{
    bool engines_own = (is(fault->name, "InternalError") && is(fault->message, "out of memory")) ||
                       (fault->name.size == 0 && is(fault->message, "thrown: null"));
    if (engines_own && memory_was_refused()) {
        frames_send('m', TEXT(""));
        return;
    }
    const struct text fields[] = {fault->name, fault->message, fault->stack};
    frames_send_fields('x', fields, 3);
}

/* Report that the engine failed outside the program's code. */
void context_tell_broken(struct fault fault)
{
    if (memory_was_refused()) {
        frames_send('m', TEXT(""));
        return;
    }
    if (fault.name.size == 0)
        fault.name = TEXT("Error");
    tell_thrown(&fault);
}

/* Return the text up to the next NUL, or all of `rest` if there is none. Remove it and the NUL from `rest`. */
static struct text next_part(struct text *rest)
{
    const char *end = memchr(rest->start, 0, rest->size);
    struct text part = {rest->start, end == NULL ? rest->size : (size_t)(end - rest->start)};
    size_t used = part.size + (end != NULL);
    *rest = (struct text){rest->start + used, rest->size - used};
    return part;
}

/* Send the report of contract.js: the JSON of a value; or `!`, the kind of another end, and three texts, each
 * preceded by NUL. */
static void tell_report(struct text report)
{
    if (report.size == 0 || report.start[0] != '!') {
        frames_send('v', report);
        return;
    }
    struct text rest = {report.start + 1, report.size - 1};
    struct text kind = next_part(&rest), first = next_part(&rest), message = next_part(&rest);
    if (is(kind, "o") || is(kind, "b"))
        frames_send(kind.start[0], first);
    else if (is(kind, "s"))
        frames_send_refused(FORM_MODULE, first, TEXT(""));
    else
        tell_thrown(&(struct fault){first, message, rest});
}

/* Execute promise jobs until this promise is settled. Exceptions of jobs are ignored, as with microtasks on the Web. */
static void settle(JSValueConst promise)
{
    JSContext *of_job;
    int done = 1;
    while (done != 0 && JS_PromiseState(context, promise) == JS_PROMISE_PENDING) {
        done = JS_ExecutePendingJob(runtime, &of_job);
        if (done < 0)
            JS_FreeValue(context, JS_GetException(context));
    }
}

static JSValue text_value(struct text text)
{
    return JS_NewStringLen(context, text.start, text.size);
}

/* Start the program. Return the promise of its result, or an exception. */
static JSValue begin(const struct given *given)
{
    JSValue arguments[] = {
        /* The value of the script is the function of the body, so evaluating it executes no part of the program. */
        JS_IsModule(compiled) ? JS_UNDEFINED : JS_EvalFunction(context, compiled),
        text_value(given->prompt),
        text_value(given->env),
        JS_NewUint32(context, given->result_bytes),
        JS_NewUint32(context, given->log_bytes),
        JS_NewInt32(context, (int32_t)given->seeds[0]),
        JS_NewInt32(context, (int32_t)given->seeds[1]),
        JS_NewInt32(context, (int32_t)given->seeds[2]),
    };
    for (size_t i = 0; i < 3; i++)
        if (JS_IsException(arguments[i]))
            return JS_EXCEPTION;
    return JS_Call(context, run_hook, JS_UNDEFINED, sizeof arguments / sizeof *arguments, arguments);
}

/* Run the program, and send its result. */
void context_run(const struct given *given)
{
    JSValue value = begin(given);
    if (JS_IsException(value)) {
        context_tell_broken(fault_of(JS_GetException(context)));
        return;
    }
    settle(value);
    switch (JS_PromiseState(context, value)) {
    case JS_PROMISE_PENDING:
        context_tell_broken(
            (struct fault){TEXT("Error"), TEXT("the program waits for a promise that nothing can settle"), TEXT("")});
        return;
    case JS_PROMISE_REJECTED:
        context_tell_broken(fault_of(JS_PromiseResult(context, value)));
        return;
    case JS_PROMISE_FULFILLED:
        value = JS_PromiseResult(context, value);
        break;
    case JS_PROMISE_NOT_A_PROMISE:
        break;
    }
    struct text report;
    report.start = JS_IsString(value) ? JS_ToCStringLen(context, &report.size, value) : NULL;
    if (report.start == NULL)
        context_tell_broken((struct fault){TEXT("Error"), TEXT("the engine lost what the program came to"), TEXT("")});
    else
        tell_report(report);
}
