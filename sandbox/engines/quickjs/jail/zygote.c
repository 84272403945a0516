/* The zygote: the first process of a QuickJS jail, and the only one that lives longer than a run.
 *
 * Theory of operation
 *
 *   daemon --- data (SOCK_STREAM, descriptor 0) ------------------ child, one for each run
 *     |                                                              | fork
 *     +------- control (SOCK_SEQPACKET, descriptor 1) ----------- zygote
 *
 * nsjail starts the zygote in a jail whose root holds this static binary and nothing else. The zygote makes a
 * JavaScript context, evaluates promptlog's own scripts in it, which are in the binary, forks a child and reports
 * that it is ready. The child has the context already: a run pays for the pages that it writes to, and for nothing
 * else.
 *
 * A child (child.c) gives up what a run does not need (confinement.c): the control socket, CPU time and memory above
 * its limits, and all system calls but a few. Only then it reads one frame from the data socket (frames.c), checks
 * the source in it (check.c) or runs the source or its bytecode (context.c), writes console lines (hooks.c) and one
 * last message, and exits. The zygote reaps it, reports how it ended, and forks the next.
 *
 * Who trusts whom: the zygote never reads a user byte, since it never reads from data. What it reads from control is
 * the daemon's. A program that takes its child over has that child's descriptor 0 and its own memory. Nothing of a
 * child comes back to the zygote but its wait status and usage, which are the kernel's.
 *
 * Control, one packet a message, numbers big-endian but for those of E, which are the kernel's own:
 *
 *   to the daemon    R                                           ready: the first blank child is there
 *                    E:4 status:4 user_s:8 user_us:8 system_s:8 system_us:8 maxrss_kib:8      a child has ended
 *                    U:4 and the same        the same, and it left unread what it was sent: the zygote ends, too,
 *                                            since the next child would take the rest for its own job
 *   to the zygote    K number:4                                  kill the child with this number
 *                    L number:4 cpu_ms:4 memory_bytes:8          the same, and give these limits to the next one, and
 *                                                                only to it
 *
 * Children are numbered from 0, so that a message about one that has just ended does not hit the next. control.py is
 * the other end. The daemon ends the zygote by closing control, and with it all in the jail.
 *
 * Most of what a run costs is the kernel's copying of pages that it writes to. So the zygote's memory is small, a
 * child does little, and the fork is the system call itself: there are no threads and no locks that the C library
 * would mend. */
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

/* E or U: the head of this is what goes out. */
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

/* Make everything that a child needs. */
static void start(void)
{
    if (!context_start())
        give_up(TEXT("the scripts"), context_start_fault());
    time_t now = 0;
    struct tm there;
    localtime_r(&now, &there); /* the C library looks for a time zone once, which a child may not */
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

/* Read one message of the daemon's, and do what it asks of the child with this number. Whether `other` was set. */
static bool serve(pid_t child, uint32_t number, struct limits *other)
{
    unsigned char message[MESSAGE_BYTES] = {0};
    ssize_t size = read(CONTROL, message, sizeof message);
    if (size <= 0)
        _exit(EXIT_DONE); /* the daemon has closed it, or is gone */
    if (size < 5 || big_endian(message + 1, 4) != number)
        return false;
    bool limits = message[0] == 'L' && size == 17;
    if (limits)
        *other = (struct limits){(uint32_t)big_endian(message + 5, 4), big_endian(message + 9, 8)};
    kill(child, SIGKILL);
    return limits;
}

/* Serve the daemon until the child has ended. Whether it asked for other limits for the next one. */
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

/* Whether there is something on data that the child did not read. It is not read here, either. */
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

/* Say whether placement.h and scripts.bytecode are of this engine and of these scripts. */
static _Noreturn void tell_placement(void)
{
    start();
    bool both = memory_is_placed() && scripts_are_bytecode();
    struct text text = both ? TEXT("in force\n") : TEXT("not in force: make placement\n");
    _exit(write(ERRORS, text.start, text.size) < 0 ? EXIT_BROKEN : EXIT_DONE);
}

/* quickjs-cell CPU_MS MEMORY_BYTES: what a child gets unless the daemon asks for something else.
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
