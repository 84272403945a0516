/* The frames of a stack: which are shown, and the positions of the calls in them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokens.h"

#define FRAME "    at "

enum { MOST_FRAMES = 12, MOST_NAMES = 8, PLACE_BYTES = 32 };

/* Find the position in the first line of a text. Return false if this line is not a frame in the program. */
bool stacks_read_frame(const char *line, const char *end, struct frame *frame)
{
    static const char *const files[] = {" (eval_script:", " (program:"};
    const char *line_end = memchr(line, '\n', (size_t)(end - line)), *at = NULL;
    char *next;
    line_end = line_end == NULL ? end : line_end;
    for (size_t i = 0; i < 2 && at == NULL; i++) {
        const char *found = memmem(line, (size_t)(line_end - line), files[i], strlen(files[i]));
        at = found == NULL ? NULL : found + strlen(files[i]);
    }
    if (at == NULL)
        return false;
    frame->start = at;
    frame->place.line = (unsigned)strtoul(at, &next, 10);
    if (*next != ':')
        return false;
    frame->place.column = (unsigned)strtoul(next + 1, &next, 10);
    frame->end = next;
    return *next == ')';
}

/* Return the name of the function in a frame, or an empty text. */
struct text stacks_function(struct text line)
{
    const char *end = memmem(line.start, line.size, " (", 2);
    if (end == NULL || line.size < strlen(FRAME) || end < line.start + strlen(FRAME))
        return TEXT("");
    struct text name = {line.start + strlen(FRAME), (size_t)(end - line.start) - strlen(FRAME)};
    return name.size > 0 && *name.start == '<' ? TEXT("") : name;
}

/* Return an own property that is no accessor; undefined if there is none. No code of the program runs. */
static JSValue data_of(JSContext *context, JSValueConst object, const char *key)
{
    JSPropertyDescriptor found = {.value = JS_UNDEFINED, .getter = JS_UNDEFINED, .setter = JS_UNDEFINED};
    JSAtom name = JS_NewAtom(context, key);
    int has = JS_IsObject(object) && !JS_IsProxy(object) ? JS_GetOwnProperty(context, &found, object, name) : 0;
    if (has < 0) /* no memory */
        JS_FreeValue(context, JS_GetException(context));
    if (has <= 0)
        found.value = JS_UNDEFINED;
    JS_FreeAtom(context, name);
    JS_FreeValue(context, found.getter);
    JS_FreeValue(context, found.setter);
    return found.value;
}

/* Get the names of the classes of an error. The caller frees them. */
static size_t class_names(JSContext *context, JSValueConst error, struct text *names)
{
    size_t count = 0;
    if (!JS_IsObject(error) || JS_IsProxy(error))
        return 0;
    JSValue holder = JS_GetPrototype(context, error);
    for (size_t i = 0; i < MOST_NAMES && JS_IsObject(holder) && !JS_IsProxy(holder); i++) {
        JSValue made = data_of(context, holder, "constructor"), name = data_of(context, made, "name");
        if (JS_IsString(name) && JS_IsFunction(context, made)) {
            names[count].start = JS_ToCStringLen(context, &names[count].size, name);
            if (names[count].start == NULL)
                JS_FreeValue(context, JS_GetException(context));
            else
                count++;
        }
        JSValue above = JS_GetPrototype(context, holder);
        JS_FreeValue(context, made);
        JS_FreeValue(context, name);
        JS_FreeValue(context, holder);
        holder = above;
    }
    JS_FreeValue(context, holder);
    return count;
}

static bool is_among(struct text name, const struct text *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (name.size > 0 && names[i].size == name.size && memcmp(names[i].start, name.start, name.size) == 0)
            return true;
    return false;
}

static struct text line_of(struct text frames)
{
    const char *end = memchr(frames.start, '\n', frames.size);
    return (struct text){frames.start, end == NULL ? frames.size : (size_t)(end - frames.start)};
}

static struct text behind(struct text text, size_t count)
{
    return (struct text){text.start + count, text.size - count};
}

/* Leave out the constructors of the error's own classes, as V8 does. They are not where the error was created. */
static struct text without_classes(struct text frames, const struct text *names, size_t count)
{
    struct frame frame;
    for (;;) {
        struct text line = line_of(frames);
        if (line.size + 1 >= frames.size || !is_among(stacks_function(line), names, count) ||
            !stacks_read_frame(frames.start, frames.start + frames.size, &frame))
            return frames;
        frames = behind(frames, line.size + 1);
    }
}

/* Return the frames of an error without those of its constructors, and with the positions of calls that V8 reports. If the
 * frames differ from the given ones, the caller frees them. */
struct text stacks_improve(
    JSContext *context, JSValueConst error, struct text code, struct text given, enum first_frame first)
{
    static char shown[MOST_FRAMES][PLACE_BYTES];
    struct text names[MOST_NAMES], parts[3 * MOST_FRAMES + 1], called = stacks_function(line_of(given));
    size_t count = class_names(context, error, names), used = 0, filled = 0;
    struct text frames = without_classes(given, names, count), rest = frames;
    const char *from = frames.start;
    bool is_first = true;
    for (; rest.size > 0 && filled < MOST_FRAMES; filled++, is_first = false) {
        struct text line = line_of(rest);
        struct frame frame;
        bool is_maker = is_first && first == MADE_ERROR;
        const struct text *wanted = is_maker ? names : &called;
        size_t wanted_count = is_maker ? count : called.size > 0;
        bool known = stacks_read_frame(line.start, line.start + line.size, &frame) && !(is_first && first == IS_PLACED);
        if (known && code.start != NULL && calls_improve(code, &frame.place, wanted, wanted_count, is_first)) {
            int size = snprintf(shown[filled], PLACE_BYTES, "%u:%u", frame.place.line, frame.place.column);
            parts[used++] = (struct text){from, (size_t)(frame.start - from)};
            parts[used++] = (struct text){shown[filled], (size_t)size};
            from = frame.end;
        }
        called = stacks_function(line);
        rest = behind(rest, line.size + (line.size < rest.size));
    }
    for (size_t i = 0; i < count; i++)
        JS_FreeCString(context, names[i].start);
    if (used == 0 && frames.start == given.start)
        return given;
    parts[used++] = (struct text){from, (size_t)(frames.start + frames.size - from)};
    return memory_join(parts, used);
}
