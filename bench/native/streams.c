/*
 * Opens many event streams at once and says how they came.
 *
 *   streams PORT CONCURRENT TOTAL EVENTS REQUEST_FILE RAMP_MS SILENCE_S
 *
 * REQUEST_FILE holds one whole HTTP/1.1 request. CONCURRENT connections to 127.0.0.1:PORT, opened evenly over RAMP_MS,
 * send it again and again until TOTAL streams have begun. A stream is good when its status is 200, it brought at least
 * EVENTS events and `data: [DONE]`, and its body ended as HTTP says. One that brings no byte for SILENCE_S has failed.
 *
 * Prints one line of JSON. Counts: streams, ok, and the failed ones by reason (connect, status, broken, incomplete,
 * silent); events of the good ones; wall_s. Times in milliseconds over the good streams: to the first event (first_p50,
 * first_p99), to the end (total_p50, total_p99, total_max), and the longest wait between two reads (gap_max).
 *
 * One thread, one epoll. An event is counted at the empty line that ends it; empty lines and comments (heartbeats) are
 * none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_HEAD 8192
#define MAX_REQUEST (1 << 20)
#define READ_BYTES (256 * 1024)
#define READY_AT_ONCE 256
#define LAST_LINE "data: [DONE]"
#define LAST_LINE_LENGTH 12

enum reason { CONNECT, STATUS, BROKEN, INCOMPLETE, SILENT, REASONS };
enum framing { UNTIL_CLOSE, LENGTH, CHUNKED };
enum chunk_part { SIZE, DATA, DATA_END, TRAILER };

struct stream {
    int fd;                 /* -1 = no connection */
    bool running, connected, in_body, done, closes;
    char head[MAX_HEAD + 1];
    size_t head_length;
    int status;
    enum framing framing;
    enum chunk_part part;
    size_t left;            /* of the body, or of the chunk */
    size_t line_length;     /* of the line of events that is being read */
    char line[LAST_LINE_LENGTH]; /* its begin */
    bool event_open;        /* a line since the last empty one that is no comment */
    long events;
    double began, first, last, gap;
};

static int epoll, port;
static char request[MAX_REQUEST];
static size_t request_length;
static long total, begun, ended, good, events, least_events, failed[REASONS];
static double *first_s, *total_s, longest_gap;

static void begin(struct stream *s);

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* -- the life of a stream ---------------------------------------------------------------------------------------- */

static void disconnect(struct stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->connected = false;
}

static void fail(struct stream *s, enum reason reason)
{
    failed[reason]++;
    ended++;
    disconnect(s);
    begin(s);
}

static void finish(struct stream *s, double now)
{
    if (s->status != 200) {
        fail(s, STATUS);
        return;
    }
    if (!s->done || s->events < least_events) {
        fail(s, INCOMPLETE);
        return;
    }
    first_s[good] = s->first - s->began;
    total_s[good] = now - s->began;
    good++;
    ended++;
    events += s->events;
    if (s->gap > longest_gap)
        longest_gap = s->gap;
    if (s->closes)
        disconnect(s);
    begin(s);
}

static bool send_request(struct stream *s)
{
    return send(s->fd, request, request_length, MSG_NOSIGNAL) == (ssize_t)request_length;
}

static bool dial(struct stream *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0)
        return false;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        return false;
    return !epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &wanted);
}

/* The next stream on this place, if one is left to begin. */
static void begin(struct stream *s)
{
    int fd = s->fd;
    bool connected = s->connected;
    *s = (struct stream){.fd = fd, .connected = connected};
    if (begun == total) {
        disconnect(s);
        return;
    }
    begun++;
    s->running = true;
    s->began = s->last = now_s();
    if (s->fd < 0) {
        if (!dial(s)) {
            /* Not fail(): without a free address it would call itself for all that are left. */
            failed[CONNECT]++;
            ended++;
            s->running = false;
            disconnect(s);
        }
    } else if (!send_request(s)) {
        s->running = false;
        failed[BROKEN]++;
        ended++;
        disconnect(s);
    }
}

/* -- reading ----------------------------------------------------------------------------------------------------- */

