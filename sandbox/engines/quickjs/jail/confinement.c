/* Confines a child before it reads a user byte: closes the control socket, sets the limits, and installs the second
 * filter, which allows only the system calls in host/filter.py (cell_build/embedded.py generates filter.h from it). The
 * zygote prepares all data for the kernel, so nothing is allocated here. This file uses system calls instead of the C
 * library's functions, because the policy of the jail lists system calls. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cell.h"
#include "filter.h"

/* The kernel's struct itimerspec and struct rlimit64 on 64-bit machines. */
struct timer_value {
    int64_t interval_s, interval_ns, value_s, value_ns;
};
struct limit {
    uint64_t soft, hard;
};

/* The kernel copies the filter, and does not write to it. */
static const struct sock_fprog program = {
    .len = sizeof second_filter / sizeof *second_filter,
    .filter = (struct sock_filter *)second_filter,
};
static struct timer_value cpu_timer;
static struct limit cpu_limit, memory_limit, no_processes;

/* The address sanitizer reserves terabytes, and needs more system calls than the filter allows. So a child of such a
 * build has no filter, and its memory limit is added to the address space that is mapped at the start. */
#ifdef __SANITIZE_ADDRESS__
static uint64_t reserved(void)
{
    static unsigned long long pages;
    FILE *sizes = pages == 0 ? fopen("/proc/self/statm", "r") : NULL;
    if (sizes != NULL) {
        if (fscanf(sizes, "%llu", &pages) != 1)
            _exit(EXIT_NOT_STARTED);
        fclose(sizes);
    }
    return pages * 4096;
}
enum { HAS_FILTER = false };
#else
static uint64_t reserved(void)
{
    return 0;
}
enum { HAS_FILTER = true };
#endif

/* Set the limits of the next child. RLIMIT_CPU, in whole seconds, is a second limit behind the timer. */
void confinement_set_limits(const struct limits *limits)
{
    cpu_timer = (struct timer_value){0, 0, limits->cpu_ms / 1000, limits->cpu_ms % 1000 * 1000000};
    cpu_limit = (struct limit){limits->cpu_ms / 1000 + 2, limits->cpu_ms / 1000 + 3};
    uint64_t memory_bytes = reserved() + limits->memory_bytes;
    memory_limit = (struct limit){memory_bytes, memory_bytes};
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
    return; /* the tracer needs other system calls */
#endif
    if (HAS_FILTER)
        require(syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}

/* Whether this process has used at most this percentage of its CPU limit. */
bool confinement_used_at_most(unsigned percent)
{
    struct timespec used;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0)
        return false;
    int64_t used_us = used.tv_sec * 1000000 + used.tv_nsec / 1000;
    return 100 * used_us <= (int64_t)percent * (cpu_timer.value_s * 1000000 + cpu_timer.value_ns / 1000);
}
