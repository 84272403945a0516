/* C functions for the cell's scripts: `__promptlog_log` and `__promptlog_engine` for prelude.js, and `__promptlog_utf8`
 * for encoding.js. The scripts remove the names. A program can still get the functions (CallSite.getFunction), so they
 * accept any argument. They do nothing that a program may not do anyway. */
#include <string.h>

#include "cell.h"

/* log(level, text) -> bytes: a console line. */
static JSValue log_line(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this;
    if (count < 2)
        return JS_UNDEFINED;
    int level = JS_VALUE_GET_TAG(arguments[0]) == JS_TAG_INT ? JS_VALUE_GET_INT(arguments[0]) : 1;
    struct text text;
    text.start = JS_ToCStringLen(context, &text.size, arguments[1]);
    if (text.start == NULL)
        return JS_EXCEPTION;
    frames_send_marked('l', level >= 0 && level <= 4 ? (char)('0' + level) : '1', text);
    JS_FreeCString(context, text.start);
    return JS_NewInt64(context, (int64_t)text.size);
}

/* engine.size(text) -> bytes in UTF-8 */
static JSValue size_of(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    size_t size;
    const char *bytes = JS_ToCStringLen(context, &size, arguments[0]);
    if (bytes == NULL)
        return JS_EXCEPTION;
    JS_FreeCString(context, bytes);
    return JS_NewInt64(context, (int64_t)size);
}

/* engine.target(value) -> the target of a proxy, or the value itself; null if the proxy was revoked. */
static JSValue target_of(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    JSValue value = JS_DupValue(context, arguments[0]);
    while (JS_IsProxy(value)) {
        JSValue target = JS_GetProxyTarget(context, value);
        JS_FreeValue(context, value);
        if (JS_IsException(target)) {
            JS_FreeValue(context, JS_GetException(context));
            return JS_NULL;
        }
        value = target;
    }
    return value;
}

/* engine.proxy(value) -> { target, handler } of a proxy that was not revoked */
static JSValue proxy_of(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    JSValue result = JS_NewObjectProto(context, JS_NULL);
    if (JS_DefinePropertyValueStr(context, result, "target", JS_GetProxyTarget(context, arguments[0]), JS_PROP_C_W_E) < 0 ||
        JS_DefinePropertyValueStr(context, result, "handler", JS_GetProxyHandler(context, arguments[0]), JS_PROP_C_W_E) < 0) {
        JS_FreeValue(context, result);
        return JS_EXCEPTION;
    }
    return result;
}

/* engine.classOf(value) -> the engine's number of the class of an object */
static JSValue class_of(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    return JS_NewUint32(context, JS_IsObject(arguments[0]) ? JS_GetClassID(arguments[0]) : 0);
}

/* engine.promise(value) -> { state, value } of a promise; undefined for any other value. */
static JSValue promise_of(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    static const char *const states[] = {"pending", "fulfilled", "rejected"};
    (void)this, (void)count;
    int state = JS_PromiseState(context, arguments[0]);
    if (state == JS_PROMISE_NOT_A_PROMISE)
        return JS_UNDEFINED;
    JSValue details = JS_NewObjectProto(context, JS_NULL);
    if (JS_IsException(details) ||
        JS_DefinePropertyValueStr(context, details, "state", JS_NewString(context, states[state]), JS_PROP_C_W_E) < 0 ||
        JS_DefinePropertyValueStr(
            context, details, "value", JS_PromiseResult(context, arguments[0]), JS_PROP_C_W_E) < 0) {
        JS_FreeValue(context, details);
        return JS_EXCEPTION;
    }
    return details;
}

/* utf8.encode(text) -> Uint8Array */
static JSValue encode(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    size_t size;
    const char *bytes = JS_ToCStringLen(context, &size, arguments[0]);
    if (bytes == NULL)
        return JS_EXCEPTION;
    JSValue array = JS_NewUint8ArrayCopy(context, (const uint8_t *)bytes, size);
    JS_FreeCString(context, bytes);
    return array;
}

