/* Improves the positions ("places") and messages of errors that the engine throws.
 *
 * The engine records positions only at identifiers, calls, `new`, operators, `throw` and the start of statements. An
 * error gets the last recorded position before the failed instruction, in the order of the bytecode. So an error at
 * `.b` in `this.a\n.b`, or in a pattern, gets the position of something before it. This code starts at that position,
 * and searches the same function for the first expression that can fail with the error's message.
 *
 * If the search finds nothing, the position stays as it is. The program controls its text and its messages, so the
 * result is only a claim of the program about itself. SEARCHED_BYTES limits the text that is searched for all errors of
 * a run. */
#include <string.h>

#include "tokens.h"

enum { SEARCHED_BYTES = 8 << 20, STATEMENT_TOKENS = 64 };

static struct text code;
static size_t searched;

/* Whether the program's text may be read once more. The number of bytes read in a run is limited. */
bool places_may_search(void)
{
    searched += code.size;
    return searched <= SEARCHED_BYTES;
}

/* Return the source text of the program. */
struct text places_code(void)
{
    return code;
}

/* Set the source text of the program. */
void places_set_code(struct text text)
{
    code = text;
}

static bool starts_with(struct text text, const char *word)
{
    return text.size >= strlen(word) && memcmp(text.start, word, strlen(word)) == 0;
}

/* --- expressions that can fail ------------------------------------------------------------------------------------ */

/* Whether this token accesses a property with this name. */
static bool is_property(size_t at, struct text name)
{
    const struct token *token = &window.list[at];
    if (token->kind == NAME)
        return at > 0 && at_is(at - 1, ".") && token->size == name.size && memcmp(token->start, name.start, name.size) == 0;
    if (token->kind != VALUE || at < 2 || !at_is(at - 1, "[") || !at_is(at + 1, "]"))
        return false;
    size_t quotes = *token->start == '"' || *token->start == '\'' || *token->start == '`';
    return (at_is_kind(at - 2, NAME) || at_closes(at - 2)) && !at_is_keyword(at - 2) && token->size == name.size + 2 * quotes &&
           memcmp(token->start + quotes, name.start, name.size) == 0;
}

/* Whether the error's position can belong to this property: it must be the engine's last recorded position before the
 * property. The engine records positions at identifiers and calls. */
static bool follows_place(size_t property)
{
    size_t at = property - 2;
    while (at_is_kind(at, NAME) && at > 1 && at_is_dot(at - 1))
        at -= 2;
    if (at_is(at, ")")) {
        size_t open = tokens_open(&window, at);
        bool is_call = open != NO_TOKEN && open > 0 && at_is_kind(open - 1, NAME) && !at_is_keyword(open - 1);
        return !is_call || open - 1 == window.place;
    }
    static const char *const unnoted[] = {"this", "super", "null", "true", "false", NULL};
    return !at_is_kind(at, NAME) || at_is_one_of(at, unnoted) || at == window.place;
}

static size_t find_property(size_t at, struct text name)
{
    return at > 1 && is_property(at, name) && follows_place(at) ? at : NO_TOKEN;
}

/* Whether the bracket at this index opens a pattern. */
static bool opens_pattern(size_t at)
{
    size_t after = tokens_close(&window, at) + 1;
    if (at == 0 || at_declares(at - 1))
        return at > 0;
    if (at_is(after, "=") || at_is(after, "of"))
        return !at_is_kind(at - 1, NAME) && !at_closes(at - 1);
    if (!at_is(at - 1, "(") && !at_is(at - 1, "[") && !at_is(at - 1, ",") && !at_is(at - 1, ":") && !at_is(at - 1, "..."))
        return false;
    size_t list = tokens_open(&window, at);
    if (list == NO_TOKEN || !at_is(list, "("))
        return list != NO_TOKEN && opens_pattern(list);
    after = tokens_close(&window, list) + 1;
    return at_is(after, "=>") || (at_is(after, "{") && (at_function(after) != NO_TOKEN || at_is(list - 1, "catch")));
}

static size_t find_object_pattern(size_t at, struct text name)
{
    (void)name;
    return at_is(at, "{") && opens_pattern(at) ? at + 1 : NO_TOKEN;
}

/* Find an expression that is iterated: an array pattern, or an expression after `...` or `of`. An expression that
 * starts with an identifier is not searched for, because the engine has recorded its position. */
static size_t find_iterated(size_t at, struct text name)
{
    (void)name;
    if (at_is(at, "[") && opens_pattern(at))
        return at;
    bool begins = at > 0 && (at_is(at - 1, "...") || at_is(at - 1, "of"));
    return begins && (!at_is_kind(at, NAME) || at_is(at, "this") || at_is(at, "null")) && !at_is(at, "=") ? at : NO_TOKEN;
}

