/* Formats plain data for the console: object and array literals with numbers, strings and other simple values.
 * inspect.js can format any value. For plain data, these two functions return the same text in a tenth of the time.
 *
 * They call no code of the program. They return undefined for everything else: other prototypes, accessors, symbols,
 * holes, proxies, strings that need an escape. A program can get the functions, so they accept any argument. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cell.h"

enum {
    TEXT_BYTES = 1024, /* maximum size of a text */
    LEVELS = 4,        /* maximum depth */
    AROUND = 9,        /* columns of a line that stay free, as in inspect.js */
    GROUPED_FROM = 7,  /* from this number of elements on, inspect.js groups a list in columns */
    LONG = 1000,       /* above this number of elements, the other properties of a list are not shown */
};

static JSContext *context;
static JSValue object_prototype, array_prototype;
static JSClassID object_class, array_class;
static JSAtom tag_name, constructor_name, prototype_name;

/* --- texts -------------------------------------------------------------------------------------------------------- */

struct line {
    char text[TEXT_BYTES];
    size_t size, units; /* size in bytes, and in UTF-16 code units */
};

static bool add(struct line *line, const char *text, size_t size)
{
    if (size > sizeof line->text - line->size)
        return false;
    memcpy(line->text + line->size, text, size);
    line->size += size;
    for (size_t i = 0; i < size; i++) /* one unit for each character, and two for a character of four bytes */
        line->units += ((unsigned char)text[i] & 0xc0) != 0x80 ? 1 + ((unsigned char)text[i] >= 0xf0) : 0;
    return true;
}

/* Add a string in quotes. Return false if it needs an escape. */
static bool add_quoted(struct line *line, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i], next = i + 1 < size ? (unsigned char)text[i + 1] : 0;
        bool control = byte < 0x20 || byte == 0x7f || (byte == 0xc2 && next < 0xa0);
        if (control || byte == '\'' || byte == '\\' || (byte == 0xed && next >= 0xa0)) /* the last: a lone surrogate */
            return false;
    }
    return add(line, "'", 1) && add(line, text, size) && add(line, "'", 1);
}

static bool is_name(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char byte = text[i];
        bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_';
        if (!letter && (i == 0 || byte < '0' || byte > '9'))
            return false;
    }
    return size > 0;
}

static bool add_key(struct line *line, JSAtom key)
{
    size_t size;
    const char *text = key == prototype_name ? NULL : JS_AtomToCStringLen(context, &size, key);
    if (text == NULL)
        return false;
    bool good = (is_name(text, size) ? add(line, text, size) : add_quoted(line, text, size)) && add(line, ": ", 2);
    JS_FreeCString(context, text);
    return good;
}

/* Add a primitive value. Return false for symbols, BigInts, and strings that need an escape. */
static bool add_primitive(struct line *line, JSValueConst value)
{
    char number[16];
    size_t size;
    if (JS_VALUE_GET_TAG(value) == JS_TAG_INT) {
        size = (size_t)snprintf(number, sizeof number, "%d", JS_VALUE_GET_INT(value));
        return add(line, number, size);
    }
    if (JS_IsBool(value))
        return JS_VALUE_GET_BOOL(value) ? add(line, "true", 4) : add(line, "false", 5);
    if (JS_IsNull(value))
        return add(line, "null", 4);
    if (JS_IsUndefined(value))
        return add(line, "undefined", 9);
    if (!JS_IsString(value) && !JS_IsNumber(value))
        return false;
    if (JS_IsNumber(value) && JS_VALUE_GET_FLOAT64(value) == 0 && signbit(JS_VALUE_GET_FLOAT64(value)))
        return add(line, "-0", 2);
    const char *text = JS_ToCStringLen(context, &size, value);
    if (text == NULL) {
        JS_FreeValue(context, JS_GetException(context));
        return false;
    }
    bool good = JS_IsString(value) ? add_quoted(line, text, size) : add(line, text, size);
    JS_FreeCString(context, text);
    return good;
}