static void end_line(struct stream *s, double now)
{
    if (s->line_length == 0) {
        if (s->event_open) {
            s->events++;
            if (s->events == 1)
                s->first = now;
        }
        s->event_open = false;
        return;
    }
    if (s->line[0] != ':')
        s->event_open = true;
    if (s->line_length == LAST_LINE_LENGTH && !memcmp(s->line, LAST_LINE, LAST_LINE_LENGTH))
        s->done = true;
    s->line_length = 0;
}

static void add_to_line(struct stream *s, const char *text, size_t length)
{
    if (s->line_length < LAST_LINE_LENGTH) {
        size_t kept = LAST_LINE_LENGTH - s->line_length;
        memcpy(s->line + s->line_length, text, length < kept ? length : kept);
    }
    s->line_length += length;
}

static void read_events(struct stream *s, const char *data, size_t length, double now)
{
    while (length) {
        const char *end = memchr(data, '\n', length);
        size_t taken = end ? (size_t)(end - data) : length;
        size_t text = taken && data[taken - 1] == '\r' ? taken - 1 : taken;
        add_to_line(s, data, text);
        if (!end)
            return;
        end_line(s, now);
        data += taken + 1;
        length -= taken + 1;
    }
}

static int hex(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* True at the end of the body. */
static bool read_chunks(struct stream *s, const char *data, size_t length, double now)
{
    while (length) {
        if (s->part == DATA) {
            size_t taken = length < s->left ? length : s->left;
            read_events(s, data, taken, now);
            data += taken;
            length -= taken;
            s->left -= taken;
            if (!s->left)
                s->part = DATA_END;
            continue;
        }
        char byte = *data++;
        length--;
        if (s->part == SIZE && hex(byte) >= 0)
            s->left = s->left * 16 + hex(byte);
        else if (byte == '\n' && s->part == TRAILER)
            return true;
        else if (byte == '\n')
            s->part = s->part == DATA_END ? SIZE : s->left ? DATA : TRAILER;
    }
    return false;
}

/* True at the end of the body. */
static bool read_body(struct stream *s, const char *data, size_t length, double now)
{
    if (s->framing == CHUNKED)
        return read_chunks(s, data, length, now);
    if (s->framing == LENGTH && length > s->left)
        length = s->left;
    read_events(s, data, length, now);
    s->left -= s->framing == LENGTH ? length : 0;
    return s->framing == LENGTH && !s->left;
}

/* How many bytes of `data` belong to the head; -1 where there can be no head. */
static ssize_t read_head(struct stream *s, const char *data, size_t length)
{
    size_t before = s->head_length;
    size_t taken = length < MAX_HEAD - before ? length : MAX_HEAD - before;
    memcpy(s->head + before, data, taken);
    s->head_length += taken;
    s->head[s->head_length] = 0;
    char *end = strstr(s->head, "\r\n\r\n");
    if (!end)
        return s->head_length == MAX_HEAD ? -1 : (ssize_t)taken;
    end[2] = 0;
    const char *size = strcasestr(s->head, "\r\ncontent-length:");
    s->in_body = true;
    s->status = s->head_length > 9 ? atoi(s->head + 9) : 0;
    s->closes = strcasestr(s->head, "\r\nconnection: close") != NULL;
    s->framing = strcasestr(s->head, "\r\ntransfer-encoding: chunked") ? CHUNKED : size ? LENGTH : UNTIL_CLOSE;
    s->left = s->framing == LENGTH ? strtoul(size + 17, NULL, 10) : 0;
    return end + 4 - s->head - before;
}

static void closed(struct stream *s, double now)
{
    if (!s->running)
        disconnect(s);
    else if (s->in_body && s->framing == UNTIL_CLOSE) {
        s->closes = true;
        finish(s, now);
    } else
        fail(s, BROKEN);
}

static void receive(struct stream *s)
{
    static char buffer[READ_BYTES];
    ssize_t got = recv(s->fd, buffer, sizeof buffer, 0);
    double now = now_s();
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        closed(s, now);
        return;
    }
    if (s->events && now - s->last > s->gap)
        s->gap = now - s->last;
    s->last = now;
    ssize_t head = 0;
    if (!s->in_body) {
        head = read_head(s, buffer, got);
        if (head < 0) {
            fail(s, BROKEN);
            return;
        }
        if (!s->in_body)
            return;
        if (s->framing == LENGTH && !s->left) {
            finish(s, now);
            return;
        }
    }
    if (read_body(s, buffer + head, got - head, now))
        finish(s, now);
}

