/* Messages that name the failed expression: "o.run is not a function" instead of "not a function". */
#include <stdio.h>
#include <string.h>

#include "tokens.h"

enum { MESSAGE_BYTES = 160, LONGEST_VALUE = 24 };

struct message {
    char text[MESSAGE_BYTES];
    size_t size;
    bool full;
};

static void add(struct message *message, const char *start, size_t size)
{
    message->full |= size > sizeof message->text - message->size;
    if (message->full)
        return;
    memcpy(message->text + message->size, start, size);
    message->size += size;
}

/* Write the expression from token `from` up to token `to`, without arguments and without indexes of several tokens. */
static void add_expression(struct message *message, size_t from, size_t to)
{
    for (size_t at = from; at < to && at < window.count; at++) {
        const struct token *token = &window.list[at];
        bool is_short = token->kind != VALUE || token->size <= LONGEST_VALUE;
        add(message, is_short ? token->start : "...", is_short ? token->size : 3);
        if (!token_opens(token) || (at_is(at, "[") && at_is(at + 2, "]")))
            continue;
        at = tokens_close(&window, at);
        if (at < to && at < window.count) {
            if (!at_is(at - 1, "("))
                add(message, "...", 3);
            add(message, window.list[at].start, window.list[at].size);
        }
    }
}

/* Whether the program itself contains this message, as in `new TypeError('not a function')`. */
static bool is_given(size_t open, struct text message)
{
    if (!at_is(open, "(") || !at_is_kind(open + 1, VALUE))
        return false;
    const struct token *token = &window.list[open + 1];
    return token->size == message.size + 2 && memcmp(token->start + 1, message.start, message.size) == 0;
}

/* Return `before`, the expression from token `from` up to token `to`, and `after`. Return an empty text if this is too
 * long. The result is valid until the next call. */
static struct text message_of(const char *before, size_t from, size_t to, const char *after)
{
    static struct message message;
    message = (struct message){.size = 0};
    add(&message, before, strlen(before));
    add_expression(&message, from, to);
    add(&message, after, strlen(after));
    return message.full ? TEXT("") : (struct text){message.text, message.size};
}

/* A called expression: its tokens from `from` to before `end`, the bracket or template after it, and whether `new`
 * precedes it. `made`: the expression begins with `new X(...)`, which is not among its tokens. */
struct callee {
    size_t from, end, open;
    bool is_new, made;
};

/* Set `is_new`. For `new X(...).y`, set `made` and leave out `X(...)`. */
static void read_new(struct callee *callee)
{
    callee->made = false;
    callee->is_new = callee->from > 0 && at_is(callee->from - 1, "new");
    size_t at = callee->from;
    if (at < callee->end && token_opens(&window.list[at]))
        at = tokens_close(&window, at) + 1;
    for (; callee->is_new && at < callee->end; at++) {
        if (at_is(at, "(")) {
            callee->is_new = false;
            callee->made = true;
            callee->from = tokens_close(&window, at) + 1;
        } else if (at_is(at, "[")) {
            at = tokens_close(&window, at);
        }
    }
}

static bool is_call(size_t at)
{
    return at_is(at, "(") || at_is_kind(at, HEAD) || (at_is_kind(at, VALUE) && *window.list[at].start == '`');
}

/* Get the call at the error's position. Return false if the position is not in the name of a called function. */
static bool callee_at(size_t at, struct callee *callee)
{
    if (!at_is_kind(at, NAME) || at_is_keyword(at))
        return false;
    *callee = (struct callee){.from = at_chain(at), .end = at + 1};
    read_new(callee);
    size_t end = callee->end;
    while (at_is(end, "[") || ((callee->is_new || callee->from == at) && at_is_dot(end) && at_is_kind(end + 1, NAME)))
        end = at_is(end, "[") ? tokens_close(&window, end) + 1 : end + 2;
    callee->end = end;
    callee->open = at_is(end, "?.") ? end + 1 : end;
    return is_call(callee->open) || callee->is_new;
}

/* Whether a brace opens an object literal. */
static bool opens_literal(size_t brace)
{
    static const char *const before[] = {"(", ",", ":", "[", "?", "=", "...", "||", "&&", "??", "return", NULL};
    return at_is(brace, "{") && brace > 0 && at_is_one_of(brace - 1, before);
}

