/* Only for tests (-DTAKEOVER): a child that executes native code for the attacker, confined by the second filter like a
 * real one. If a program contains `//TAKEOVER ` and a command, native code runs instead of the engine.
 * tests/hostile/takeover.py has the commands. An executable without TAKEOVER contains none of this. */
#ifdef TAKEOVER
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "cell.h"

enum { MOST_WORDS = 8, MOST_BYTES = 1 << 16 };

static bool filter_is_off;
static _Alignas(8) char zero[4096]; /* a futex must be aligned */
static char path[] = "/quickjs-cell";
static struct sockaddr_un daemon_socket = {1, "/run/promptlog/promptlog.sock"};
static struct sockaddr_in network = {.sin_family = 2, .sin_port = 0x5000, .sin_addr = {0x0100007f}};
static struct iovec iovec = {zero, 16};
static char bytes[MOST_BYTES];

/* With a fourth argument, `no-filter`, children are not confined by the second filter. */
bool takeover_leaves_filter_off(void)
{
    return filter_is_off;
}

static long value_of(const char *word)
{
    if (strcmp(word, "zero") == 0)
        return (long)zero;
    if (strcmp(word, "path") == 0)
        return (long)path;
    if (strcmp(word, "code") == 0)
        return (long)value_of & -4096L;
    if (strcmp(word, "unix") == 0)
        return (long)&daemon_socket;
    if (strcmp(word, "inet") == 0)
        return (long)&network;
    if (strcmp(word, "iovec") == 0)
        return (long)&iovec;
    return (long)strtoull(word, NULL, 0);
}

/* Make a system call of words, and return its value, or -errno. */
static long call(char **words)
{
    long numbers[7] = {0};
    for (int i = 0; i < 7 && words[i] != NULL; i++)
        numbers[i] = value_of(words[i]);
    long result =
        syscall(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]);
    return result == -1 ? -errno : result;
}

/* The 32-bit system call interface of x86-64, where the same numbers mean other calls. */
static long call_32_bit(long number)
{
#ifdef __x86_64__
    long result = number;
    __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
#else
    return number - number - ENOSYS;
#endif
}

static void tell(long result)
{
    char digits[32];
    int size = snprintf(digits, sizeof digits, "%ld", result);
    frames_send('b', (struct text){digits, (size_t)size});
}

static size_t read_hex(const char *hex)
{
    size_t size = 0;
    unsigned byte;
    for (; size < MOST_BYTES && sscanf(hex + 2 * size, "%2x", &byte) == 1; size++)
        bytes[size] = (char)byte;
    return size;
}

static void send_bytes(const char *from, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t written = write(DATA, from + at, size - at);
        if (written < 0)
            _exit(EXIT_BROKEN);
        at += (size_t)written;
    }
}

/* Send the bytes many times at once, and then a value. */
static void send_many(size_t count, size_t times)
{
    static const char last[] = {'v', 0, 0, 0, 1, '1'};
    char *all = memory_take(count * times + sizeof last);
    for (size_t i = 0; i < times; i++)
        memcpy(all + i * count, bytes, count);
    memcpy(all + count * times, last, sizeof last);
    send_bytes(all, count * times + sizeof last);
}

/* Execute the command in a job, if it has one. */
void takeover_job(const char *payload, size_t size)
{
    static char line[2 * MOST_BYTES];
    const char *at = memmem(payload, size, "//TAKEOVER ", 11), *end;
    if (at == NULL)
        return;
    at += 11;
    end = memchr(at, '\n', size - (size_t)(at - payload));
    size_t length = end == NULL ? size - (size_t)(at - payload) : (size_t)(end - at);
    if (length >= sizeof line)
        _exit(EXIT_BROKEN);
    memcpy(line, at, length);
    char *words[MOST_WORDS + 1] = {0}, *rest = line;
    for (int i = 0; i < MOST_WORDS && (words[i] = strtok_r(rest, " ", &rest)) != NULL; i++)
        ;
    char command = words[0][0];
    if (command == 'S') {
        tell(call(words + 1));
        _exit(EXIT_DONE);
    }
    if (command == 'I') {
        tell(call_32_bit(value_of(words[1])));
        _exit(EXIT_DONE);
    }
    size_t count = words[1] == NULL ? 0 : read_hex(words[1]);
    if (command == 'R') {
        send_many(count, (size_t)value_of(words[2]));
        _exit(EXIT_DONE);
    }
    send_bytes(bytes, count);
    while (command == 'E')
        send_bytes(bytes, count);
    if (command == 'H' && read(DATA, bytes, 1) < 0)
        _exit(EXIT_BROKEN);
    _exit(command == 'X' ? (int)value_of(words[2]) : EXIT_DONE);
}

/* `quickjs-cell call NR ARGUMENT...` makes one system call and writes its result to descriptor 2, to test any jail. */
void takeover_start(int *argc, char **argv)
{
    if (*argc > 2 && strcmp(argv[1], "call") == 0) {
        dprintf(ERRORS, "%ld", call(argv + 2));
        _exit(EXIT_DONE);
    }
    if (*argc == 4 && strcmp(argv[3], "no-filter") == 0) {
        filter_is_off = true;
        *argc = 3;
    }
}
#endif
