/* frames.c with a socket in memory: data from the daemon comes in pieces, and the output must be whole frames. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target.h"

static jmp_buf ended;
static struct input *from_daemon;
static uint8_t *written;
static size_t written_bytes, room_bytes;

static ssize_t fuzz_read(int file, void *to, size_t size)
{
    REQUIRE(file == DATA && size > 0);
    size_t left = (size_t)(from_daemon->end - from_daemon->at);
    if (left == 0)
        return 0;
    size_t piece = 1 + take_byte(from_daemon) * 7;
    left--;
    if (piece > left)
        piece = left;
    if (piece > size)
        piece = size;
    memcpy(to, from_daemon->at, piece);
    from_daemon->at += piece;
    return (ssize_t)piece;
}

static ssize_t fuzz_write(int file, const void *from, size_t size)
{
    REQUIRE(file == DATA && size > 0);
    size_t piece = size > 3000 ? size - 1000 : size;
    if (written_bytes + piece > room_bytes)
        written = realloc(written, room_bytes = 2 * (written_bytes + piece));
    memcpy(written + written_bytes, from, piece);
    written_bytes += piece;
    return (ssize_t)piece;
}

static void fuzz_exit(int code)
{
    REQUIRE(code == EXIT_BROKEN || code == EXIT_DONE);
    longjmp(ended, 1);
}

static char *own_block; /* the frame, if it has a block of its own */

static char *fuzz_take(size_t size)
{
    return own_block = size > 1 << 20 ? fuzz_exit(EXIT_BROKEN), NULL : malloc(size);
}

#define memory_take fuzz_take
#define read fuzz_read
#define write fuzz_write
#define _exit fuzz_exit
#include "frames.c"
#undef read
#undef write
#undef _exit

void frames_begin(struct input *daemon)
{
    from_daemon = daemon;
    written_bytes = 0;
    REQUIRE(out_bytes == 0);
}

static bool is_among(struct text part, const char *start, size_t size)
{
    return part.size == 0 || (part.start >= start && part.start + part.size <= start + size);
}

void frames_require_whole(void)
{
    REQUIRE(out_bytes == 0);
    for (size_t at = 0; at < written_bytes;) {
        REQUIRE(written_bytes - at >= HEADER_BYTES && strchr("lvobxmsf", written[at]) != NULL && written[at] != 0);
        size_t size = big_endian((const char *)written + at + 1), fields = at + HEADER_BYTES;
        REQUIRE(size <= written_bytes - fields);
        at = fields + size;
        if (written[fields - HEADER_BYTES] == 'x' || written[fields - HEADER_BYTES] == 's') {
            fields += written[fields - HEADER_BYTES] == 's';
            while (fields < at) {
                REQUIRE(at - fields >= 4);
                size_t field = big_endian((const char *)written + fields);
                fields += 4;
                REQUIRE(field <= at - fields);
                fields += field;
            }
            REQUIRE(fields == at);
        }
    }
}

static void require_in_frame(const struct job *job, const char *frame)
{
    const char *payload = frame + HEADER_BYTES;
    size_t size = big_endian(frame + 1), sum = 0;
    const struct text fields[] = {job->code, job->bytecode, job->given.prompt, job->given.env};
    REQUIRE(payload[size] == 0);
    for (size_t i = 0; i < 4; i++) {
        REQUIRE(is_among(fields[i], payload, size));
        sum += fields[i].size;
    }
    REQUIRE(sum <= size);
    for (size_t i = 0; i < BRACKETS; i++) {
        struct text bracket = job->brackets[i];
        REQUIRE(is_among(bracket, payload, size));
        REQUIRE(bracket.size == 0 || memchr(bracket.start, 0, bracket.size) == NULL);
    }
    if (job->kind == JOB_CHECK || job->kind == JOB_CHECK_AND_RUN)
        REQUIRE(job->brackets[BRACKETS - 1].start != NULL);
}

/* Reads a job in pieces. Its fields must lie within its frame, which is followed by a NUL. */
void fuzz_job(struct input *input)
{
    struct job job;
    frames_begin(input);
    memset(room, 0x55, sizeof room);
    own_block = NULL;
    if (setjmp(ended) == 0) {
        frames_read_job(&job);
        require_in_frame(&job, own_block == NULL ? room : own_block);
    }
    free(own_block);
}

/* Sends messages of each kind with arbitrary texts. */
void fuzz_sent(struct input *input)
{
    frames_begin(NULL);
    while (input->at < input->end) {
        unsigned what = take_byte(input);
        struct text texts[] = {take_text(input), take_text(input), take_text(input)};
        if (what >= 128) { /* larger than the buffer for small frames */
            struct text large = {malloc(10 * 4096), 1 + (what - 128) * 64};
            memset((char *)large.start, 'x', large.size);
            free_text(texts[0]);
            texts[0] = large;
        }
        switch (what % 4) {
        case 0:
            frames_send('v', texts[0]);
            break;
        case 1:
            frames_send_marked('l', '1', texts[0]);
            break;
        case 2:
            frames_send_fields('x', texts, 3);
            break;
        case 3:
            frames_send_refused('B', texts[0], texts[1]);
            break;
        }
        for (size_t i = 0; i < 3; i++)
            free_text(texts[i]);
    }
    frames_require_whole();
}
