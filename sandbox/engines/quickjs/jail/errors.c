/* error.stack in V8's format: the name and the message, then the frames. The engine's own error.stack has only frames.
 * */
#include <stdio.h>
#include <string.h>

#include "tokens.h"

#define FRAME "    at "
#define OWN_FRAME FRAME "captureStackTrace (native)\n"

/* The engine's original functions, which no program has replaced. They are never freed. */
static JSContext *owner;
static JSValue engine_stack, engine_capture, text_of_error, concatenate;
static JSValue own_capture;

/* Return the engine's frames of an error, or undefined for any other value. */
JSValue errors_frames(JSContext *context, JSValueConst error)
{
    return JS_Call(context, engine_stack, error, 0, NULL);
}

/* Whether these names, joined by dots, are a function of the language, or with `is_new` a constructor. No code of the
 * program runs. */
bool errors_is_function(const struct text *names, size_t count, bool is_new)
{
    JSValue value = JS_GetGlobalObject(owner);
    for (size_t i = 0; i < count && JS_IsObject(value); i++) {
        JSPropertyDescriptor found = {.value = JS_UNDEFINED, .getter = JS_UNDEFINED, .setter = JS_UNDEFINED};
        JSAtom name = JS_NewAtomLen(owner, names[i].start, names[i].size);
        if (JS_IsProxy(value) || JS_GetOwnProperty(owner, &found, value, name) <= 0)
            found.value = JS_UNDEFINED;
        JS_FreeAtom(owner, name);
        JS_FreeValue(owner, found.getter);
        JS_FreeValue(owner, found.setter);
        JS_FreeValue(owner, value);
        value = found.value;
    }
    bool is_function = is_new ? JS_IsConstructor(owner, value) : JS_IsFunction(owner, value);
    JS_FreeValue(owner, value);
    return is_function;
}

/* Return the size of a stack without its last line feed. Return -1 if the engine did not make it, for example if a
 * program's Error.prepareStackTrace did. */
static int size_of_frames(const char *stack, size_t size)
{
    bool is_own = size == 0 || (size > strlen(FRAME) && memcmp(stack, FRAME, strlen(FRAME)) == 0 && stack[size - 1] == '\n');
    return !is_own ? -1 : size == 0 ? 0 : (int)size - 1;
}

/* Return the stack with the error's name and message before it, and free the argument. Return any other value
 * unchanged. */
static JSValue with_header(JSContext *context, JSValueConst error, JSValue stack)
{
    size_t size;
    const char *frames = JS_IsString(stack) ? JS_ToCStringLen(context, &size, stack) : NULL;
    int rest = frames == NULL ? -1 : size_of_frames(frames, size);
    if (rest < 0) {
        JS_FreeCString(context, frames);
        return stack;
    }
    JSValue header = JS_Call(context, text_of_error, error, 0, NULL);
    if (JS_IsException(header)) { /* the name or the message cannot be converted to a string */
        JS_FreeValue(context, JS_GetException(context));
        header = JS_NewString(context, "Error");
    }
    size_t skipped = (size_t)rest > strlen(OWN_FRAME) && memcmp(frames, OWN_FRAME, strlen(OWN_FRAME)) == 0 ? strlen(OWN_FRAME) : 0;
    JSValue parts[] = {
        JS_NewString(context, rest > 0 ? "\n" : ""),
        JS_NewStringLen(context, frames + skipped, (size_t)rest - skipped),
    };
    JSValue whole = JS_Call(context, concatenate, header, 2, parts);
    JS_FreeCString(context, frames);
    JS_FreeValue(context, header);
    JS_FreeValue(context, parts[0]);
    JS_FreeValue(context, parts[1]);
    JS_FreeValue(context, stack);
    return whole;
}

/* Return the error's own property `message`, or NULL if it has none that is a string. */
static const char *own_message(JSContext *context, JSValueConst error, size_t *size)
{
    JSPropertyDescriptor message = {.value = JS_UNDEFINED, .getter = JS_UNDEFINED, .setter = JS_UNDEFINED};
    JSAtom name = JS_NewAtom(context, "message");
    const char *text = NULL;
    if (!JS_IsProxy(error) && JS_GetOwnProperty(context, &message, error, name) > 0 && JS_IsString(message.value))
        text = JS_ToCStringLen(context, size, message.value);
    JS_FreeValue(context, message.value);
    JS_FreeValue(context, message.getter);
    JS_FreeValue(context, message.setter);
    JS_FreeAtom(context, name);
    return text;
}

/* The message and the frames of an error. */
struct error_texts {
    struct text message, frames;
    enum first_frame first;
};

static bool is(struct text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.start, word, text.size) == 0;
}