/* Return the size of the character at `at`. If it is invalid, return minus the number of bytes that one U+FFFD
 * replaces: the maximal prefix of a valid character (The Unicode Standard, 3.9, table 3-7, and the Encoding
 * Standard). */
static int character_size(const uint8_t *at, const uint8_t *end)
{
    uint8_t lead = at[0];
    int size = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (size == 0)
        return -1;
    for (int i = 1; i < size; i++) {
        if (at + i == end || at[i] < least || at[i] > most)
            return -i;
        least = 0x80;
        most = 0xbf;
    }
    return size;
}

/* Return the bytes of a Uint8Array. NULL with an exception, or if it is empty. The engine itself reports the length at
 * the creation of the array, even if its resizable buffer has become shorter. */
static const uint8_t *bytes_of(JSContext *context, size_t *size, JSValueConst array)
{
    const uint8_t *bytes = JS_GetUint8Array(context, size, array);
    if (bytes == NULL)
        return NULL;
    size_t offset = 0, whole = 0;
    JSValue buffer = JS_GetTypedArrayBuffer(context, array, &offset, NULL, NULL);
    JS_GetArrayBuffer(context, &whole, buffer);
    JS_FreeValue(context, buffer); /* the array keeps a reference */
    if (*size > whole - offset)
        *size = whole - offset;
    return bytes;
}

/* utf8.decode(Uint8Array) -> text, with U+FFFD for invalid bytes, without a leading byte order mark. */
static JSValue decode(JSContext *context, JSValueConst this, int count, JSValueConst *arguments)
{
    (void)this, (void)count;
    size_t size;
    const uint8_t *at = bytes_of(context, &size, arguments[0]);
    if (at == NULL && JS_HasException(context))
        return JS_EXCEPTION;
    if (size >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0) {
        at += 3;
        size -= 3;
    }
    const uint8_t *end = at + size, *next = at;
    size_t bad = 0;
    while (next < end) {
        int bytes = character_size(next, end);
        bad += bytes < 0;
        next += bytes < 0 ? -bytes : bytes;
    }
    if (bad == 0)
        return JS_NewStringLen(context, (const char *)at, size);
    char *repaired = js_malloc(context, size + 2 * bad), *to = repaired;
    if (repaired == NULL)
        return JS_EXCEPTION;
    while (at < end) {
        int bytes = character_size(at, end);
        int written = bytes < 0 ? 3 : bytes;
        memcpy(to, bytes < 0 ? (const uint8_t *)"\xef\xbf\xbd" : at, (size_t)written);
        to += written;
        at += bytes < 0 ? -bytes : bytes;
    }
    JSValue text = JS_NewStringLen(context, repaired, (size_t)(to - repaired));
    js_free(context, repaired);
    return text;
}

static const JSCFunctionListEntry utf8_functions[] = {
    JS_CFUNC_DEF("encode", 1, encode),
    JS_CFUNC_DEF("decode", 1, decode),
};

static const JSCFunctionListEntry engine_functions[] = {
    JS_CFUNC_DEF("size", 1, size_of),
    JS_CFUNC_DEF("target", 1, target_of),
    JS_CFUNC_DEF("proxy", 1, proxy_of),
    JS_CFUNC_DEF("classOf", 1, class_of),
    JS_CFUNC_DEF("promise", 1, promise_of),
};

static const JSCFunctionListEntry globals[] = {
    JS_CFUNC_DEF("__promptlog_log", 2, log_line),
    JS_OBJECT_DEF("__promptlog_engine", engine_functions, 5, JS_PROP_CONFIGURABLE),
    JS_OBJECT_DEF("__promptlog_utf8", utf8_functions, 2, JS_PROP_CONFIGURABLE),
};

/* Add the hooks to a context. */
bool hooks_add(JSContext *context)
{
    JSValue global = JS_GetGlobalObject(context);
    bool good = JS_SetPropertyFunctionList(context, global, globals, sizeof globals / sizeof *globals) == 0;
    JSValue engine = JS_GetPropertyStr(context, global, "__promptlog_engine");
    good = good && plain_add(context, engine);
    JS_FreeValue(context, engine);
    JS_FreeValue(context, global);
    return good;
}