/* Get the innermost call around the token `at`. The error's position may be in its arguments or in its index. */
static bool callee_around(size_t at, struct callee *callee)
{
    while ((at = tokens_open(&window, at)) != NO_TOKEN && at > 0) {
        size_t after = tokens_close(&window, at) + 1;
        if (at_is(at, "(") && at_function(after) == NO_TOKEN && !at_is(after, "=>") &&
            ((at_is_kind(at - 1, NAME) && !at_is_keyword(at - 1)) || at_closes(at - 1))) {
            *callee = (struct callee){.from = at_chain(at - 1), .end = at, .open = at};
            read_new(callee);
            return true;
        }
        if (at_is(at, "[") && at_is(after, "(")) {
            *callee = (struct callee){.from = at_chain(after - 1), .end = after, .open = after};
            read_new(callee);
            return true;
        }
        if (at_is(at, "{") && !opens_literal(at))
            break;
    }
    return false;
}

/* Whether this is a function of the language, as in `Math.max` and `new Date`. Then another call failed. */
static bool is_built_in(const struct callee *callee)
{
    struct text names[4];
    size_t count = 0;
    for (size_t at = callee->from; at < callee->end && count < 4; at += 2) {
        if (!at_is_kind(at, NAME) || (at + 1 < callee->end && !at_is(at + 1, ".")))
            return false;
        names[count++] = (struct text){window.list[at].start, window.list[at].size};
    }
    return count > 0 && !callee->made && errors_is_function(names, count, callee->is_new);
}

static bool is_error_class(const struct callee *callee)
{
    static const char suffix[] = "Error";
    if (!at_is_kind(callee->end - 1, NAME))
        return false;
    const struct token *last = &window.list[callee->end - 1];
    size_t size = sizeof suffix - 1;
    return last->size >= size && memcmp(last->start + last->size - size, suffix, size) == 0;
}

/* Return the message that names the called expression, and set `at` to its last token. Return an empty text if the
 * expression is not known. */
struct text messages_of_call(struct text old, size_t *at)
{
    struct callee callee;
    if (at_is(*at, "async") || at_is(*at, "function")) { /* an argument, or the start of a function that iterates */
        for (size_t i = *at; i < window.count && i < *at + 2048; i++)
            if (at_is(i, "for") && at_is(i + 1, "await"))
                return TEXT("");
    }
    bool found = callee_at(*at, &callee);
    if (!found && at_is_kind(*at, NAME) && at_is_one_of(at_chain(*at) - 1, (const char *const[]){"of", NULL})) {
        size_t from = at_chain(*at);
        return message_of("", from, *at + 1, " is not async iterable");
    }
    if (!found)
        found = callee_around(*at, &callee);
    while (found && !is_given(callee.open, old) && is_built_in(&callee) && !is_error_class(&callee))
        found = callee_around(callee.open, &callee);
    bool is_super = !callee.is_new && old.size == strlen("not a constructor");
    if (!found || is_super || is_given(callee.open, old) || is_built_in(&callee))
        return TEXT("");
    *at = callee.is_new ? callee.from - 1 : callee.end - 1;
    const char *before = callee.made ? "(intermediate value)" : "";
    if (callee.is_new)
        return message_of(before, callee.from, callee.end, " is not a constructor");
    if (!is_call(callee.open) || !at_is(tokens_close(&window, callee.open) + 1, "("))
        return message_of(before, callee.from, callee.end, " is not a function");
    /* In `f(1)(2)`, both calls have the same position. */
    struct text name = message_of(before, callee.from, callee.end, "");
    static char both[2 * MESSAGE_BYTES + 32];
    if (name.size == 0)
        return name;
    int size = snprintf(both, sizeof both, "%.*s or %.*s(...) is not a function", (int)name.size, name.start,
        (int)name.size, name.start);
    return (struct text){both, (size_t)size};
}

/* Return the message for the iterated expression that starts at this token. Return an empty text if it is more complex
 * than a chain of properties and calls. */