static bool is_iterated(size_t at)
{
    at = at_chain(at);
    return at > 0 && (at_is(at - 1, "...") || at_is(at - 1, "of"));
}

/* Return the first token after the error's position that `finds` accepts. Nested functions are searched only if the
 * same function has none. */
static size_t find(size_t (*finds)(size_t at, struct text name), struct text name)
{
    for (int nested = 0; nested < 2; nested++)
        for (size_t at = window.place; at < window.count; at++) {
            size_t found = finds(at, name);
            if (found < window.count)
                return found;
            if (nested == 0)
                at = at_skip_nested(at);
        }
    return NO_TOKEN;
}

static bool sets_property(size_t at, struct text name)
{
    return is_property(at, name) && at_assigns(at_is(at + 1, "]") ? at + 2 : at + 1);
}

static bool sets(size_t at, struct text name)
{
    const struct token *token = &window.list[at];
    if (sets_property(at, name))
        return true;
    if (token->kind != NAME || token->size != name.size || memcmp(token->start, name.start, name.size) != 0)
        return false;
    return !(at > 0 && (at_is_dot(at - 1) || at_declares(at - 1))) &&
           (at_assigns(at + 1) || at_steps(at + 1) || (at > 0 && at_steps(at - 1)));
}

/* Return the assignment to a constant, or to a read-only property, that failed. The error of a property has the
 * position of its statement. After an assignment to a constant, the engine removes statements as unreachable, and the
 * error has the position of the last of them. So the first assignment that no branch precedes has failed. In a loop,
 * the update comes last. */
static size_t find_assignment(struct text name)
{
    static const char *const branches[] = {
        "{", "}", "?", "&&", "||", "??", "&&=", "||=", "\?\?=", "if", "else", "for", "while", "case", "=>", NULL};
    size_t found = NO_TOKEN;
    bool branched = false;
    for (size_t at = window.place; at < window.place + STATEMENT_TOKENS && at < window.count; at++) {
        if (at_is(at, ";") || at_is(at, "}"))
            break;
        if (sets_property(at, name))
            return at;
    }
    for (size_t at = 0; at <= window.place; at++) {
        branched |= at_is_one_of(at, branches);
        if (!sets(at, name) || (found != NO_TOKEN && !branched))
            continue;
        found = at;
        branched = false;
    }
    for (size_t at = window.place + 1; found == NO_TOKEN && at < window.count; at++)
        if (sets(at, name))
            found = at;
    return found;
}

/* --- an error ----------------------------------------------------------------------------------------------------- */

/* Whether a message consists of `before`, a name and `after`, possibly followed by more. */
static bool has_name(struct text message, const char *before, const char *after, struct text *name)
{
    if (!starts_with(message, before))
        return false;
    struct text rest = {message.start + strlen(before), message.size - strlen(before)};
    const char *end = memmem(rest.start, rest.size, after, strlen(after));
    *name = (struct text){rest.start, end == NULL ? 0 : (size_t)(end - rest.start)};
    return name->size > 0;
}

/* The kind of operation that failed, according to the message of the engine or of messages.c. */
enum failure { UNKNOWN, PROPERTY, PATTERN, ITERATION, ASSIGNMENT, OPERATION, CALL, REFERENCE };

struct pattern {
    const char *text;
    enum failure failure;
};

/* `said` is set to whether the message already names the failed expression. */
static enum failure failure_of(struct text message, struct text *name, bool *said)
{
    static const struct pattern ends[] = {
        {" is not iterable", ITERATION},
        {" is not a function", CALL},
        {" is not a constructor", CALL},
        {" is not async iterable", CALL},
    };
    static const struct pattern starts[] = {
        {"value is not iterable", ITERATION},
        {"cannot read property 'Symbol.iterator' of ", ITERATION},
        {"Cannot convert undefined or null to object", PATTERN},
        {"Cannot destructure property '", PATTERN},
        {"not a function", CALL},
        {"not a constructor", CALL},
        {"cannot convert symbol to ", OPERATION},
        {"Cannot convert a Symbol value to ", OPERATION},
        {"cannot convert BigInt to ", OPERATION},
        {"null is not iterable (cannot read property ", ITERATION},
        {"undefined is not iterable (cannot read property ", ITERATION},
    };
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (starts_with(message, starts[i].text))
            return starts[i].failure;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t size = strlen(ends[i].text);
        *said = message.size > size && memcmp(message.start + message.size - size, ends[i].text, size) == 0;
        if (*said)
            return ends[i].failure;
    }
    if (has_name(message, "cannot read property '", "' of ", name) || has_name(message, "cannot set property '", "' of ", name))
        return PROPERTY;
    if (has_name(message, "Cannot read properties of null (reading '", "')", name) ||
        has_name(message, "Cannot read properties of undefined (reading '", "')", name) ||
        has_name(message, "Cannot set properties of null (setting '", "')", name) ||
        has_name(message, "Cannot set properties of undefined (setting '", "')", name))
        return PROPERTY;
    if (has_name(message, "", " is not defined", name) || has_name(message, "", " is not initialized", name) ||
        has_name(message, "Cannot access '", "' before initialization", name))
        return REFERENCE;
    return has_name(message, "'", "' is read-only", name) ? ASSIGNMENT : UNKNOWN;
}