static void ready(struct stream *s, unsigned what)
{
    if (s->fd < 0)
        return;
    if (!s->connected) {
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = s};
        if (what & (EPOLLERR | EPOLLHUP)) {
            fail(s, CONNECT);
            return;
        }
        s->connected = true;
        epoll_ctl(epoll, EPOLL_CTL_MOD, s->fd, &wanted);
        if (!send_request(s)) {
            fail(s, BROKEN);
            return;
        }
    }
    if (what & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(s);
}

/* -- the whole --------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, in milliseconds; -1 where there is none. */
static double percentile_ms(const double *sorted, double share)
{
    if (!good)
        return -1;
    long rank = (long)(share * good + 0.999999);
    return sorted[rank < 1 ? 0 : rank > good ? good - 1 : rank - 1] * 1000;
}

static void report(double wall_s)
{
    qsort(first_s, good, sizeof *first_s, ascending);
    qsort(total_s, good, sizeof *total_s, ascending);
    printf("{\"streams\":%ld,\"ok\":%ld,\"connect\":%ld,\"status\":%ld,\"broken\":%ld,\"incomplete\":%ld,\"silent\":%ld,"
           "\"events\":%ld,\"wall_s\":%.4f,\"first_p50\":%.3f,\"first_p99\":%.3f,\"total_p50\":%.3f,\"total_p99\":%.3f,"
           "\"total_max\":%.3f,\"gap_max\":%.3f}\n",
           total, good, failed[CONNECT], failed[STATUS], failed[BROKEN], failed[INCOMPLETE], failed[SILENT], events,
           wall_s, percentile_ms(first_s, .5), percentile_ms(first_s, .99), percentile_ms(total_s, .5),
           percentile_ms(total_s, .99), percentile_ms(total_s, 1), longest_gap * 1000);
}

static void read_request(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(2);
    }
    request_length = fread(request, 1, sizeof request, file);
    fclose(file);
}

static void fail_silent(struct stream *streams, long count, double silence_s)
{
    double now = now_s();
    for (long i = 0; i < count; i++)
        if (streams[i].running && now - streams[i].last > silence_s)
            fail(&streams[i], SILENT);
}

/* Streams that are lost in begin() leave their place empty: it must not wait for an event that cannot come. */
static void refill(struct stream *streams, long count)
{
    for (long i = 0; i < count && begun < total; i++)
        if (!streams[i].running)
            begin(&streams[i]);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: streams PORT CONCURRENT TOTAL EVENTS REQUEST_FILE RAMP_MS SILENCE_S\n");
        return 2;
    }
    long concurrent = atol(argv[2]);
    double ramp_s = atof(argv[6]) / 1000, silence_s = atof(argv[7]);
    port = atoi(argv[1]);
    total = atol(argv[3]);
    least_events = atol(argv[4]);
    read_request(argv[5]);
    struct stream *streams = calloc(concurrent, sizeof *streams);
    first_s = calloc(total, sizeof *first_s);
    total_s = calloc(total, sizeof *total_s);
    if (concurrent < 1 || total < 1 || !streams || !first_s || !total_s)
        return 2;
    epoll = epoll_create1(0);
    double start = now_s(), checked = start;
    long opened = 0;
    while (ended < total) {
        struct epoll_event events_ready[READY_AT_ONCE];
        for (; opened < concurrent && now_s() - start >= ramp_s * opened / concurrent; opened++) {
            streams[opened].fd = -1;
            begin(&streams[opened]);
        }
        int count = epoll_wait(epoll, events_ready, READY_AT_ONCE, opened < concurrent ? 1 : 200);
        for (int i = 0; i < count; i++)
            ready(events_ready[i].data.ptr, events_ready[i].events);
        if (now_s() - checked > 0.2) {
            checked = now_s();
            fail_silent(streams, opened, silence_s);
            refill(streams, opened);
        }
    }
    report(now_s() - start);
    return 0;
}
