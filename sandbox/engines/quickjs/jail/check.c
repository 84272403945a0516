/* Checks whether a source is a program, and if not, reports position and reason. The job contains the wrappers to parse
 * the source in (host/wrapper.py). No part of a source is executed here. Columns count bytes, from 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cell.h"

#define NO_DEFAULT \
    "a module needs a default export: a function (prompt, env) => value, or an object with fetch(request, env)"
#define NO_IMPORT "a program cannot import other modules"
#define NO_MODULE "could not load module '"
#define FENCED "the program is in a Markdown fence: leave out the lines that begin with ``` or ~~~" /* as check.js */

static bool starts_with(struct text text, const char *word)
{
    return text.size >= strlen(word) && memcmp(text.start, word, strlen(word)) == 0;
}

static bool is(struct text text, const char *word)
{
    return text.size == strlen(word) && starts_with(text, word);
}

static struct text behind(struct text text, size_t count)
{
    return (struct text){text.start + count, text.size - count};
}

static struct text without_blanks(struct text text)
{
    while (text.size > 0 && memchr(" \t\r\v\f", text.start[0], 5) != NULL)
        text = behind(text, 1);
    return text;
}

/* Remove the next line from `rest`. Call this while `rest->start` is not NULL. */
static struct text next_line(struct text *rest)
{
    const char *end = memchr(rest->start, '\n', rest->size);
    struct text line = {rest->start, end == NULL ? rest->size : (size_t)(end - rest->start)};
    *rest = end == NULL ? (struct text){NULL, 0} : behind(*rest, line.size + 1);
    return line;
}

static const char *find(struct text text, const char *word)
{
    return memmem(text.start, text.size, word, strlen(word));
}

/* Return the position of a parser's error, from the first line of its stack: `    at FILE:LINE:COLUMN`. */
static struct place place_of(const struct fault *fault)
{
    struct place place;
    char line[64];
    struct text rest = fault->stack, first = next_line(&rest);
    if (first.size >= sizeof line)
        return (struct place){0, 0};
    memcpy(line, first.start, first.size);
    line[first.size] = 0;
    int end = 0;
    if (sscanf(line, "%*[^:]:%9u:%9u%n", &place.line, &place.column, &end) != 2 || line[end] != 0)
        return (struct place){0, 0};
    return place;
}

/* Return an error of promptlog's, in the format of the engine's. */
static struct fault found(struct text message, struct place place)
{
    static char stack[64];
    int size = 0;
    if (place.line > 0)
        size = snprintf(stack, sizeof stack, "    at eval_script:%u:%u\n", place.line, place.column);
    return (struct fault){TEXT("SyntaxError"), message, {stack, (size_t)size}};
}

/* Whether a line starts with an import statement. */
static bool imports(struct text line)
{
    line = without_blanks(line);
    return starts_with(line, "import") && line.size > 6 && memchr(" {*\"'", line.start[6], 5) != NULL;
}

/* Return V8's message for a name that is declared twice. The result is valid until the next call. */
static struct text declared_again(struct text name)
{
    static char message[128];
    int most = name.size > 64 ? 64 : (int)name.size;
    int size = snprintf(message, sizeof message, "Identifier '%.*s' has already been declared", most, name.start);
    return (struct text){message, (size_t)size};
}

/* Return an error with a clearer message. `lines_above`: number of lines of the wrapper before the source. */
static struct fault clear(struct fault fault, struct text source, unsigned lines_above)
{
    struct place place = place_of(&fault);
    if (is(fault.message, "unexpected token in expression: ''"))
        return found(TEXT("Unexpected end of input"), place);
    if (is(fault.message, "Maximum call stack size exceeded"))
        return found(TEXT("it is nested too deeply"), (struct place){0, 0});
    if (place.line == 0) {
        place = unplaced_find(source, fault.message);
        place.line += place.line > 0 ? lines_above : 0;
        return found(fault.message, place);
    }
    if (starts_with(fault.message, "invalid redefinition of ")) {
        struct place from = {place.line - lines_above, place.column};
        struct text name = unplaced_declared(source, &from);
        if (name.size > 0)
            return found(declared_again(name), (struct place){from.line + lines_above, from.column});
    }
    unsigned number = lines_above;
    while (source.start != NULL) {
        struct text line = next_line(&source);
        if (++number == place.line && imports(line)) {
            place.column = (unsigned)(line.size - without_blanks(line).size) + 1;
            return found(TEXT(NO_IMPORT), place);
        }
    }
    return fault;
}

