/* The zygote: the first process of a QuickJS jail, and the only one that lives longer than a run.
 *
 * Theory of operation
 *
 *   daemon --- data (SOCK_STREAM, descriptor 0) ------------------ child, one for each run
 *     |                                                              | fork
 *     +------- control (SOCK_SEQPACKET, descriptor 1) ----------- zygote
 *
 * nsjail starts the zygote in a jail whose root contains only this static executable. The zygote creates a JavaScript
 * context, evaluates promptlog's embedded scripts in it, forks a child and reports that it is ready. The child
 * inherits the context, so a run costs only the copies of the pages that it writes to.
 *
 * A child (child.c) drops all rights that a run does not need (confinement.c): the control socket, CPU time and
 * memory above its limits, and most system calls. Only then does it read one frame from the data socket (frames.c).
 * It checks the source in it (check.c), or runs the source or its bytecode (context.c). It writes console lines
 * (hooks.c, plain.c) and one last message, and exits. The zygote reaps the child, reports how it ended, and forks the
 * next one.
 *
 * The engine's errors get better positions and messages from the program's text (errors.c, stacks.c, places.c, calls.c,
 * messages.c, unplaced.c), which syntax.c and tokens.c read.
 *
 * Trust: the zygote never reads a user byte, because it never reads from data. Only the daemon writes to control. A
 * program that controls its child has that child's descriptor 0 and memory. The only information about a child that
 * reaches the zygote is its wait status and usage, which come from the kernel.
 *
 * Messages on control, one packet each. Numbers are big-endian, except in E, where they are in the kernel's format:
 *
 *   to the daemon    R                                           ready: the first blank child waits for a job
 *                    E:4 status:4 user_s:8 user_us:8 system_s:8 system_us:8 maxrss_kib:8      a child has ended
 *                    U:4 and the same        the same, and it left input unread: the zygote exits, too, because the
 *                                            next child would read the rest as its own job
 *   to the zygote    K number:4                                  kill the child with this number
 *                    L number:4 cpu_ms:4 memory_bytes:8          the same, and use these limits for only the next child
 *
 * Children are numbered from 0, so that a message about a child that has just ended does not affect the next one.
 * control.py is the other end. To end the zygote, and with it all processes in the jail, the daemon closes control.
 *
 * Most of the cost of a run is the kernel's work for copying pages to which it writes. So the zygote's memory is
 * small, a child does little, and the fork is the plain system call: there are no threads or locks that the C library
 * would have to handle. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cell.h"

enum { MESSAGE_BYTES = 64 };

/* The message E or U. Only the start of this struct is sent. */
struct report {
    char kind[4];
    int32_t status;
    struct rusage usage;
};
enum { REPORT_BYTES = 48 };

_Static_assert(offsetof(struct report, usage) == 8, "the report has no gap");
_Static_assert(offsetof(struct rusage, ru_maxrss) == 32, "the report's head ends behind the resident size");

static _Noreturn void give_up(struct text what, struct text why)
{
    const struct text parts[] = {TEXT("quickjs-cell: "), what, TEXT(": "), why, TEXT("\n")};
    struct text line = memory_join(parts, 5);
    if (write(ERRORS, line.start, line.size) < 0)
        _exit(EXIT_NOT_STARTED);
    _exit(EXIT_NOT_STARTED);
}

/* Prepare everything that a child needs. */
static void start(void)
{
    if (!context_start())
        give_up(TEXT("the scripts"), context_start_fault());
    time_t now = 0;
    struct tm there;
    localtime_r(&now, &there); /* make the C library load the time zone, which a child may not do */
    context_settle();
    memory_end_start();
}

static uint64_t big_endian(const unsigned char *bytes, size_t count)
{
    uint64_t number = 0;
    for (size_t i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

/* Read one message of the daemon, and apply it to the child with this number. Return whether `other` was set. */
static bool serve(pid_t child, uint32_t number, struct limits *other)
{
    unsigned char message[MESSAGE_BYTES] = {0};
    ssize_t size = read(CONTROL, message, sizeof message);
    if (size <= 0)
        _exit(EXIT_DONE); /* the daemon has closed control, or has ended */
    if (size < 5 || big_endian(message + 1, 4) != number)
        return false;
    bool limits = message[0] == 'L' && size == 17;
    if (limits)
        *other = (struct limits){(uint32_t)big_endian(message + 5, 4), big_endian(message + 9, 8)};
    kill(child, SIGKILL);
    return limits;
}

/* Handle messages until the child has ended. Return whether the daemon set other limits for the next one. */
static bool wait_for(pid_t child, uint32_t number, struct limits *other)
{
    bool limits = false;
    int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    struct pollfd waited[] = {{CONTROL, POLLIN, 0}, {pidfd, POLLIN, 0}};
    if (pidfd < 0)
        _exit(EXIT_NO_CHILD);
    do {
        if (poll(waited, 2, -1) < 0)
            _exit(EXIT_BROKEN);
        if (waited[0].revents != 0)
            limits |= serve(child, number, other);
    } while (waited[1].revents == 0);
    close(pidfd);
    return limits;
}

/* Whether the child left data unread. The data is not read here, either. */
static bool is_unread(void)
{
    struct pollfd data = {DATA, POLLIN, 0};
    return poll(&data, 1, 0) != 0;
}

static _Noreturn void serve_for_ever(const struct limits *usual)
{
    struct limits other;
    bool special = false;
    confinement_set_limits(usual);
    for (uint32_t number = 0;; number++) {
        pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        if (child == 0)
            child_live();
        if (child < 0)
            _exit(EXIT_NO_CHILD);
        if (number == 0 && write(CONTROL, "R", 1) != 1)
            _exit(EXIT_BROKEN);
        bool asked = wait_for(child, number, &other);
        struct report report = {.kind = "E"};
        wait4(child, &report.status, 0, &report.usage);
        bool unread = is_unread();
        report.kind[0] = unread ? 'U' : 'E';
        if (write(CONTROL, &report, REPORT_BYTES) != REPORT_BYTES || unread)
            _exit(EXIT_DONE);
        if (asked || special)
            confinement_set_limits(asked ? &other : usual);
        special = asked;
    }
}

/* Report whether placement.h and scripts.bytecode are valid for this engine and these scripts. */
static _Noreturn void tell_placement(void)
{
    start();
    bool both = memory_is_placed() && scripts_are_bytecode();
    struct text text = both ? TEXT("in force\n") : TEXT("not in force: make placement\n");
    _exit(write(ERRORS, text.start, text.size) < 0 ? EXIT_BROKEN : EXIT_DONE);
}

/* quickjs-cell CPU_MS MEMORY_BYTES: the default limits of a child.
 * quickjs-cell placement: see tell_placement. */
int main(int argc, char **argv)
{
#ifdef TAKEOVER
    takeover_start(&argc, argv);
#endif
#ifdef COMPILE
    if (argc == 2 && strcmp(argv[1], "compile") == 0)
        scripts_compile();
#endif
    if (argc == 2 && strcmp(argv[1], "placement") == 0)
        tell_placement();
    if (argc != 3)
        give_up(TEXT("arguments"), TEXT("CPU_MS MEMORY_BYTES"));
    struct limits usual = {(uint32_t)strtoul(argv[1], NULL, 10), strtoull(argv[2], NULL, 10)};
    start();
    close(ERRORS);
    serve_for_ever(&usual);
}
