/* promptlog's own scripts: their evaluation in the zygote, and the functions that the engine makes when they are first
 * looked at.
 *
 * The executable holds the scripts as bytecode: to load it takes a fraction of the time that it takes to parse them.
 * scripts.bytecode is that bytecode, made by `make placement` and committed, because a build runs nothing of what it
 * fetches, the engine neither. A build whose scripts or engine are other ones holds the text of the scripts in its
 * place (cell_build/embedded.py). */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cell.h"
#include "scripts.h" /* made by cell_build/embedded.py */

/* The file name in stacks: host/stack.py leaves these places out. */
#define FILE_NAME "promptlog:prelude"

#ifdef SCRIPTS_ARE_BYTECODE
static JSValue evaluate(JSContext *context, struct text script)
{
    JSValue function = JS_ReadObject(context, (const uint8_t *)script.start, script.size, JS_READ_OBJ_BYTECODE);
    return JS_IsException(function) ? function : JS_EvalFunction(context, function);
}

bool scripts_are_bytecode(void)
{
    return true;
}
#else
static JSValue evaluate_with(JSContext *context, struct text script, int flags)
{
    const int all = flags | JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT;
    return JS_Eval(context, script.start, script.size - 1, FILE_NAME, all); /* less the 0 behind it */
}

static JSValue evaluate(JSContext *context, struct text script)
{
    return evaluate_with(context, script, 0);
}

bool scripts_are_bytecode(void)
{
    return false;
}
#endif

/* --- built-in functions ------------------------------------------------------------------------------------------
 *
 * The engine makes most of its functions when they are first looked at. A run that does so writes to pages that it
 * shares with the zygote until then, and each of these is copied. So the zygote looks at every object that a program
 * can reach. */

enum { MOST_OBJECTS = 1 << 13 };

struct looked {
    JSContext *context;
    const void **seen; /* a hash table of the objects, with linear probing */
    unsigned count;
};

/* Whether an object is seen for the first time. `count` tells the caller when the table is full. */
static bool note(struct looked *looked, const void *object)
{
    size_t at = ((uintptr_t)object >> 4) * 2654435761u % MOST_OBJECTS;
    while (looked->seen[at] != NULL) {
        if (looked->seen[at] == object)
            return false;
        at = (at + 1) % MOST_OBJECTS;
    }
    looked->seen[at] = object;
    looked->count++;
    return true;
}

/* Look at a value and at all that it refers to. Frees the value. */
static bool look(struct looked *looked, JSValue value)
{
    JSContext *context = looked->context;
    JSPropertyEnum *properties = NULL;
    uint32_t count = 0;
    bool good = true;
    if (JS_IsObject(value) && note(looked, JS_VALUE_GET_PTR(value))) {
        good = looked->count < MOST_OBJECTS / 2 &&
               JS_GetOwnPropertyNames(context, &properties, &count, value, JS_GPN_STRING_MASK | JS_GPN_SYMBOL_MASK) == 0;
        for (uint32_t i = 0; good && i < count; i++) {
            JSPropertyDescriptor property;
            int found = JS_GetOwnProperty(context, &property, value, properties[i].atom);
            good = found >= 0;
            if (found == 1) {
                JSValue parts[] = {property.value, property.getter, property.setter};
                for (int part = 0; part < 3; part++)
                    good = look(looked, parts[part]) && good;
            }
        }
        JS_FreePropertyEnum(context, properties, count);
        good = good && look(looked, JS_GetPrototype(context, value));
    }
    JS_FreeValue(context, value);
    return good;
}

/* Look at everything that the members of this list refer to. */
static bool look_at_all(JSContext *context, JSValue roots)
{
    const size_t size = MOST_OBJECTS * sizeof(void *);
    struct looked looked = {.context = context};
    looked.seen = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (looked.seen == MAP_FAILED)
        return false;
    bool good = look(&looked, roots);
    munmap(looked.seen, size);
    return good;
}

/* Evaluate the scripts in a context. Returns the function that runs a program, or an exception. */
JSValue scripts_evaluate(JSContext *context)
{
    JSValue run = evaluate(context, (struct text){prelude, sizeof prelude});
    if (JS_IsException(run))
        return run;
    JSValue roots = evaluate(context, (struct text){builtins, sizeof builtins});
    if (JS_IsException(roots))
        return roots;
    return look_at_all(context, roots) ? run : JS_ThrowInternalError(context, "the built-in objects are too many");
}

#ifdef COMPILE
/* Write the bytecode of one script to standard output, behind its size. */
static void write_bytecode(JSContext *context, struct text script)
{
    size_t size;
    JSValue function = evaluate_with(context, script, JS_EVAL_FLAG_COMPILE_ONLY);
    uint8_t *bytecode = JS_WriteObject(context, &size, function, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    const unsigned char head[] = {size >> 24, size >> 16, size >> 8, size};
    if (bytecode == NULL || write(1, head, sizeof head) != sizeof head || write(1, bytecode, size) != (ssize_t)size)
        _exit(EXIT_NOT_STARTED);
}

/* Write the bytecode of all scripts to standard output. For `make placement` alone, with -DCOMPILE. */
_Noreturn void scripts_compile(void)
{
    JSContext *context = JS_NewContext(JS_NewRuntime());
    write_bytecode(context, (struct text){prelude, sizeof prelude});
    write_bytecode(context, (struct text){builtins, sizeof builtins});
    _exit(EXIT_DONE);
}
#endif