/* Exports in a text that looks like a module. */
struct export {
    struct place place;
    bool opens_line;
};

static bool exports_something(struct text rest)
{
    static const char *const words[] = {"{", "*", "default", "const", "let", "var", "function", "class", "async"};
    rest = without_blanks(rest);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (starts_with(rest, words[i]))
            return true;
    return rest.size == 0;
}

/* Return the first export at the start of a line, else the first one, which may be in a string or a comment. */
static struct export find_export(struct text source)
{
    struct export first = {{0, 0}, false};
    for (unsigned number = 1; source.start != NULL; number++) {
        struct text line = next_line(&source), rest = line;
        for (const char *at; (at = find(rest, "export")) != NULL;) {
            size_t before = (size_t)(at - line.start);
            rest = behind(line, before + 6);
            if (!exports_something(rest))
                continue;
            struct place place = {number, (unsigned)before + 1};
            if (without_blanks((struct text){line.start, before}).size == 0)
                return (struct export){place, true};
            if (first.place.line == 0)
                first.place = place;
            break;
        }
    }
    return first;
}

/* Return the quote before the name of a module in a line. Return NULL if there is none, or none after the name. The
 * engine's message omits a dot and a slash before the name. */
static const char *quote_of(struct text line, const char *name, size_t size)
{
    const char *before = name, *behind_it = name + size;
    if (behind_it == line.start + line.size || (*behind_it != '\'' && *behind_it != '"'))
        return NULL;
    if (before - line.start > 2 && memcmp(before - 2, "./", 2) == 0)
        before -= 2;
    return before > line.start && before[-1] == *behind_it ? before - 1 : NULL;
}

/* Return the position of the module name that the engine's message contains. */
static struct place find_import(struct text source, struct text message)
{
    struct text name = behind(message, strlen(NO_MODULE));
    const char *end = memrchr(name.start, '\'', name.size);
    name.size = end == NULL ? 0 : (size_t)(end - name.start);
    for (unsigned number = 1; name.size > 0 && source.start != NULL; number++) {
        struct text line = next_line(&source), rest = line;
        for (const char *at; (at = memmem(rest.start, rest.size, name.start, name.size)) != NULL;) {
            const char *quote = quote_of(line, at, name.size);
            if (quote != NULL)
                return (struct place){number, (unsigned)(quote - line.start) + 1};
            rest = behind(line, (size_t)(at - line.start) + 1);
        }
    }
    return (struct place){0, 0};
}

/* Whether a line is the first or the last one of a Markdown fence. */
static bool is_fence(struct text line)
{
    line = without_blanks(line);
    if (starts_with(line, "```"))
        return true;
    if (!starts_with(line, "~~~"))
        return false;
    line = behind(line, 3);
    while (line.size > 0 && ((line.start[0] | 0x20) >= 'a' && (line.start[0] | 0x20) <= 'z'))
        line = behind(line, 1);
    return without_blanks(line).size == 0;
}

/* Return the position of the first line of a fence. */
static struct place find_fence(struct text source)
{
    for (unsigned number = 1; source.start != NULL; number++) {
        struct text line = next_line(&source);
        if (is_fence(line))
            return (struct place){number, (unsigned)(line.size - without_blanks(line).size) + 1};
    }
    return (struct place){0, 0};
}

/* Whether a source begins with three backticks. In JavaScript, these are an empty template and the start of another. */
static bool begins_fenced(struct text source)
{
    while (source.size > 0 && memchr(" \t\r\v\f\n", source.start[0], 6) != NULL)
        source = behind(source, 1);
    return starts_with(source, "```");
}

