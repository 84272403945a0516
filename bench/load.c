/* The load generator of the benchmarks: one process, many connections, every latency recorded. load.py builds it.
 *
 *   load TARGET FRAMING REQUESTS CONNECTIONS SECONDS RATE EXPECT OUT [GRACE]
 *
 * TARGET    A port of 127.0.0.1, or the path of a Unix socket.
 * FRAMING   http, prefix (4 bytes with the big-endian length, then the payload) or line (one message a line).
 * REQUESTS  A file with all requests, which are sent in rotation. Each consists of 4 bytes with its length in native
 *           byte order, then its bytes.
 * RATE      0: a closed loop. Each connection sends its next request when it has received a reply.
 *           Otherwise an open loop with this many requests per second, due at regular times. A request waits if no
 *           connection is free. Its latency always counts from the time at which it was due.
 * EXPECT    A text that every correct reply contains. Other replies count as wrong.
 * OUT       The output file: the latency of each reply in seconds, as doubles. The latency of a wrong reply is infinity.
 * GRACE     For a server under attack. Requests without a reply this many seconds after the end count as unanswered,
 *           and connections that the server closes are opened again. Without GRACE, both end the load with an error.
 *
 * Prints five numbers: replies, wrong replies, seconds, CPU seconds of this process, unanswered requests.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct request { char *bytes; uint32_t size; };
struct connection {
    int fd, busy, writing;
    double since;
    char *in;
    size_t used, room;
    const char *out;
    size_t unsent;
};

static struct request *requests;
static size_t request_count, next_request;
static const char *expected, *framing;
static double *latencies;
static size_t answers, wrong, latency_room;
static int epoll, graceful;
static const char *target;
static size_t unanswered;

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t size;
    if (!file) die(path);
    while (fread(&size, 4, 1, file) == 1) {
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        if (!requests || !(requests[request_count].bytes = malloc(size))) die("memory");
        requests[request_count].size = size;
        if (fread(requests[request_count++].bytes, 1, size, file) != size) die(path);
    }
    fclose(file);
    if (!request_count) { fprintf(stderr, "load: %s has no requests\n", path); exit(1); }
}

static int connect_to(const char *target) {
    int fd, one = 1;
    if (target[0] == '/') {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, target, sizeof address.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die(target);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(target))};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die(target);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    return fd;
}

static void open_connection(struct connection *c) {
    c->fd = connect_to(target);
    c->writing = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void push(struct connection *c) {
    while (c->unsent) {
        ssize_t sent = send(c->fd, c->out, c->unsent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (graceful && errno == EPIPE) return; /* the next read detects the end of the connection */
            if (errno != EAGAIN) die("send");
            break;
        }
        c->out += sent;
        c->unsent -= sent;
    }
    if (c->writing != (c->unsent > 0)) {
        c->writing = c->unsent > 0;
        struct epoll_event event = {.events = EPOLLIN | (c->writing ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
}

static void begin(struct connection *c, double since) {
    struct request *request = &requests[next_request++ % request_count];
    c->busy = 1;
    c->since = since;
    c->used = 0;
    c->out = request->bytes;
    c->unsent = request->size;
    push(c);
}

/* Whether the reply is complete. */
static int whole(struct connection *c) {
    if (!strcmp(framing, "line")) return c->used && c->in[c->used - 1] == '\n';
    if (!strcmp(framing, "prefix")) {
        if (c->used < 4) return 0;
        uint32_t size;
        memcpy(&size, c->in, 4);
        return c->used >= 4 + (size_t)ntohl(size);
    }
    char *body = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!body) return 0;
    body += 4;
    for (char *line = c->in; line < body; line++) {
        if (!strncasecmp(line, "content-length:", 15)) return c->used >= (size_t)(body - c->in) + strtoul(line + 15, 0, 10);
        line = memchr(line, '\n', body - line);
        if (!line) break;
    }
    return c->used >= 5 && !memcmp(c->in + c->used - 5, "0\r\n\r\n", 5); /* chunked */
}

static int receive(struct connection *c) {
    if (c->room - c->used < 65536 && !(c->in = realloc(c->in, c->room = c->room * 2 + 131072))) die("memory");
    ssize_t got = recv(c->fd, c->in + c->used, c->room - c->used, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return 0;
    if (got <= 0) {
        if (!graceful) { fprintf(stderr, "load: the server closed a connection\n"); exit(1); }
        close(c->fd);
        open_connection(c);
        c->unsent = 0;
        unanswered += c->busy;
        int was_busy = c->busy;
        c->busy = 0;
        return was_busy;
    }
    c->used += got;
    if (!whole(c)) return 0;
    if (answers == latency_room && !(latencies = realloc(latencies, (latency_room = latency_room * 2 + 65536) * 8))) die("memory");
    int right = memmem(c->in, c->used, expected, strlen(expected)) != NULL;
    latencies[answers++] = right ? now() - c->since : INFINITY;
    wrong += !right;
    c->busy = 0;
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 9 && argc != 10) {
        fprintf(stderr, "usage: load TARGET FRAMING REQUESTS CONNECTIONS SECONDS RATE EXPECT OUT [GRACE]\n");
        return 2;
    }
    target = argv[1];
    graceful = argc == 10;
    int connections = atoi(argv[4]), busy = 0;
    double seconds = atof(argv[5]), rate = atof(argv[6]);
    framing = argv[2];
    expected = argv[7];
    read_requests(argv[3]);
    epoll = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) open_connection(&all[i]);
    double start = now(), end = start + seconds, last = end + (graceful ? atof(argv[9]) : 30);
    size_t due = 0, begun = 0;
    if (!rate)
        for (int i = 0; i < connections; i++, busy++) begin(&all[i], now());
    for (;;) {
        double at = now();
        if (rate) {
            while (at < end && start + due / rate <= at) due++;
            for (int i = 0; i < connections && begun < due; i++)
                if (!all[i].busy) { begin(&all[i], start + begun++ / rate); busy++; }
        }
        if (at >= end && !busy && begun >= due) break;
        if (at > last && graceful) { unanswered += busy + (due - begun); break; }
        if (at > last) { fprintf(stderr, "load: no answer for 30 s\n"); return 1; }
        struct epoll_event events[64];
        struct timespec wait = {0, 100000000};
        if (rate && at < end) {
            double pause = start + due / rate - at;
            wait.tv_nsec = pause > 0 ? (pause < 0.1 ? pause * 1e9 : 1e8) : 0;
        }
        int ready = epoll_pwait2(epoll, events, 64, &wait, NULL);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if ((events[i].events & ~EPOLLOUT) && receive(c)) {
                busy--;
                if (!rate && now() < end) { begin(c, now()); busy++; }
            }
        }
    }
    double took = now() - start;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    FILE *file = fopen(argv[8], "wb");
    if (!file || fwrite(latencies, 8, answers, file) != answers || fclose(file)) die(argv[8]);
    printf("%zu %zu %.6f %.6f %zu\n", answers, wrong, took,
           usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
           unanswered);
    return 0;
}