/* Whether a frame belongs to a built-in function that throws "not a function" only about its argument. */
static bool takes_callback(struct text frame, struct text *name)
{
    static const char *const names[] = {"forEach", "map", "filter", "some", "every", "find", "findIndex", "findLast",
        "findLastIndex", "reduce", "reduceRight", "flatMap", "sort", "toSorted", "groupBy", "Promise"};
    static const char native[] = " (native)";
    const char *end = memmem(frame.start, frame.size, native, strlen(native));
    if (end == NULL || memcmp(frame.start, FRAME, strlen(FRAME)) != 0)
        return false;
    *name = (struct text){frame.start + strlen(FRAME), (size_t)(end - frame.start) - strlen(FRAME)};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (is(*name, names[i]))
            return true;
    return false;
}

/* The error of a failed import() has no frames. Give it one, with the position of the import. */
static void improve_import(struct error_texts *texts)
{
    static const char refused[] = "could not load module '", body[] = "(async function (prompt, env) {";
    static char frame[96], message[160];
    struct text code = places_code(), name = texts->message;
    if (name.size <= sizeof refused || memcmp(name.start, refused, sizeof refused - 1) != 0 || code.start == NULL)
        return;
    name = (struct text){name.start + sizeof refused - 1, name.size - sizeof refused};
    int size = snprintf(message, sizeof message, "module not found: %.*s", (int)name.size, name.start);
    if (size > 0 && (size_t)size < sizeof message)
        texts->message = (struct text){message, (size_t)size};
    struct place place = places_may_search() ? unplaced_import(code, name) : (struct place){0, 0};
    if (place.line == 0)
        return;
    bool is_body = code.size > sizeof body && memcmp(code.start, body, sizeof body - 1) == 0;
    size = snprintf(frame, sizeof frame, FRAME "<anonymous> (%s:%u:%u)\n", is_body ? "eval_script" : "program", place.line, place.column);
    const struct text part = {frame, (size_t)size};
    texts->frames = memory_join(&part, 1);
}

/* Return the texts with an improved message and an improved position of the first frame. If the frames differ from the
 * old ones, the caller frees them. */
static struct error_texts improve(struct error_texts old)
{
    struct error_texts new = old;
    struct frame first, second = {.place = {0, 0}};
    const char *end = old.frames.start + old.frames.size, *next = memchr(old.frames.start, '\n', old.frames.size);
    struct text line = {old.frames.start, next == NULL ? old.frames.size : (size_t)(next - old.frames.start)}, name;
    if (next != NULL && is(old.message, "class constructors must be invoked with 'new'")) {
        const struct text rest = {next + 1, (size_t)(end - next - 1)}; /* the engine's first frame is the class */
        static char named[96];
        struct text class = stacks_function(line);
        if (class.size > 0 && class.size < 40)
            new.message = (struct text){named, (size_t)snprintf(named, sizeof named,
                "Class constructor %.*s cannot be invoked without 'new'", (int)class.size, class.start)};
        new.frames = memory_join(&rest, 1);
    } else if (stacks_read_frame(old.frames.start, end, &first)) {
        if (next != NULL && !stacks_read_frame(next + 1, end, &second))
            second.place.line = 0;
        struct place place = first.place;
        if (places_improve(&new.message, &place, second.place))
            new.first = IS_PLACED;
        else if (is(old.message, "Maximum call stack size exceeded"))
            new.first = RECURSED;
        if (place.line != first.place.line || place.column != first.place.column) {
            static char shown[32];
            int size = snprintf(shown, sizeof shown, "%u:%u", place.line, place.column);
            const struct text parts[] = {{old.frames.start, (size_t)(first.start - old.frames.start)},
                {shown, (size_t)size}, {first.end, (size_t)(end - first.end)}};
            new.frames = memory_join(parts, 3);
        }
    } else if (is(old.message, "not a function") && takes_callback(line, &name)) {
        const struct text parts[] = {TEXT("the callback of "), name, TEXT(" is not a function")};
        static char message[64];
        size_t size = 0;
        for (size_t i = 0; i < 3; size += parts[i++].size)
            memcpy(message + size, parts[i].start, parts[i].size);
        new.message = (struct text){message, size};
    }
    if (old.frames.size == 0)
        improve_import(&new);
    new.message = messages_as_in_v8(new.message, places_code());
    return new;
}

/* Return the frames without the error's constructors and with the positions of calls, and free the argument. */
static JSValue with_calls(JSContext *context, JSValueConst error, JSValue stack, enum first_frame first)
{
    struct text old = {NULL, 0};
    old.start = JS_IsString(stack) ? JS_ToCStringLen(context, &old.size, stack) : NULL;
    if (old.start == NULL)
        return stack;
    struct text new = old.size > 0 ? stacks_improve(context, error, places_code(), old, first) : old;
    if (new.start != old.start) {
        JS_FreeValue(context, stack);
        stack = JS_NewStringLen(context, new.start, new.size);
        memory_free(new);
    }
    JS_FreeCString(context, old.start);
    return stack;
}

