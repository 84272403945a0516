/* Finds out to which blocks of the start a run writes. Only for `make placement`, with -DTRACE, on x86-64.
 *
 * A child makes the cold region read-only, so each write there faults. The handler records the block's number, makes
 * the region writable and sets the trap flag. So the processor stops again after this instruction, and the region is
 * made read-only again. The record is a file that all children share, with a byte for each number. */
#ifdef TRACE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "cell.h"

#define FILE_NAME "trace.out"

enum { MOST_BLOCKS = 1 << 20, MOST_UNITS = 1 << 17, UNIT_BYTES = 16, TRAP_FLAG = 0x100 };
enum { NOT_TAKEN, TAKEN, WRITTEN };

static char *noted;
static unsigned owners[MOST_UNITS]; /* for each unit of 16 bytes at which a block starts: the block's number, plus 1 */
static struct text region;

static void open_file(void)
{
    int file = open(FILE_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, MOST_BLOCKS) != 0)
        _exit(EXIT_NOT_STARTED);
    noted = mmap(NULL, MOST_BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (noted == MAP_FAILED)
        _exit(EXIT_NOT_STARTED);
    close(file);
}

/* Record the number of a block. */
void trace_taken(const void *block, unsigned number)
{
    if (noted == NULL)
        open_file();
    if (number >= MOST_BLOCKS)
        _exit(EXIT_NOT_STARTED);
    noted[number] = TAKEN;
    struct text all = memory_cold();
    size_t unit = (size_t)((const char *)block - all.start) / UNIT_BYTES;
    if (all.start != NULL && (const char *)block >= all.start && (const char *)block < all.start + all.size)
        owners[unit] = number + 1;
}

static void protect(int protection)
{
    if (mprotect((char *)region.start, region.size, protection) != 0)
        _exit(EXIT_BROKEN);
}

static long long *flags_of(void *context)
{
    return &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
}

static void on_write(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    const char *at = info->si_addr;
    if (at < region.start || at >= region.start + region.size)
        _exit(EXIT_BROKEN);
    /* The 8 bytes before a block (its capacity) belong to the block. */
    size_t unit = (size_t)(at + 8 - region.start) / UNIT_BYTES;
    while (unit > 0 && owners[unit] == 0)
        unit--;
    if (owners[unit] > 0)
        noted[owners[unit] - 1] = WRITTEN;
    protect(PROT_READ | PROT_WRITE);
    *flags_of(context) |= TRAP_FLAG;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    protect(PROT_READ);
    *flags_of(context) &= ~TRAP_FLAG;
}

/* Record all writes of this child from now on. */
void trace_writes(void)
{
    static char stack[64 * 1024];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction write = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    if (sigaltstack(&other, NULL) != 0 || sigaction(SIGSEGV, &write, NULL) != 0 || sigaction(SIGTRAP, &trap, NULL) != 0)
        _exit(EXIT_BROKEN);
    region = memory_cold();
    region.size = (region.size + 4095) & ~(size_t)4095;
    protect(PROT_READ);
}
#endif