static size_t find_reference(size_t at, struct text name)
{
    const struct token *token = &window.list[at];
    bool same = token->kind == NAME && token->size == name.size && memcmp(token->start, name.start, name.size) == 0;
    return same && !(at > 0 && (at_is_dot(at - 1) || at_declares(at - 1))) && !at_is(at + 1, ":") ? at : NO_TOKEN;
}

/* Return the operator before the operand at the error's position. */
static size_t find_operator(void)
{
    static const char *const operators[] = {"+", "-", "*", "/", "%", "**", "<", ">", "<=", ">=", "==", "&", "|", "^", NULL};
    size_t at = at_chain(window.place);
    return at > 0 && at_is_one_of(at - 1, operators) ? at - 1 : NO_TOKEN;
}

static size_t find_place(enum failure failure, struct text name)
{
    switch (failure) {
    case PROPERTY:
        return find(find_property, name);
    case PATTERN:
        return find(find_object_pattern, name);
    case ITERATION:
        return is_iterated(window.place) ? at_chain(window.place) : find(find_iterated, name);
    case ASSIGNMENT:
        return find_assignment(name);
    case OPERATION:
        return find_operator();
    case REFERENCE: /* the engine records no position for `b` in `{ a, b }` */
        return find(find_reference, name);
    default:
        return NO_TOKEN;
    }
}

/* Return a message that names the failed expression, and set `at` to its token. Return an empty text if there is none.
 * */
static struct text message_for(enum failure failure, struct text old, size_t *at)
{
    if (failure == CALL) {
        *at = window.place;
        return messages_of_call(old, at);
    }
    if (*at >= window.count)
        return TEXT("");
    if (failure == PATTERN)
        return messages_of_pattern(*at);
    if (failure != ITERATION)
        return TEXT("");
    size_t close = tokens_close(&window, *at);
    if (!at_is(*at, "["))
        return messages_of_iteration(*at);
    return at_is(close + 1, "=") ? messages_of_iteration(close + 2) : TEXT("");
}

/* --- class fields: the engine records no positions in them (line 0) ----------------------------------------------- */

static void enter(size_t brace)
{
    window.place = brace;
    window.count = tokens_close(&window, brace);
}

/* Move the search to the body of the class that contains the caller's position, which is in the constructor. Return
 * false if there is no such class. */
static bool enter_class_around(void)
{
    size_t brace = window.place;
    while (brace != NO_TOKEN && at_class(brace) == NO_TOKEN)
        brace = tokens_open(&window, brace);
    if (brace == NO_TOKEN)
        return false;
    enter(brace);
    return true;
}

/* Move the search to the body of the class at or after the caller's position. If the class has no constructor, and for
 * static fields, the caller is the code that creates the class or the object. */
static bool enter_class_behind(void)
{
    size_t at = window.place;
    while (at < window.count && !at_is(at, "class"))
        at++;
    for (size_t brace = at; brace < window.count; brace++)
        if (at_is(brace, "{") && at_class(brace) == at) {
            enter(brace);
            return true;
        }
    return false;
}

/* Improve the position and the message of an error. Both stay as they are if nothing better is found. `caller` is the
 * position of the next frame, which is used if `place` has line 0. The new message is valid until the next call. Return
 * whether the engine threw the error. */
bool places_improve(struct text *message, struct place *place, struct place caller)
{
    static bool (*const classes[])(void) = {enter_class_around, enter_class_behind};
    struct place from = place->line == 0 ? caller : *place;
    struct text name = TEXT("");
    bool said = false;
    enum failure failure = failure_of(*message, &name, &said);
    if (failure == UNKNOWN || code.start == NULL || from.line == 0)
        return failure != UNKNOWN;
    for (size_t i = 0; i < 2; i++) {
        if (!(tokens_hold(code) || places_may_search()) || !tokens_around(&window, code, from.line, from.column))
            return true;
        if (place->line == 0 && !classes[i]())
            continue;
        size_t found = find_place(failure, name);
        struct text named = message_for(failure, *message, &found);
        if (said && (named.size != message->size || memcmp(named.start, message->start, named.size) != 0))
            return false; /* the message belongs to another expression */
        if (named.size > 0 && !said)
            *message = named;
        if (found < window.count)
            *place = (struct place){window.list[found].line, window.list[found].column};
        if (found < window.count || place->line > 0)
            return true;
    }
    return true;
}
