/* hooks.c with the engine: arbitrary bytes to text and back, in an array without room behind it. */
#include "hooks.c"

#include "target.h"

void fuzz_decode(struct input *input)
{
    JSContext *engine = context_of_fuzzer();
    JSValue array = JS_NewUint8ArrayCopy(engine, input->at, (size_t)(input->end - input->at));
    REQUIRE(!JS_IsException(array));
    JSValue text = decode(engine, JS_UNDEFINED, 1, (JSValueConst *)&array);
    REQUIRE(JS_IsString(text));
    JSValue again = encode(engine, JS_UNDEFINED, 1, (JSValueConst *)&text);
    size_t size;
    uint8_t *bytes = JS_GetUint8Array(engine, &size, again);
    /* Decoded text is valid UTF-8. Decoding again changes nothing, except for a second byte order mark. */
    for (const uint8_t *at = bytes, *end = bytes + size; at < end;) {
        int character = character_size(at, end);
        REQUIRE(character > 0);
        at += character;
    }
    frames_begin(input);
    JSValueConst line[] = {JS_UNDEFINED, text};
    JS_FreeValue(engine, log_line(engine, JS_UNDEFINED, 2, line));
    frames_require_whole();
    JS_FreeValue(engine, again);
    JS_FreeValue(engine, text);
    JS_FreeValue(engine, array);
}
