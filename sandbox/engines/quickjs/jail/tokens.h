/* Tokens of a program's text, and the syntax around them. places.c, messages.c and unplaced.c use them for errors. */
#ifndef TOKENS_H
#define TOKENS_H

#include "cell.h"

/* HEAD, MIDDLE and TAIL: the parts of a template with `${`. VALUE: a number, a string, a regular expression, or a
 * template without `${`. */
enum token_kind { END, NAME, VALUE, SIGN, HEAD, MIDDLE, TAIL };

struct token {
    const char *start;
    size_t size;
    unsigned line, column; /* from 1; columns count bytes */
    enum token_kind kind;
};

enum { MOST_TOKENS = 4096 };
#define NO_TOKEN SIZE_MAX

struct tokens {
    struct token list[MOST_TOKENS];
    size_t count, place;
};

bool token_is(const struct token *token, const char *word);
bool token_opens(const struct token *token);
bool token_closes(const struct token *token);
bool tokens_around(struct tokens *window, struct text text, unsigned line, unsigned column);
bool tokens_each(struct text text, bool (*use)(const struct token *token, void *given), void *given);
size_t tokens_close(const struct tokens *window, size_t at);
size_t tokens_open(const struct tokens *window, size_t at);
bool tokens_hold(struct text text);

/* --- syntax.c: about the token at this index of the window -------------------------------------------------------- */

extern struct tokens window;

bool at_is(size_t at, const char *word);
bool at_is_kind(size_t at, enum token_kind kind);
bool at_is_one_of(size_t at, const char *const *words);
bool at_closes(size_t at);
bool at_declares(size_t at);
bool at_is_keyword(size_t at);
bool at_is_dot(size_t at);
bool at_assigns(size_t at);
bool at_steps(size_t at);
size_t at_function(size_t brace);
size_t at_class(size_t brace);
size_t at_skip_nested(size_t brace);
size_t at_chain(size_t at);

/* --- messages.c: messages that name the failed expression --------------------------------------------------------- */

struct text messages_of_call(struct text old, size_t *at);
struct text messages_of_iteration(size_t at);
struct text messages_of_pattern(size_t at);
struct text messages_as_in_v8(struct text message, struct text code);

/* --- stacks.c: frames --------------------------------------------------------------------------------------------- */

/* The position of a frame in the program, and the start and end of the position's text. */
struct frame {
    struct place place;
    const char *start, *end;
};

struct text stacks_function(struct text line);
bool stacks_read_frame(const char *line, const char *end, struct frame *frame);

/* What is known of the first frame of a stack: its code created the error; its function called itself too often; or its
 * position is already the improved one. */
enum first_frame { MADE_ERROR, RECURSED, IS_PLACED };

struct text stacks_improve(JSContext *context, JSValueConst error, struct text code, struct text given, enum first_frame first);

/* --- calls.c: positions of calls ---------------------------------------------------------------------------------- */

bool calls_improve(struct text code, struct place *place, const struct text *names, size_t count, bool searches);

#endif
