/* The one JavaScript context: made in the zygote with promptlog's own scripts in it, used up by a child. Nothing that a
 * program throws, returns or replaces is trusted: what is sent is what a program may say of itself. */
#include <string.h>

#include "cell.h"
#include "scripts.h" /* made by cell_build/embedded.py */

enum {
    STACK_BYTES = 1024 * 1024,
    BELOW_STACK_BYTES = 256 * 1024, /* what the engine's own functions may need when a program has used its stack */
    BEFORE_COLLECTION_BYTES = 3 * 1024 * 1024, /* what a run may take before the engine looks for cycles: see below */
};

/* File names in stacks: host/stack.py reads them. Ours are left out. */
#define OURS "promptlog:prelude"
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

/* Return a value as text, or an empty one for what has none. It lives as long as this process. */
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

/* Return what an error says, and free it. What is no object is told as it is. */
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

/* Evaluate one of promptlog's own scripts. */
static JSValue evaluate_own(const char *script, size_t size)
{
    return evaluate((struct text){script, size}, OURS, JS_EVAL_FLAG_STRICT);
}

/* Make the context. False if that went wrong: context_start_fault says why. */
bool context_start(void)
{
    runtime = JS_NewRuntime2(&memory_functions, NULL);
    if (runtime == NULL)
        return false;
    JS_SetMaxStackSize(runtime, STACK_BYTES);
    context = JS_NewContext(runtime);
    if (context == NULL || !hooks_add(context) || !errors_add(context))
        return false;
    run_hook = evaluate_own(prelude_script, sizeof prelude_script - 1);
    return !JS_IsException(run_hook) && !JS_IsException(evaluate_own(builtins_script, sizeof builtins_script - 1));
}

/* Return what went wrong in context_start. */
struct text context_start_fault(void)
{
    if (context == NULL)
        return TEXT("out of memory");
    struct fault fault = fault_of(JS_GetException(context));
    const struct text parts[] = {fault.name, TEXT(": "), fault.message, TEXT("\n"), fault.stack};
    return memory_join(parts, 5);
}

/* Have the kernel make the stack as large as it may become, by a write to its far end: a child that has used up its
 * memory would not get that, and would be ended by a signal. Only the page that is written to is really there. */
static void extend_stack(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    *(volatile char *)(here - STACK_BYTES - BELOW_STACK_BYTES) = 0;
}

/* Collect garbage in the zygote. When the engine does so in a child, it writes to every object, and each page of the
 * heap is copied; so it waits until a run has taken much. */
void context_settle(void)
{
    JSMemoryUsage usage;
    JS_RunGC(runtime);
    JS_ComputeMemoryUsage(runtime, &usage);
    JS_SetGCThreshold(runtime, (size_t)usage.malloc_size + BEFORE_COLLECTION_BYTES);
    JS_UpdateStackTop(runtime);
    extend_stack();
}

/* Whether a script parses. Nothing of it is executed. */
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

/* Return the text of a function that a script declares; false if there is none. Of the script nothing is executed: its
 * first statement throws. */
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

/* Make a wrapped body the program. False if it does not parse. */
bool context_compile_body(struct text wrapped, struct fault *fault)
{
    return compile(wrapped, SCRIPT, JS_EVAL_TYPE_GLOBAL, fault);
}

/* Make a module the program. False if it does not parse, or imports something. The engine has it under its name from
 * then on, for import(). */
bool context_compile_module(struct text source, struct fault *fault)
{
    return compile(source, PROGRAM, JS_EVAL_TYPE_MODULE, fault);
}

/* Make the program what context_bytecode returned. False if it can't be loaded. The engine does not verify bytecode:
 * it is as hostile as native code, so call this only when the second filter is on. */
bool context_load(struct text bytecode)
{
    compiled = JS_ReadObject(context, (const uint8_t *)bytecode.start, bytecode.size, JS_READ_OBJ_BYTECODE);
    return JS_IsModule(compiled) || JS_VALUE_GET_TAG(compiled) == JS_TAG_FUNCTION_BYTECODE;
}

/* Return the bytecode of the program that was compiled last; an empty text if there is no memory for it. The source
 * texts of its functions are in it, for toString(). */
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

/* Send how a run ended by an error. The text alone says nothing of memory, since a program can throw any: the kernel
 * must have refused some as well. */
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

/* Send that the engine gave up outside of the program's own code. */
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

/* Return a text up to the next NUL, and take it and the NUL away from `rest`; all of it if there is none. */
static struct text next_part(struct text *rest)
{
    const char *end = memchr(rest->start, 0, rest->size);
    struct text part = {rest->start, end == NULL ? rest->size : (size_t)(end - rest->start)};
    size_t used = part.size + (end != NULL);
    *rest = (struct text){rest->start + used, rest->size - used};
    return part;
}

/* Send what contract.js reports: a value's JSON; or `!`, how else the run ended, and a NUL before each of three
 * texts. */
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

/* Do the jobs of promises until this one is settled. What a job throws concerns nobody, as in the Web's microtasks. */
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

/* Start the program; return the promise of its result, or an exception. */
static JSValue begin(const struct given *given)
{
    JSValue arguments[] = {
        /* The value of the script is the body: evaluating it executes nothing of the program. */
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

/* Run the program, and send what came of it. */
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
