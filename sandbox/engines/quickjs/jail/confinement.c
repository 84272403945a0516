/* What a child gives up before it reads a user byte: the control socket, more than its limits, and every system call
 * but those in host/filter.py, of which cell_build/embedded.py makes filter.h. What the kernel is handed was made ready in the zygote, so nothing is allocated here. The
 * system calls themselves, not the C library's functions: they are what the policy of the jail names. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cell.h"
#include "filter.h"

/* struct itimerspec and struct rlimit64 of the kernel, on 64-bit machines. */
struct timer_value {
    int64_t interval_s, interval_ns, value_s, value_ns;
};
struct limit {
    uint64_t soft, hard;
};

/* The kernel copies the filter and does not write to it. */
static const struct sock_fprog program = {
    .len = sizeof second_filter / sizeof *second_filter,
    .filter = (struct sock_filter *)second_filter,
};
static struct timer_value cpu_timer;
static struct limit cpu_limit, memory_limit, no_processes;

/* Say what the next child gets. RLIMIT_CPU, in whole seconds, stands behind the timer. */
void confinement_set_limits(const struct limits *limits)
{
    cpu_timer = (struct timer_value){0, 0, limits->cpu_ms / 1000, limits->cpu_ms % 1000 * 1000000};
    cpu_limit = (struct limit){limits->cpu_ms / 1000 + 2, limits->cpu_ms / 1000 + 3};
    memory_limit = (struct limit){limits->memory_bytes, limits->memory_bytes};
}

static void require(long result)
{
    if (result != 0)
        _exit(EXIT_UNCONFINED);
}

/* Confine this process, a child. */
void confinement_put_on(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGXCPU};
    int timer = 0;
    require(syscall(SYS_close, CONTROL));
    require(syscall(SYS_prlimit64, 0, RLIMIT_CPU, &cpu_limit, 0));
    require(syscall(SYS_prlimit64, 0, RLIMIT_NPROC, &no_processes, 0));
    require(syscall(SYS_prlimit64, 0, RLIMIT_AS, &memory_limit, 0));
    require(syscall(SYS_timer_create, CLOCK_PROCESS_CPUTIME_ID, &event, &timer));
    require(syscall(SYS_timer_settime, timer, 0, &cpu_timer, 0));
#ifdef TAKEOVER
    if (takeover_leaves_filter_off())
        return;
#endif
#ifdef TRACE
    return; /* the tracer's calls are others */
#endif
    require(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}