/* --- objects ------------------------------------------------------------------------------------------------------ */

struct members {
    JSPropertyEnum *keys;
    uint32_t count; /* number of keys; for a list, its length, and it has no other keys */
    bool is_list;
};

static void forget(struct members *members)
{
    JS_FreePropertyEnum(context, members->keys, members->count);
}

static bool has_prototype(JSValueConst value, JSValueConst prototype)
{
    JSValue found = JS_GetPrototype(context, value);
    bool same = JS_IsObject(found) && JS_VALUE_GET_PTR(found) == JS_VALUE_GET_PTR(prototype);
    JS_FreeValue(context, found);
    return same && JS_GetOwnProperty(context, NULL, object_prototype, tag_name) == 0 &&
           JS_GetOwnProperty(context, NULL, array_prototype, tag_name) == 0;
}

static uint32_t count_of(JSValueConst value, int which)
{
    JSPropertyEnum *keys;
    uint32_t count;
    if (JS_GetOwnPropertyNames(context, &keys, &count, value, which) < 0) {
        JS_FreeValue(context, JS_GetException(context));
        return UINT32_MAX;
    }
    JS_FreePropertyEnum(context, keys, count);
    return count;
}

/* Get the keys of an object, or the length of a list. Return false if it is not plain. */
static bool members_of(JSValueConst value, struct members *members)
{
    JSClassID class = JS_GetClassID(value);
    *members = (struct members){NULL, 0, class == array_class};
    if (members->is_list) {
        int64_t length;
        if (!has_prototype(value, array_prototype) || JS_GetLength(context, value, &length) < 0)
            return false;
        members->count = (uint32_t)length;
        return length > LONG || (count_of(value, JS_GPN_STRING_MASK | JS_GPN_SYMBOL_MASK) == members->count + 1);
    }
    if (class != object_class || !has_prototype(value, object_prototype) || count_of(value, JS_GPN_SYMBOL_MASK) != 0 ||
        JS_GetOwnProperty(context, NULL, value, constructor_name) != 0)
        return false;
    if (JS_GetOwnPropertyNames(context, &members->keys, &members->count, value, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY) == 0)
        return true;
    JS_FreeValue(context, JS_GetException(context));
    return false;
}

/* Get the value of a member. Return false if there is none, or if it is an accessor. */
static bool member_at(JSValueConst object, const struct members *members, uint32_t at, JSValue *value)
{
    JSPropertyDescriptor found;
    JSAtom key = members->is_list ? JS_NewAtomUInt32(context, at) : members->keys[at].atom;
    bool good = JS_GetOwnProperty(context, &found, object, key) > 0;
    if (members->is_list)
        JS_FreeAtom(context, key);
    if (!good)
        return false;
    *value = found.value;
    if ((found.flags & JS_PROP_GETSET) == 0)
        return true;
    JS_FreeValue(context, found.value);
    JS_FreeValue(context, found.getter);
    JS_FreeValue(context, found.setter);
    return false;
}

/* --- a line ------------------------------------------------------------------------------------------------------- */

/* The object that is being formatted, and the objects that contain it. */
struct level {
    const struct level *above;
    JSValueConst object;
    int depth; /* number of levels below it that are shown */
    int room;  /* number of free columns */
};

static bool is_open(const struct level *level, JSValueConst object)
{
    for (; level != NULL; level = level->above)
        if (JS_VALUE_GET_PTR(level->object) == JS_VALUE_GET_PTR(object))
            return true;
    return false;
}

static bool add_object(struct line *line, const struct level *level);

static bool add_member(struct line *line, const struct level *level, const struct members *members, uint32_t at)
{
    JSValue value;
    if ((!members->is_list && !add_key(line, members->keys[at].atom)) || !member_at(level->object, members, at, &value))
        return false;
    bool good;
    if (JS_IsObject(value)) {
        const struct level below = {level, value, level->depth - 1, level->room - 2};
        good = !is_open(level, value) && add_object(line, &below);
    } else {
        good = add_primitive(line, value);
    }
    JS_FreeValue(context, value);
    return good;
}