static unsigned lines_in(struct text text)
{
    unsigned lines = 0;
    while (text.start != NULL) {
        next_line(&text);
        lines++;
    }
    return lines;
}

/* Whether a source parses in a wrapper. */
static bool parses_in(struct text before, struct text source, struct text after, struct fault *fault)
{
    const struct text parts[] = {before, source, after};
    struct text whole = memory_join(parts, 3);
    bool good = context_parses(whole, fault);
    memory_free(whole);
    return good;
}

/* Return the error in a body for which the engine reports an error only at the end of the wrapper. */
static struct fault fault_at_end(struct text loose, struct text source, struct fault fault)
{
    struct fault own;
    struct text text, line, rest;
    const struct text parts[] = {loose, source};
    struct text whole = memory_join(parts, 2);
    if (!context_parses(whole, &own))
        return own;
    /* The body closes the wrapper itself, at the last character of the function's text. */
    if (!context_function_text(whole, TEXT("__promptlog_loose.toString()"), &text) || text.size <= loose.size)
        return fault;
    rest = behind(text, loose.size);
    rest.size -= 1;
    unsigned number = 1;
    do {
        line = next_line(&rest);
        number++;
    } while (rest.start != NULL);
    return found(TEXT("Unexpected token '}'"), (struct place){number, (unsigned)line.size + 1});
}

/* Report that the source is not a program. */
static enum form refuse_as(enum form form, struct fault fault)
{
    if (memory_was_refused())
        frames_send('m', TEXT(""));
    else
        frames_send_refused((char)form, fault.message, fault.stack);
    return FORM_NONE;
}

static enum form refuse_fence(struct place place)
{
    place.line += 1; /* the line of the bracket */
    return refuse_as(FORM_BODY, found(TEXT(FENCED), place));
}

/* The same, but if a line opens a Markdown fence, report the fence as the error. */
static enum form refuse(enum form form, struct fault fault, struct text source)
{
    struct place fence = find_fence(source);
    return fence.line > 0 ? refuse_fence(fence) : refuse_as(form, fault);
}

/* Return the form of a program, and compile it if it is a module. If the source is not a program, report this and
 * return FORM_NONE. */
enum form check_source(const struct job *job)
{
    const struct text *brackets = job->brackets, source = job->code;
    struct fault first, error, in_module;
    if (begins_fenced(source))
        return refuse_fence(find_fence(source));
    bool in_first = parses_in(brackets[0], source, brackets[1], &first);
    if (!in_first)
        error = first;
    else if (parses_in(brackets[2], source, brackets[3], &error) && parses_in(brackets[4], source, brackets[5], &error))
        return FORM_BODY;
    /* A body that parses in one wrapper and not in the next closes the wrapper. */
    struct export export = find_export(source);
    if (!in_first && export.place.line > 0) {
        struct text whole = memory_join(&source, 1);
        if (context_compile_module(whole, &in_module)) {
            if (find(source, "default") != NULL)
                return FORM_MODULE;
            return refuse(FORM_MODULE, found(TEXT(NO_DEFAULT), export.place), source);
        }
        if (starts_with(in_module.message, NO_MODULE))
            return refuse(FORM_MODULE, found(TEXT(NO_IMPORT), find_import(source, in_module.message)), source);
        /* The first error is at the export, so the text is a module and not a body. */
        if (export.opens_line || is(first.message, "unsupported keyword: export"))
            return refuse(FORM_MODULE, clear(in_module, source, 0), source);
    }
    /* If a brace closes more than the body opens, the engine reports the token after it. */
    struct place stray;
    struct text before = {source.start, unplaced_stray_brace(source, &stray)};
    if (stray.line > 0 && stray.line < place_of(&error).line && parses_in(brackets[0], before, brackets[1], &first)) {
        stray.line += 1;
        return refuse(FORM_BODY, found(TEXT("Unexpected token '}'"), stray), source);
    }
    if (place_of(&error).line > lines_in(source) + 1)
        error = fault_at_end(brackets[6], source, error);
    return refuse(FORM_BODY, clear(error, source, 1), source);
}