/* Improve the message of an error. Return its frames with improved positions, and free the argument. */
static JSValue improved(JSContext *context, JSValueConst error, JSValue stack)
{
    struct error_texts old = {TEXT(""), TEXT(""), MADE_ERROR}, new = old;
    old.frames.start = JS_IsString(stack) ? JS_ToCStringLen(context, &old.frames.size, stack) : NULL;
    old.message.start = old.frames.start == NULL ? NULL : own_message(context, error, &old.message.size);
    if (old.message.start != NULL) {
        new = improve(old);
        if (new.message.start != old.message.start)
            JS_DefinePropertyValueStr(context, error, "message",
                JS_NewStringLen(context, new.message.start, new.message.size), JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
        if (new.frames.start != old.frames.start) {
            JS_FreeValue(context, stack);
            stack = JS_NewStringLen(context, new.frames.start, new.frames.size);
            memory_free(new.frames);
        }
    }
    JS_FreeCString(context, old.message.start);
    JS_FreeCString(context, old.frames.start);
    return with_calls(context, error, stack, new.first);
}

static JSValue get_stack(JSContext *context, JSValueConst this)
{
    return with_header(context, this, improved(context, this, errors_frames(context, this)));
}

/* Any value can be assigned, and it does not become enumerable. The engine's own setter accepts only strings, and makes
 * the property enumerable, so that it would appear in the error's JSON. */
static JSValue set_stack(JSContext *context, JSValueConst this, JSValueConst value)
{
    if (!JS_IsObject(this))
        return JS_ThrowTypeError(context, "not an object");
    int done = JS_DefinePropertyValueStr(
        context, this, "stack", JS_DupValue(context, value), JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE | JS_PROP_THROW);
    return done < 0 ? JS_EXCEPTION : JS_UNDEFINED;
}

/* Error.captureStackTrace(object, function) */
static JSValue capture(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    /* The engine omits all frames up to this function. */
    JSValueConst above = count > 1 && JS_IsFunction(context, arguments[1]) ? arguments[1] : own_capture;
    JSValueConst given[] = {arguments[0], above};
    JSValue done = JS_Call(context, engine_capture, this, 2, given);
    if (JS_IsException(done))
        return done;
    JSValue stack = JS_GetPropertyStr(context, arguments[0], "stack");
    if (JS_IsException(stack))
        return stack;
    stack = with_header(context, arguments[0], with_calls(context, arguments[0], stack, MADE_ERROR));
    if (JS_IsException(stack) ||
        JS_DefinePropertyValueStr(context, arguments[0], "stack", stack, JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE) < 0)
        return JS_EXCEPTION;
    return done;
}

static JSValue member(JSContext *context, JSValueConst object, const char *name)
{
    JSValue value = JS_GetPropertyStr(context, object, name);
    return JS_IsException(value) ? JS_UNDEFINED : value;
}

/* Install these functions in a context. */
bool errors_add(JSContext *context)
{
    JSPropertyDescriptor stack;
    owner = context;
    JSValue global = JS_GetGlobalObject(context);
    JSValue constructor = member(context, global, "Error"), string = member(context, global, "String");
    JSValue prototype = member(context, constructor, "prototype"), text = member(context, string, "prototype");
    JSAtom name = JS_NewAtom(context, "stack");
    text_of_error = member(context, prototype, "toString");
    concatenate = member(context, text, "concat");
    engine_capture = member(context, constructor, "captureStackTrace");
    own_capture = JS_NewCFunction(context, capture, "captureStackTrace", 2);
    bool good = JS_GetOwnProperty(context, &stack, prototype, name) > 0 && JS_IsFunction(context, stack.getter);
    if (good) {
        engine_stack = stack.getter;
        JSCFunctionType getter = {.getter = get_stack}, setter = {.setter = set_stack};
        JSValue get = JS_NewCFunction2(context, getter.generic, "get stack", 0, JS_CFUNC_getter, 0);
        JSValue set = JS_NewCFunction2(context, setter.generic, "set stack", 1, JS_CFUNC_setter, 0);
        JS_FreeValue(context, stack.setter);
        good = JS_DefinePropertyGetSet(context, prototype, name, get, set, JS_PROP_CONFIGURABLE) >= 0 &&
               JS_DefinePropertyValueStr(context, constructor, "captureStackTrace", JS_DupValue(context, own_capture),
                   JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE) >= 0;
    }
    JS_FreeAtom(context, name);
    JS_FreeValue(context, text);
    JS_FreeValue(context, prototype);
    JS_FreeValue(context, string);
    JS_FreeValue(context, constructor);
    JS_FreeValue(context, global);
    return good;
}