/* Add an object on one line. Return false if it is not plain or does not fit. */
static bool add_object(struct line *line, const struct level *level)
{
    struct members members;
    size_t start = line->units;
    if (!members_of(level->object, &members))
        return false;
    const char *const marks = members.is_list ? "[]" : "{}";
    bool good;
    if (members.count == 0) {
        good = add(line, marks, 2);
    } else if (level->depth < 0) {
        good = members.is_list ? add(line, "[Array]", 7) : add(line, "[Object]", 8);
    } else {
        good = !members.is_list || members.count < GROUPED_FROM;
        good = good && add(line, marks, 1) && add(line, " ", 1);
        for (uint32_t at = 0; good && at < members.count; at++)
            good = (at == 0 || add(line, ", ", 2)) && add_member(line, level, &members, at) &&
                   (int)(line->units - start) <= level->room;
        good = good && add(line, " ", 1) && add(line, marks + 1, 1) && (int)(line->units - start) <= level->room;
    }
    if (!members.is_list)
        forget(&members);
    return good;
}

/* engine.line(value, depth, indent, width, open, opened) -> the text of a plain object that fits on one line, or
 * undefined. `depth`: number of levels below it that are shown. `open`, `opened`: the objects that contain it, and
 * their number. */
static JSValue line_of(JSContext *own, JSValueConst this, int count, JSValueConst *arguments)
{
    struct line line = {.size = 0};
    struct level levels[LEVELS];
    int32_t numbers[4] = {0};
    (void)own, (void)this, (void)count;
    if (!JS_IsObject(arguments[0]))
        return JS_UNDEFINED;
    for (int i = 0; i < 4; i++) {
        static const int at[] = {1, 2, 3, 5};
        if (JS_VALUE_GET_TAG(arguments[at[i]]) != JS_TAG_INT)
            return JS_UNDEFINED;
        numbers[i] = JS_VALUE_GET_INT(arguments[at[i]]);
    }
    int opened = numbers[3];
    if (numbers[0] >= LEVELS - 1 || opened < 0 || opened >= LEVELS || JS_GetClassID(arguments[4]) != array_class)
        return JS_UNDEFINED;
    JSValue around[LEVELS];
    bool good = true;
    for (int i = 0; i < opened; i++) {
        around[i] = JS_GetPropertyUint32(context, arguments[4], (uint32_t)i);
        good = good && JS_IsObject(around[i]);
        levels[i] = (struct level){i == 0 ? NULL : &levels[i - 1], around[i], 0, 0};
    }
    levels[opened] = (struct level){
        opened == 0 ? NULL : &levels[opened - 1], arguments[0], numbers[0], numbers[2] - numbers[1] - AROUND};
    good = good && !is_open(levels[opened].above, arguments[0]) && add_object(&line, &levels[opened]);
    for (int i = 0; i < opened; i++)
        JS_FreeValue(context, around[i]);
    return good ? JS_NewStringLen(context, line.text, line.size) : JS_UNDEFINED;
}

/* --- members ------------------------------------------------------------------------------------------------------ */

struct parts {
    JSValue *entries, *rest; /* `rest` has three values for each member: its index, its key and its value */
    uint32_t entries_count, rest_count;
    size_t units; /* size of all texts in UTF-16 code units */
    bool are_numbers;
};

/* Add a member as a text, or to `rest`. */
static bool take_member(struct parts *parts, JSValueConst object, const struct members *members, uint32_t at)
{
    struct line line = {.size = 0};
    JSValue value;
    if (!member_at(object, members, at, &value))
        return false;
    parts->are_numbers = parts->are_numbers && (JS_IsNumber(value) || JS_IsBigInt(value));
    bool whole = !JS_IsObject(value) && (members->is_list || add_key(&line, members->keys[at].atom)) && add_primitive(&line, value);
    parts->entries[parts->entries_count++] = whole ? JS_NewStringLen(context, line.text, line.size) : JS_UNDEFINED;
    if (whole) {
        parts->units += line.units;
        JS_FreeValue(context, value);
        return true;
    }
    JSValue *rest = &parts->rest[parts->rest_count];
    rest[0] = JS_NewUint32(context, at);
    rest[1] = members->is_list ? JS_UNDEFINED : JS_AtomToString(context, members->keys[at].atom);
    rest[2] = value;
    parts->rest_count += 3;
    return true;
}

