/* error.stack as V8 has it: name and message, then the frames. The engine's own has the frames alone. */
#include <string.h>

#include "cell.h"

#define FRAME "    at "
#define OWN_FRAME FRAME "captureStackTrace (native)\n"

/* The engine's functions, as they were before any program. They live as long as this process. */
static JSValue engine_stack, engine_capture, text_of_error, concatenate;
static JSValue own_capture;

/* Return the frames of an error as the engine has them; undefined for what is no error. */
JSValue errors_frames(JSContext *context, JSValueConst error)
{
    return JS_Call(context, engine_stack, error, 0, NULL);
}

/* Return the size of a stack that the engine has made, without its last line feed; -1 for any other value, such as what
 * a program's Error.prepareStackTrace has made. */
static int size_of_frames(const char *stack, size_t size)
{
    bool is_own = size == 0 || (size > strlen(FRAME) && memcmp(stack, FRAME, strlen(FRAME)) == 0 && stack[size - 1] == '\n');
    return !is_own ? -1 : size == 0 ? 0 : (int)size - 1;
}

/* Return a stack with name and message above it, and free the argument. Any other value stays as it is. */
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
    if (JS_IsException(header)) { /* of the program: its error has a name or a message that can't be told */
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

static JSValue get_stack(JSContext *context, JSValueConst this)
{
    return with_header(context, this, errors_frames(context, this));
}

/* Any value may be assigned, and is not enumerable. The engine takes texts alone, and they would be in the error's JSON. */
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
    /* The engine leaves out all frames up to this function. */
    JSValueConst above = count > 1 && JS_IsFunction(context, arguments[1]) ? arguments[1] : own_capture;
    JSValueConst given[] = {arguments[0], above};
    JSValue done = JS_Call(context, engine_capture, this, 2, given);
    if (JS_IsException(done))
        return done;
    JSValue stack = JS_GetPropertyStr(context, arguments[0], "stack");
    if (JS_IsException(stack))
        return stack;
    stack = with_header(context, arguments[0], stack);
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

/* Give a context's errors such stacks. */
bool errors_add(JSContext *context)
{
    JSPropertyDescriptor stack;
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
