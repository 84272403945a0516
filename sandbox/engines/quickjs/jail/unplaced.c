/* Finds the positions of syntax errors that the engine reports without one: invalid regular expressions, and private
 * names that no class declares. */
#include <string.h>

#include "tokens.h"

struct search {
    struct text source, message;
    struct token last;
    struct place found;
};

/* Whether this regular expression, parsed separately, gives the same error. Nothing is executed. */
static bool is_invalid(const struct token *token, struct text message)
{
    struct fault fault;
    const struct text parts[] = {TEXT("("), {token->start, token->size}, TEXT(")")};
    struct text whole = memory_join(parts, 3);
    bool invalid = !context_parses(whole, &fault) && fault.message.size == message.size &&
                   memcmp(fault.message.start, message.start, message.size) == 0;
    memory_free(whole);
    return invalid;
}

static bool use_regexp(const struct token *token, void *given)
{
    struct search *search = given;
    if (token->kind != VALUE || *token->start != '/' || !is_invalid(token, search->message))
        return false;
    search->found = (struct place){token->line, token->column};
    return true;
}

/* Whether a class that contains this use of a private name declares the name. */
static bool is_declared(struct text source, const struct token *name)
{
    if (!tokens_around(&window, source, name->line, name->column))
        return true;
    for (size_t brace = window.place; (brace = tokens_open(&window, brace)) != NO_TOKEN;) {
        if (at_class(brace) == NO_TOKEN)
            continue;
        for (size_t at = brace + 1; at < window.count && !at_closes(at); at++) {
            const struct token *token = &window.list[at];
            bool is_name = token->size == name->size && memcmp(token->start, name->start, name->size) == 0;
            if (is_name && !at_is_dot(at - 1) && !at_is(at + 1, "in"))
                return true;
            if (token_opens(token))
                at = tokens_close(&window, at);
        }
    }
    return false;
}

static bool use_private_name(const struct token *token, void *given)
{
    struct search *search = given;
    struct token last = search->last;
    bool follows_dot = token_is(&last, ".") || token_is(&last, "?.");
    const struct token *used = follows_dot ? token : token_is(token, "in") ? &last : NULL;
    search->last = *token;
    if (used == NULL || used->size == 0 || *used->start != '#' || is_declared(search->source, used))
        return false;
    search->found = (struct place){used->line, used->column};
    return true;
}

/* Return the position of the error with this message. Its line is 0 if it was not found. */
struct place unplaced_find(struct text source, struct text message)
{
    static const char of_private[] = "undefined private field '";
    bool is_private = message.size > sizeof of_private && memcmp(message.start, of_private, sizeof of_private - 1) == 0;
    struct search search = {.source = source, .message = message, .last = {.start = "", .kind = END}};
    tokens_each(source, is_private ? use_private_name : use_regexp, &search);
    return search.found;
}
