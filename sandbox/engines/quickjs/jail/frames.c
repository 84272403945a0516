/* Frames on the data socket. A frame is a kind (one byte), the size of its payload (four bytes, big-endian), and the
 * payload. If a payload has several fields, each is preceded by its size. sandbox/protocol/frames.py lists all kinds.
 *
 * The only incoming frame is the job. Its payload is: a kind (one byte); six numbers (the limits of the result and of
 * the console lines, three random seeds, and the maximum size of bytecode that a check may return); the sizes of
 * code, bytecode, prompt, env and wrappers; and then these texts. Numbers and sizes have four bytes, big-endian. The
 * wrappers are texts separated by NUL: three pairs to parse a source in, one text that opens a body without closing
 * it, and the pair to run a body in. */
#include <string.h>
#include <unistd.h>

#include "cell.h"

enum {
    HEADER_BYTES = 5,
    NUMBERS = 6,
    FIELDS = 5,
    ROOM_BYTES = 16384,       /* enough for most jobs */
    MOST_JOB_BYTES = 1 << 30, /* far above the daemon's jobs and the memory limit */
};

static char room[ROOM_BYTES + 1];
static char out[4096];
static size_t out_bytes;

static size_t big_endian(const char *at)
{
    const unsigned char *byte = (const unsigned char *)at;
    return (size_t)byte[0] << 24 | (size_t)byte[1] << 16 | (size_t)byte[2] << 8 | byte[3];
}

/* Split the wrappers. Their number must match. */
static bool parse_brackets(struct text all, struct text *brackets)
{
    for (size_t i = 0; i < BRACKETS; i++) {
        const char *end = memchr(all.start, 0, all.size);
        size_t size = end == NULL ? all.size : (size_t)(end - all.start);
        if ((end == NULL) != (i == BRACKETS - 1))
            return false;
        brackets[i] = (struct text){all.start, size};
        if (end != NULL)
            all = (struct text){end + 1, all.size - size - 1};
    }
    return true;
}

/* Decode a job's payload. False if it is invalid. The job's texts point into the payload. */
bool frames_parse_job(const char *payload, size_t size, struct job *job)
{
    *job = (struct job){0};
    size_t at = 1 + 4 * (NUMBERS + FIELDS);
    if (size < at || strchr("LMKCS", payload[0]) == NULL || payload[0] == 0)
        return false;
    job->kind = (enum job_kind)payload[0];
    struct given *given = &job->given;
    uint32_t *numbers[NUMBERS] = {
        &given->result_bytes, &given->log_bytes, &given->seeds[0],
        &given->seeds[1],     &given->seeds[2],  &job->bytecode_bytes,
    };
    for (size_t i = 0; i < NUMBERS; i++)
        *numbers[i] = (uint32_t)big_endian(payload + 1 + 4 * i);
    struct text brackets;
    struct text *fields[FIELDS] = {&job->code, &job->bytecode, &given->prompt, &given->env, &brackets};
    for (size_t i = 0; i < FIELDS; i++) {
        size_t bytes = big_endian(payload + 1 + 4 * (NUMBERS + i));
        if (bytes > size - at)
            return false;
        *fields[i] = (struct text){payload + at, bytes};
        at += bytes;
    }
    if (at != size)
        return false;
    if (job->kind == JOB_CHECK || job->kind == JOB_CHECK_AND_RUN)
        return parse_brackets(brackets, job->brackets);
    return brackets.size == 0;
}

/* Read up to `size` bytes. The daemon closes the socket when it no longer needs a child. */
static size_t read_some(char *to, size_t size)
{
    ssize_t got = read(DATA, to, size);
    if (got < 0)
        _exit(EXIT_BROKEN);
    if (got == 0)
        _exit(EXIT_DONE);
    return (size_t)got;
}

/* Read the job, the first user bytes in this process. The daemon sends nothing after it. */
void frames_read_job(struct job *job)
{
    size_t have = 0;
    char *frame = room;
    while (have < HEADER_BYTES)
        have += read_some(room + have, (have == 0 ? (size_t)ROOM_BYTES : HEADER_BYTES) - have);
    size_t size = big_endian(room + 1);
    if (room[0] != 'j' || size > MOST_JOB_BYTES || have > HEADER_BYTES + size)
        _exit(EXIT_BROKEN);
    if (HEADER_BYTES + size > ROOM_BYTES) {
        frame = memory_take(HEADER_BYTES + size + 1);
        memcpy(frame, room, have);
    }
    while (have < HEADER_BYTES + size)
        have += read_some(frame + have, HEADER_BYTES + size - have);
    frame[have] = 0; /* the engine needs a NUL after a text */
#ifdef TAKEOVER
    takeover_job(frame + HEADER_BYTES, size);
#endif
    if (!frames_parse_job(frame + HEADER_BYTES, size, job))
        _exit(EXIT_BROKEN);
}

static void write_all(const char *from, size_t size)
{
    while (size > 0) {
        ssize_t written = write(DATA, from, size);
        if (written < 0)
            _exit(EXIT_BROKEN);
        from += written;
        size -= (size_t)written;
    }
}

static void flush(void)
{
    write_all(out, out_bytes);
    out_bytes = 0;
}

static void put(const char *from, size_t size)
{
    if (size > sizeof out - out_bytes)
        flush();
    if (size > sizeof out) {
        write_all(from, size);
        return;
    }
    memcpy(out + out_bytes, from, size);
    out_bytes += size;
}

static void put_size(size_t size)
{
    char bytes[4] = {(char)(size >> 24), (char)(size >> 16), (char)(size >> 8), (char)size};
    put(bytes, sizeof bytes);
}

static void put_header(char kind, size_t size)
{
    put(&kind, 1);
    put_size(size);
}

static void put_fields(const struct text *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        put_size(fields[i].size);
        put(fields[i].start, fields[i].size);
    }
}

static size_t fields_size(const struct text *fields, size_t count)
{
    size_t size = 4 * count;
    for (size_t i = 0; i < count; i++)
        size += fields[i].size;
    return size;
}

/* Send a frame with one text. */
void frames_send(char kind, struct text payload)
{
    put_header(kind, payload.size);
    put(payload.start, payload.size);
    flush();
}

/* Send a frame with one character and a text. */
void frames_send_marked(char kind, char mark, struct text payload)
{
    put_header(kind, 1 + payload.size);
    put(&mark, 1);
    put(payload.start, payload.size);
    flush();
}

/* Send a frame with several fields. */
void frames_send_fields(char kind, const struct text *fields, size_t count)
{
    put_header(kind, fields_size(fields, count));
    put_fields(fields, count);
    flush();
}

/* Report that a source is not a program. */
void frames_send_refused(char form, struct text message, struct text stack)
{
    const struct text fields[] = {message, stack};
    put_header('s', 1 + fields_size(fields, 2));
    put(&form, 1);
    put_fields(fields, 2);
    flush();
}