struct text messages_of_iteration(size_t at)
{
    size_t end = at + 1;
    if (!at_is_kind(at, NAME) && !at_is_kind(at, VALUE))
        return TEXT("");
    for (;;) {
        if (at_is_dot(end) && at_is_kind(end + 1, NAME))
            end += 2;
        else if (at_is(end, "(") || at_is(end, "["))
            end = tokens_close(&window, end) + 1;
        else
            break;
    }
    static const char *const ends[] = {";", ")", "]", ",", "}", NULL};
    if (end < window.count && !at_is_one_of(end, ends) && window.list[end].line == window.list[end - 1].line)
        return TEXT("");
    return message_of("", at, end, " is not iterable");
}

/* Return the first property of an object pattern in the pattern that opens before `at`; NO_TOKEN if there is none. */
static size_t nested_pattern(size_t at)
{
    size_t end = tokens_close(&window, at - 1);
    for (; at < end && at < window.count; at++)
        if (at_is(at, "{") && (at_is(at - 1, ":") || at_is(at - 1, "[") || at_is(at - 1, ",")) && at_is_kind(at + 1, NAME))
            return at + 1;
    return NO_TOKEN;
}

/* Return the message for an object pattern whose first property is at this token. If the pattern contains another one,
 * the message names both, because the engine's message does not say which failed. */
struct text messages_of_pattern(size_t at)
{
    static char both[2 * MESSAGE_BYTES + 64];
    if (!at_is_kind(at, NAME))
        return TEXT("");
    size_t nested = at > 0 ? nested_pattern(at) : NO_TOKEN;
    if (nested == NO_TOKEN || window.list[at].size > LONGEST_VALUE || window.list[nested].size > LONGEST_VALUE)
        return message_of("Cannot destructure property '", at, at + 1, "' of null or undefined");
    int size = snprintf(both, sizeof both, "Cannot destructure property '%.*s' or '%.*s' of null or undefined",
        (int)window.list[at].size, window.list[at].start, (int)window.list[nested].size, window.list[nested].start);
    return (struct text){both, (size_t)size};
}

/* --- V8's words -------------------------------------------------------------------------------------------------------- */

/* A message of the engine, as the text before and after a name, and V8's message, where `$` stands for the name. */
struct wording {
    const char *before, *behind, *in_v8;
};

static bool ends_with(struct text text, const char *word)
{
    return text.size >= strlen(word) && memcmp(text.start + text.size - strlen(word), word, strlen(word)) == 0;
}

/* Return the message in V8's words if it is one of the engine's. A message of the program stays unchanged. */
struct text messages_as_in_v8(struct text old, struct text code)
{
    static const struct wording wordings[] = {
        {"cannot read property 'Symbol.iterator' of ", "", "$ is not iterable (cannot read property Symbol(Symbol.iterator))"},
        {"cannot read property '", "' of null", "Cannot read properties of null (reading '$')"},
        {"cannot read property '", "' of undefined", "Cannot read properties of undefined (reading '$')"},
        {"cannot set property '", "' of null", "Cannot set properties of null (setting '$')"},
        {"cannot set property '", "' of undefined", "Cannot set properties of undefined (setting '$')"},
        {"this is not initialized", "",
            "Must call super constructor in derived class before accessing 'this' or returning from derived constructor"},
        {"", " is not initialized", "Cannot access '$' before initialization"},
        {"circular reference", "", "Converting circular structure to JSON"},
        {"BigInt are forbidden in JSON.stringify", "", "Do not know how to serialize a BigInt"},
        {"cannot convert symbol to string", "", "Cannot convert a Symbol value to a string"},
        {"cannot convert symbol to number", "", "Cannot convert a Symbol value to a number"},
    };
    static struct message message;
    for (size_t i = 0; i < sizeof wordings / sizeof *wordings; i++) {
        const struct wording *wording = &wordings[i];
        size_t before = strlen(wording->before), behind = strlen(wording->behind);
        if (old.size < before + behind || memcmp(old.start, wording->before, before) != 0 || !ends_with(old, wording->behind))
            continue;
        if (code.start != NULL && memmem(code.start, code.size, old.start, old.size) != NULL)
            break;
        const char *name = strchr(wording->in_v8, '$');
        message = (struct message){.size = 0};
        add(&message, wording->in_v8, name == NULL ? strlen(wording->in_v8) : (size_t)(name - wording->in_v8));
        if (name != NULL) {
            add(&message, old.start + before, old.size - before - behind);
            add(&message, name + 1, strlen(name + 1));
        }
        return message.full ? old : (struct text){message.text, message.size};
    }
    return old;
}
