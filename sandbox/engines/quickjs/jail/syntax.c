/* Guesses the syntax around tokens of the window from brackets and keywords. All functions accept an index outside the
 * window, and return false or NO_TOKEN for it. */
#include <string.h>

#include "tokens.h"

struct tokens window;

/* Whether there is a token at this index, and it is `word`. */
bool at_is(size_t at, const char *word)
{
    return at < window.count && token_is(&window.list[at], word);
}

bool at_is_kind(size_t at, enum token_kind kind)
{
    return at < window.count && window.list[at].kind == kind;
}

bool at_is_one_of(size_t at, const char *const *words)
{
    for (; *words != NULL; words++)
        if (at_is(at, *words))
            return true;
    return false;
}

bool at_closes(size_t at)
{
    return at < window.count && token_closes(&window.list[at]);
}

bool at_declares(size_t at)
{
    static const char *const words[] = {"const", "let", "var", NULL};
    return at_is_one_of(at, words);
}

bool at_is_keyword(size_t at)
{
    static const char *const words[] = {"await", "case", "delete", "do", "else", "in", "instanceof", "new", "of", "return",
        "throw", "typeof", "void", "yield", "if", "for", "while", "switch", "catch", "with", "const", "let", "var", "function",
        "class", "async", "extends", NULL};
    return at_is_one_of(at, words);
}

/* Whether this token is a dot before the name of a property. */
bool at_is_dot(size_t at)
{
    return at_is(at, ".") || at_is(at, "?.");
}

bool at_assigns(size_t at)
{
    static const char *const signs[] = {"=", "+=", "-=", "*=", "/=", "%=", "**=", "<<=", ">>=", ">>>=", "&=", "|=", "^=",
        "&&=", "||=", "\?\?=", NULL};
    return at_is_kind(at, SIGN) && at_is_one_of(at, signs);
}

bool at_steps(size_t at)
{
    return at_is(at, "++") || at_is(at, "--");
}

/* Return the first token of the function whose body this brace opens, or NO_TOKEN if it opens something else. */
size_t at_function(size_t brace)
{
    static const char *const control[] = {"if", "for", "while", "switch", "catch", "with", "await", NULL};
    static const char *const before[] = {"function", "async", "*", "get", "set", "static", NULL};
    size_t start;
    if (!at_is(brace, "{") || brace < 2)
        return NO_TOKEN;
    if (at_is(brace - 1, "=>"))
        start = at_is(brace - 2, ")") ? tokens_open(&window, brace - 2) : brace - 2;
    else if (at_is(brace - 1, ")"))
        start = tokens_open(&window, brace - 1) - 1;
    else
        return NO_TOKEN;
    if (start >= window.count)
        return NO_TOKEN;
    if (at_is(brace - 1, ")")) {
        if (at_is(start, "]"))
            start = tokens_open(&window, start);
        else if (!at_is_kind(start, NAME) && !at_is_kind(start, VALUE) && !at_is(start, "*"))
            return NO_TOKEN;
        if (start == NO_TOKEN || at_is_one_of(start, control))
            return NO_TOKEN;
    }
    while (start > 0 && at_is_one_of(start - 1, before))
        start--;
    return start;
}

/* Return the index of `class` if this brace opens the body of a class, and NO_TOKEN otherwise. */
size_t at_class(size_t brace)
{
    if (!at_is(brace, "{"))
        return NO_TOKEN;
    for (size_t at = brace; at-- > 0;) {
        if (at_is(at, "class"))
            return at;
        if (at_closes(at))
            at = tokens_open(&window, at);
        if (at == NO_TOKEN || at_is(at, ";") || at_is(at, "{") || at_is(at, "=>") || at_is(at, "="))
            break;
    }
    return NO_TOKEN;
}

/* If this brace opens the body of a function or class that starts after the error's position, return its last token.
 * Otherwise return `brace`. */
size_t at_skip_nested(size_t brace)
{
    size_t start = at_function(brace);
    if (start == NO_TOKEN)
        start = at_class(brace);
    return start == NO_TOKEN || start <= window.place + 1 ? brace : tokens_close(&window, brace);
}

/* Return the first token of a chain of properties, calls and indexes that ends with this token. */
size_t at_chain(size_t at)
{
    for (;;) {
        if (at_closes(at)) {
            size_t open = tokens_open(&window, at);
            if (open == NO_TOKEN || open == 0)
                return at;
            if (at_is_keyword(open - 1) || !(at_is_kind(open - 1, NAME) || at_closes(open - 1) || at_is(open - 1, "?.")))
                return open;
            at = at_is(open - 1, "?.") && open > 1 ? open - 2 : open - 1;
        } else if (at > 1 && at_is_dot(at - 1)) {
            at -= 2;
        } else {
            return at;
        }
    }
}

