/* Splits a program's text into tokens, to improve positions and messages of errors (places.c). The engine itself parses
 * the text and reports syntax errors, so this code only has to find where tokens start and end. It counts lines and
 * columns as the engine does. It guesses from the token before a slash whether the slash starts a regular expression.
 * */
#include <string.h>

#include "tokens.h"

enum { MOST_TEMPLATES = 32 };

struct lexer {
    const char *start, *at, *end, *line_start;
    unsigned line, braces, templates;
    unsigned braces_at[MOST_TEMPLATES]; /* number of open braces at each open `${` */
    struct token last;
};

static bool is_name_byte(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '_' ||
           byte == '$' || byte == '\\' || (unsigned char)byte >= 0x80;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool opens_with(const struct lexer *lexer, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(lexer->end - lexer->at) >= size && memcmp(lexer->at, word, size) == 0;
}

/* Skip a line end at `at`, if there is one. `separators`: whether U+2028 and U+2029 end a line. */
static bool skip_line_end(struct lexer *lexer, bool separators)
{
    if (opens_with(lexer, "\r\n"))
        lexer->at += 2;
    else if (*lexer->at == '\n' || *lexer->at == '\r')
        lexer->at += 1;
    else if (separators && (opens_with(lexer, "\xe2\x80\xa8") || opens_with(lexer, "\xe2\x80\xa9")))
        lexer->at += 3;
    else
        return false;
    lexer->line += 1;
    lexer->line_start = lexer->at;
    return true;
}

static void skip_comment(struct lexer *lexer)
{
    while (lexer->at < lexer->end && !opens_with(lexer, "*/")) {
        if (*lexer->at++ != '\n')
            continue;
        lexer->line += 1;
        lexer->line_start = lexer->at;
    }
    lexer->at += lexer->at < lexer->end ? 2 : 0;
}

static void skip_blanks(struct lexer *lexer)
{
    while (lexer->at < lexer->end) {
        if (memchr(" \t\v\f", *lexer->at, 4) != NULL) {
            lexer->at += 1;
        } else if (opens_with(lexer, "\xc2\xa0")) {
            lexer->at += 2;
        } else if (opens_with(lexer, "\xef\xbb\xbf")) {
            lexer->at += 3;
        } else if (opens_with(lexer, "//") || (opens_with(lexer, "#!") && lexer->at == lexer->line_start)) {
            while (lexer->at < lexer->end && *lexer->at != '\n' && *lexer->at != '\r')
                lexer->at += 1;
        } else if (opens_with(lexer, "/*")) {
            lexer->at += 2;
            skip_comment(lexer);
        } else if (!skip_line_end(lexer, true)) {
            return;
        }
    }
}

/* Skip to the end of a template, or to the text after its next `${`. Return whether the template has ended. */
static bool skip_template(struct lexer *lexer)
{
    while (lexer->at < lexer->end) {
        if (*lexer->at == '`') {
            lexer->at += 1;
            return true;
        }
        if (opens_with(lexer, "${")) {
            lexer->at += 2;
            return false;
        }
        if (*lexer->at == '\\' && lexer->at + 1 < lexer->end)
            lexer->at += 1;
        if (!skip_line_end(lexer, false))
            lexer->at += 1;
    }
    return true;
}

static void skip_string(struct lexer *lexer)
{
    char quote = *lexer->at++;
    while (lexer->at < lexer->end && *lexer->at != quote && *lexer->at != '\n') {
        if (*lexer->at == '\\' && lexer->at + 1 < lexer->end)
            lexer->at += 1;
        if (!skip_line_end(lexer, false))
            lexer->at += 1;
    }
    lexer->at += lexer->at < lexer->end;
}

/* Skip a regular expression with its flags. Return false if the line ends before the expression. */
static bool skip_regexp(struct lexer *lexer)
{
    bool in_class = false;
    const char *at = lexer->at + 1;
    for (;; at++) {
        if (at >= lexer->end || *at == '\n' || *at == '\r')
            return false;
        if (*at == '\\')
            at++;
        else if (*at == '[')
            in_class = true;
        else if (*at == ']')
            in_class = false;
        else if (*at == '/' && !in_class)
            break;
    }
    for (at++; at < lexer->end && is_name_byte(*at); at++)
        ;
    lexer->at = at;
    return true;
}

static bool may_begin_regexp(const struct lexer *lexer)
{
    static const char *const words[] = {"return", "typeof", "case", "in", "of", "delete", "void", "throw", "new", "do",
        "else", "instanceof", "yield", "await"};
    const struct token *last = &lexer->last;
    if (last->kind == NAME) {
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (token_is(last, words[i]))
                return true;
        return false;
    }
    return last->kind != VALUE && last->kind != TAIL && !token_is(last, ")") && !token_is(last, "]");
}

static size_t size_of_sign(const struct lexer *lexer)
{
    static const char *const signs[] = {">>>=", "...", "===", "!==", "**=", "<<=", ">>=", ">>>", "&&=", "||=", "\?\?=",
        "=>", "==", "!=", "<=", ">=", "&&", "||", "??", "?.", "++", "--", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=",
        "<<", ">>", "**"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (opens_with(lexer, signs[i]))
            return strlen(signs[i]);
    return 1;
}

static enum token_kind open_template(struct lexer *lexer, enum token_kind whole, enum token_kind part)
{
    if (skip_template(lexer))
        return whole;
    if (lexer->templates < MOST_TEMPLATES)
        lexer->braces_at[lexer->templates] = lexer->braces;
    lexer->templates += 1;
    return part;
}

static enum token_kind skip_token(struct lexer *lexer)
{
    char first = *lexer->at;
    bool in_template = lexer->templates > 0 && lexer->templates <= MOST_TEMPLATES &&
                       lexer->braces_at[lexer->templates - 1] == lexer->braces;
    if (is_digit(first) || (first == '.' && lexer->at + 1 < lexer->end && is_digit(lexer->at[1]))) {
        for (lexer->at++; lexer->at < lexer->end && (is_name_byte(*lexer->at) || *lexer->at == '.'); lexer->at++)
            ;
        return VALUE;
    }
    if (is_name_byte(first) || first == '#') {
        for (lexer->at++; lexer->at < lexer->end && is_name_byte(*lexer->at); lexer->at++)
            if (opens_with(lexer, "\xe2\x80\xa8") || opens_with(lexer, "\xe2\x80\xa9"))
                break;
        return NAME;
    }
    if (first == '"' || first == '\'') {
        skip_string(lexer);
        return VALUE;
    }
    if (first == '/' && may_begin_regexp(lexer) && skip_regexp(lexer))
        return VALUE;
    if (first == '`' || (first == '}' && in_template)) {
        lexer->at += 1;
        if (first == '`')
            return open_template(lexer, VALUE, HEAD);
        lexer->templates -= 1;
        return open_template(lexer, TAIL, MIDDLE);
    }
    lexer->at += size_of_sign(lexer);
    if (first == '{')
        lexer->braces += 1;
    else if (first == '}' && lexer->braces > 0)
        lexer->braces -= 1;
    return SIGN;
}

static struct token next_token(struct lexer *lexer)
{
    skip_blanks(lexer);
    struct token token = {lexer->at, 0, lexer->line, (unsigned)(lexer->at - lexer->line_start) + 1, END};
    if (lexer->at < lexer->end)
        token.kind = skip_token(lexer);
    token.size = (size_t)(lexer->at - token.start);
    lexer->last = token;
    return token;
}

bool token_is(const struct token *token, const char *word)
{
    return token->size == strlen(word) && memcmp(token->start, word, token->size) == 0;
}

bool token_opens(const struct token *token)
{
    return token->kind == HEAD || (token->kind == SIGN && token->size == 1 && memchr("([{", *token->start, 3) != NULL);
}

bool token_closes(const struct token *token)
{
    return token->kind == TAIL || (token->kind == SIGN && token->size == 1 && memchr(")]}", *token->start, 3) != NULL);
}

/* The text whose tokens are all in the window, and their number. The text must not change. */
static struct text held;
static size_t held_count;

/* Whether the window has all tokens of a text, so that it is not read again. */
bool tokens_hold(struct text text)
{
    return held_count > 0 && text.start == held.start && text.size == held.size;
}

/* The same as tokens_around, if the window has all tokens. */
static bool go_to(struct tokens *window, unsigned line, unsigned column)
{
    window->count = held_count;
    for (size_t at = 0; at < held_count; at++) {
        const struct token *token = &window->list[at];
        if (token->line > line || (token->line == line && token->column >= column)) {
            window->place = at;
            return true;
        }
    }
    return false;
}

/* Fill a window with the tokens around the first token at or after this position. `window->place` is the index of this
 * token. Return false if the text ends before it. There must be only one window. */
bool tokens_around(struct tokens *window, struct text text, unsigned line, unsigned column)
{
    if (tokens_hold(text))
        return go_to(window, line, column);
    held_count = 0;
    bool is_whole = true;
    struct lexer lexer = {.start = text.start, .at = text.start, .end = text.start + text.size, .line_start = text.start, .line = 1};
    bool found = false;
    window->count = 0;
    while (window->count < MOST_TOKENS) {
        struct token token = next_token(&lexer);
        if (token.kind == END) {
            held = text;
            held_count = is_whole ? window->count : 0;
            break;
        }
        if (!found && (token.line > line || (token.line == line && token.column >= column))) {
            found = true;
            window->place = window->count;
        }
        window->list[window->count++] = token;
        if (!found && window->count == MOST_TOKENS) {
            is_whole = false;
            window->count = MOST_TOKENS / 2;
            memmove(window->list, window->list + MOST_TOKENS / 2, window->count * sizeof *window->list);
        }
    }
    return found;
}

/* Call `use` with each token, until it returns true. Return whether it did. */
bool tokens_each(struct text text, bool (*use)(const struct token *token, void *given), void *given)
{
    struct lexer lexer = {.start = text.start, .at = text.start, .end = text.start + text.size, .line_start = text.start, .line = 1};
    for (struct token token; (token = next_token(&lexer)).kind != END;)
        if (use(&token, given))
            return true;
    return false;
}

/* Return the index of the bracket that closes the one at `at`, or the number of tokens if it is not in the window. */
size_t tokens_close(const struct tokens *window, size_t at)
{
    unsigned depth = 0;
    for (; at < window->count; at++) {
        depth += token_opens(&window->list[at]);
        if (token_closes(&window->list[at]) && --depth == 0)
            break;
    }
    return at;
}

/* If token `at` is a closing bracket, return the index of the bracket that it closes. Otherwise return the index of the
 * innermost opening bracket that encloses the token. Return NO_TOKEN if the bracket is not in the window. */
size_t tokens_open(const struct tokens *window, size_t at)
{
    unsigned depth = 1;
    while (at-- > 0) {
        depth += token_closes(&window->list[at]);
        if (token_opens(&window->list[at]) && --depth == 0)
            return at;
    }
    return NO_TOKEN;
}
