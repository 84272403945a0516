/* Messages that name the failed expression: "o.run is not a function" instead of "not a function". */
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

/* Return the token after the called expression, if the error's position is in its arguments or in its index. This
 * happens if the last argument is an identifier, and in a tail call. Return NO_TOKEN if the position is not in a call.
 * */
static size_t call_around(size_t at)
{
    while ((at = tokens_open(&window, at)) != NO_TOKEN && at > 0) {
        size_t after = tokens_close(&window, at) + 1;
        if (at_is(at, "(") && ((at_is_kind(at - 1, NAME) && !at_is_keyword(at - 1)) || at_closes(at - 1)))
            return at;
        if (at_is(at, "[") && at_is(after, "("))
            return after;
        if (!at_is(at, "(") && !at_is(at, "["))
            break;
    }
    return NO_TOKEN;
}

static bool is_call(size_t at)
{
    return at_is(at, "(") || at_is_kind(at, HEAD) || (at_is_kind(at, VALUE) && *window.list[at].start == '`');
}

/* Return the message that names the called expression, and set `at` to its last token. Return an empty text if the
 * expression is not known. */
struct text messages_of_call(struct text old, size_t *at)
{
    size_t from = at_chain(*at), end = *at + 1;
    if (!at_is_kind(*at, NAME) || at_is_keyword(*at))
        return TEXT("");
    bool is_new = from > 0 && at_is(from - 1, "new");
    while (at_is(end, "[") || ((is_new || from == *at) && at_is_dot(end) && at_is_kind(end + 1, NAME)))
        end = at_is(end, "[") ? tokens_close(&window, end) + 1 : end + 2;
    size_t open = at_is(end, "?.") ? end + 1 : end;
    if (!is_call(open) && !is_new) {
        end = open = call_around(*at);
        if (end == NO_TOKEN)
            return TEXT("");
        from = at_chain(end - 1);
        is_new = from > 0 && at_is(from - 1, "new");
        *at = end - 1;
    }
    bool is_super = !is_new && old.size == strlen("not a constructor");
    if (is_super || is_given(open, old) || (is_call(open) && at_is(tokens_close(&window, open) + 1, "(")))
        return TEXT("");
    return message_of("", from, end, is_new ? " is not a constructor" : " is not a function");
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

/* Return the message for an object pattern whose first property is at this token. */
struct text messages_of_pattern(size_t at)
{
    if (!at_is_kind(at, NAME))
        return TEXT("");
    return message_of("Cannot destructure property '", at, at + 1, "' of null or undefined");
}
