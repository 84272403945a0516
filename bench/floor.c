/* A lower bound for the time of a run: a minimal zygote in C behind a socketpair. For each byte that it receives, it
 * forks a child, waits until the child has exited, and sends one byte back.
 *
 *   floor COUNT      Prints the duration of each round in seconds, one a line. The last line is "cpu" and the mean CPU
 *                    time of a round in seconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(int who) {
    struct rusage u;
    getrusage(who, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    int ends[2], count = argc > 1 ? atoi(argv[1]) : 1000;
    char byte = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) return 1;
    if (!fork()) {
        close(ends[0]);
        while (read(ends[1], &byte, 1) == 1) {
            if (!fork()) _exit(0);
            wait(0);
            if (write(ends[1], &byte, 1) != 1) _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    for (int i = 0; i < count; i++) {
        double began = now();
        if (write(ends[0], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1) return 1;
        printf("%.9f\n", now() - began);
    }
    close(ends[0]);
    wait(0);
    printf("cpu %.9f\n", (cpu(RUSAGE_SELF) + cpu(RUSAGE_CHILDREN)) / count);
    return 0;
}