/* engine.members(value, most) -> [entries, rest, is_list, are_numbers, length, units] of a plain object or list, or
 * undefined. `entries` has the text of each member, for at most `most` members, and undefined for members in `rest`.
 * `rest` has three values for each of its members: the index, the key and the value. If a list has more members,
 * `entries` has one more entry, undefined. `units` is the size of all entries in UTF-16 code units. */
static JSValue members_at(JSContext *own, JSValueConst this, int count, JSValueConst *arguments)
{
    struct members members;
    (void)own, (void)this, (void)count;
    if (!JS_IsObject(arguments[0]) || JS_VALUE_GET_TAG(arguments[1]) != JS_TAG_INT || !members_of(arguments[0], &members))
        return JS_UNDEFINED;
    int most = JS_VALUE_GET_INT(arguments[1]);
    uint32_t shown = members.is_list && most >= 0 && members.count > (uint32_t)most ? (uint32_t)most : members.count;
    struct parts parts = {.are_numbers = members.is_list};
    bool good = shown <= LONG;
    if (good) {
        parts.entries = js_malloc(context, (4 * shown + 1) * sizeof(JSValue));
        good = parts.entries != NULL;
        parts.rest = parts.entries + shown + 1;
    }
    for (uint32_t at = 0; good && at < shown; at++)
        good = take_member(&parts, arguments[0], &members, at);
    if (good && shown < members.count)
        parts.entries[parts.entries_count++] = JS_UNDEFINED;
    JSValue result = JS_UNDEFINED;
    if (good) {
        const JSValue all[] = {
            JS_NewArrayFrom(context, (int)parts.entries_count, parts.entries),
            JS_NewArrayFrom(context, (int)parts.rest_count, parts.rest),
            JS_NewBool(context, members.is_list),
            JS_NewBool(context, parts.are_numbers),
            JS_NewUint32(context, members.count),
            JS_NewInt64(context, (int64_t)parts.units),
        };
        result = JS_NewArrayFrom(context, sizeof all / sizeof *all, all);
    } else {
        for (uint32_t i = 0; i < parts.entries_count; i++)
            JS_FreeValue(context, parts.entries[i]);
        for (uint32_t i = 0; i < parts.rest_count; i++)
            JS_FreeValue(context, parts.rest[i]);
    }
    js_free(context, parts.entries);
    if (!members.is_list)
        forget(&members);
    return result;
}

static const JSCFunctionListEntry functions[] = {
    JS_CFUNC_DEF("line", 6, line_of),
    JS_CFUNC_DEF("members", 2, members_at),
};

/* Add these functions to an object. */
bool plain_add(JSContext *owner, JSValueConst engine)
{
    context = owner;
    JSValue object = JS_NewObject(context), array = JS_NewArray(context), global = JS_GetGlobalObject(context);
    JSValue symbols = JS_GetPropertyStr(context, global, "Symbol");
    JSValue tag = JS_GetPropertyStr(context, symbols, "toStringTag");
    object_prototype = JS_GetPrototype(context, object);
    array_prototype = JS_GetPrototype(context, array);
    object_class = JS_GetClassID(object);
    array_class = JS_GetClassID(array);
    tag_name = JS_ValueToAtom(context, tag);
    constructor_name = JS_NewAtom(context, "constructor");
    prototype_name = JS_NewAtom(context, "__proto__");
    bool good = JS_SetPropertyFunctionList(context, engine, functions, sizeof functions / sizeof *functions) == 0;
    JSValue unused[] = {object, array, global, symbols, tag};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        JS_FreeValue(context, unused[i]);
    return good;
}
