/* Positions of calls. The engine records the position of the last identifier, call or operator before a call: for
 * `new Error(\n  text\n)`, that of `text`. V8 reports the position of `new`, or of the function's name. */
#include <string.h>

#include "tokens.h"

enum { SMALL_BYTES = 16 * 1024 }; /* a program of this size is always searched: 0.1 ms, once */

static bool is_name_byte(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '_' ||
           byte == '$' || (unsigned char)byte >= 0x80;
}

static bool is_one_of(const char *start, size_t size, const struct text *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (names[i].size == size && memcmp(names[i].start, start, size) == 0)
            return true;
    return false;
}

/* Return the program's text from a position on, and set `line_start` to the start of its line. Return an empty text if
 * the program ends before, or may not be read again. The search continues from the line of the previous search, because
 * a loop creates its errors at the same position. */
static struct text line_from(struct text code, struct place place, const char **line_start)
{
    static const char *last_code, *last_start;
    static unsigned last_line;
    bool goes_on = last_code == code.start && last_line <= place.line;
    if (!goes_on && code.size > SMALL_BYTES && !places_may_search())
        return TEXT("");
    const char *at = goes_on ? last_start : code.start, *end = code.start + code.size;
    for (unsigned line = goes_on ? last_line : 1; at != NULL && line < place.line; line++) {
        at = memchr(at, '\n', (size_t)(end - at));
        at = at == NULL ? NULL : at + 1;
    }
    if (at == NULL || place.column == 0 || (size_t)(end - at) < place.column)
        return TEXT("");
    last_code = code.start;
    last_line = place.line;
    last_start = *line_start = at;
    at += place.column - 1;
    return (struct text){at, (size_t)(end - at)};
}

/* Whether one of the names is at this position. If `new` precedes it on the same line, set the position to that of `new`. */
static bool is_at_name(struct text code, struct place *place, const struct text *names, size_t count)
{
    const char *line_start = NULL;
    struct text rest = line_from(code, *place, &line_start);
    size_t size = 0;
    while (size < rest.size && is_name_byte(rest.start[size]))
        size++;
    if (size == 0 || !is_one_of(rest.start, size, names, count))
        return false;
    const char *at = rest.start;
    while (at > line_start && at[-1] == ' ')
        at--;
    bool is_new = at < rest.start && at - line_start >= 3 && memcmp(at - 3, "new", 3) == 0;
    if (is_new && (at - 3 == line_start || !is_name_byte(at[-4])))
        place->column = (unsigned)(at - 3 - line_start) + 1;
    return true;
}

/* If this bracket begins the arguments of a function with one of the names, return the last token of the function's
 * name. Otherwise return NO_TOKEN. `new this(...)` counts as a call of any class. */
static size_t callee_before(size_t bracket, const struct text *names, size_t count)
{
    if (bracket == 0 || !at_is(bracket, "(") || !at_is_kind(bracket - 1, NAME))
        return NO_TOKEN;
    const struct token *name = &window.list[bracket - 1];
    if (bracket > 1 && at_is(bracket - 1, "this") && at_is(bracket - 2, "new"))
        return bracket - 1;
    return is_one_of(name->start, name->size, names, count) ? bracket - 1 : NO_TOKEN;
}

/* Find a call of a function with one of the names, at the window's position or around it in the same function. Return
 * the last token of the function's name, or NO_TOKEN. */
static size_t find_callee(const struct text *names, size_t count)
{
    size_t at = window.place, end = at + 1;
    while (at_is_kind(at, NAME) && at_is_dot(end) && at_is_kind(end + 1, NAME))
        end += 2;
    size_t found = at_is_kind(at, NAME) ? callee_before(end, names, count) : NO_TOKEN;
    while (found == NO_TOKEN && (at = tokens_open(&window, at)) != NO_TOKEN) {
        if (at_function(at) != NO_TOKEN || at_class(at) != NO_TOKEN)
            return NO_TOKEN;
        found = callee_before(at, names, count);
    }
    return found;
}

/* Change a position in a call to the position that V8 reports for the call. `names`: of the called function.
 * `searches`: whether the whole program may be read to find the call. Return whether the position has changed. */
bool calls_improve(struct text code, struct place *place, const struct text *names, size_t count, bool searches)
{
    const struct place old = *place;
    if (count == 0 || place->line == 0)
        return false;
    if (!is_at_name(code, place, names, count)) {
        bool may_search = tokens_hold(code) || ((searches || code.size <= SMALL_BYTES) && places_may_search());
        if (!may_search || !tokens_around(&window, code, place->line, place->column))
            return false;
        size_t found = find_callee(names, count);
        if (found == NO_TOKEN)
            return false;
        size_t from = at_chain(found);
        const struct token *token = &window.list[from > 0 && at_is(from - 1, "new") ? from - 1 : found];
        *place = (struct place){token->line, token->column};
    }
    return place->line != old.line || place->column != old.column;
}
