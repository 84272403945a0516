/* Finds the positions of errors that the engine reports without one, or with the position of a later token: invalid
 * regular expressions, private names that no class declares, exports that do not exist, names that are declared twice,
 * braces that close nothing, and import(). */
#include <string.h>

#include "tokens.h"

struct search {
    struct text source, message;
    struct token last, before_last;
    struct place found;
    bool is_export;
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

/* Find the name `message` in `export { a, b as c }`. */
static bool use_export(const struct token *token, void *given)
{
    struct search *search = given;
    bool opens = token_is(token, "{") && token_is(&search->last, "export");
    search->is_export = opens || (search->is_export && !token_is(token, "}"));
    bool is_name = search->is_export && (token_is(&search->last, "{") || token_is(&search->last, ","));
    search->last = *token;
    if (!is_name || token->size != search->message.size || memcmp(token->start, search->message.start, token->size) != 0)
        return false;
    search->found = (struct place){token->line, token->column};
    return true;
}

/* Find the import() of the module `message`, else the first import() whose argument is not a literal. */
static bool use_import(const struct token *token, void *given)
{
    struct search *search = given;
    bool is_call = token_is(&search->last, "(") && token_is(&search->before_last, "import");
    struct token import = search->before_last;
    search->before_last = search->last;
    search->last = *token;
    if (!is_call)
        return false;
    bool literal = token->kind == VALUE;
    if (!literal && search->found.line == 0)
        search->found = (struct place){import.line, import.column};
    /* The engine leaves out `./` at the start of a name. */
    struct text name = search->message;
    if (!literal || token->size < name.size + 2 || memcmp(token->start + token->size - 1 - name.size, name.start, name.size) != 0)
        return false;
    search->found = (struct place){import.line, import.column};
    return true;
}

/* Return the position of the import() of a module. Its line is 0 if it was not found. */
struct place unplaced_import(struct text source, struct text name)
{
    struct search search = {.source = source, .message = name, .last = {.start = ""}, .before_last = {.start = ""}};
    tokens_each(source, use_import, &search);
    return search.found;
}

/* Return the name that is declared before this position, or an empty text. Set the position to that of the name, or of
 * the function. The engine reports the end of a function. */
struct text unplaced_declared(struct text source, struct place *place)
{
    if (!tokens_around(&window, source, place->line, place->column))
        window.place = window.count;
    size_t at = window.place;
    if (at > 0 && !(at_is_kind(at, NAME) && at_declares(at - 1)))
        at -= 1;
    size_t shown = at;
    if (at_is(at, "}")) {
        size_t brace = tokens_open(&window, at), start = brace == NO_TOKEN ? NO_TOKEN : at_function(brace);
        if (start == NO_TOKEN && brace != NO_TOKEN)
            start = at_class(brace);
        for (at = shown = start; at_is(at, "async") || at_is(at, "function") || at_is(at, "*") || at_is(at, "class");)
            at++;
    }
    if (!at_is_kind(at, NAME) || at_is_keyword(at))
        return TEXT("");
    shown = at_is(shown, "class") ? at : shown;
    *place = (struct place){window.list[shown].line, window.list[shown].column};
    return (struct text){window.list[at].start, window.list[at].size};
}

enum { MOST_OPEN = 512 };

struct brackets {
    char open[MOST_OPEN];
    size_t count;
    struct token found;
};

static bool use_bracket(const struct token *token, void *given)
{
    struct brackets *brackets = given;
    if (token_opens(token)) {
        if (brackets->count == MOST_OPEN)
            return true;
        brackets->open[brackets->count++] = token->kind == HEAD ? '`' : *token->start;
        return false;
    }
    if (!token_closes(token))
        return false;
    if (brackets->count == 0) {
        brackets->found = *token;
        return true;
    }
    char open = brackets->open[--brackets->count], close = token->kind == TAIL ? '`' : *token->start;
    return !((open == '(' && close == ')') || (open == '[' && close == ']') || (open == '{' && close == '}') || (open == '`' && close == '`'));
}

/* Set the position of the first `}` that closes no bracket; its line is 0 if there is none. Return its offset. */
size_t unplaced_stray_brace(struct text source, struct place *place)
{
    struct brackets brackets = {.count = 0, .found = {.start = source.start, .size = 0}};
    tokens_each(source, use_bracket, &brackets);
    bool is_brace = token_is(&brackets.found, "}") && brackets.found.kind == SIGN;
    *place = is_brace ? (struct place){brackets.found.line, brackets.found.column} : (struct place){0, 0};
    return (size_t)(brackets.found.start - source.start);
}

/* Return the position of the error with this message. Its line is 0 if it was not found. */
struct place unplaced_find(struct text source, struct text message)
{
    static const char of_private[] = "undefined private field '", of_export[] = "exported variable '";
    bool is_private = message.size > sizeof of_private && memcmp(message.start, of_private, sizeof of_private - 1) == 0;
    struct search search = {.source = source, .message = message, .last = {.start = "", .kind = END}};
    const char *end = memrchr(message.start, '\'', message.size);
    if (message.size > sizeof of_export && memcmp(message.start, of_export, sizeof of_export - 1) == 0 && end != NULL) {
        const char *name = message.start + sizeof of_export - 1;
        search.message = (struct text){name, end < name ? 0 : (size_t)(end - name)};
        tokens_each(source, use_export, &search);
        return search.found;
    }
    tokens_each(source, is_private ? use_private_name : use_regexp, &search);
    return search.found;
}
