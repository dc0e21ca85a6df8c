/*
 * A scripted AI provider that costs next to nothing, for measuring what stands in front of it.
 *
 *   mock PORT          listens on 127.0.0.1:PORT until it is told to stop
 *
 * Every request gets the answer of an OpenAI chat completion, whatever its path. A body of at most MAX_READ_BODY bytes
 * that says "stream": true gets server-sent events instead, and its model gives their shape:
 *
 *   mock-n<events>-d<milliseconds between two events>
 *
 * With a distance of 0 events leave as fast as the socket takes them; each is one send() and one HTTP chunk. As with
 * the real provider, "include_usage": true adds one more event with the token counts. Larger bodies are read to their
 * end and get the plain answer.
 *
 * One thread, one epoll. What is due next lies in a binary heap, so that thousands of slow streams cost nothing while
 * they wait. Times are kept from the start of a stream: a late event does not delay those after it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FIRST_ROOM 8192
#define MAX_REQUEST (1 << 20)
#define MAX_READ_BODY 4096
#define MAX_CONNECTIONS 32768
#define EVENTS_A_TURN 10
#define READY_AT_ONCE 512

struct piece {
    char bytes[2048];
    size_t length;
};

struct connection {
    int fd;
    char *in;               /* what was received and not answered yet */
    size_t held, room;
    const struct piece *piece; /* what is being sent; NULL while nothing is to be answered */
    size_t offset;          /* how much of it is gone */
    int events_left;        /* after `piece` */
    const struct piece *tail; /* what ends the stream; NULL for a plain answer */
    double period_s, due;
    int place;              /* in the heap; -1 = not in it */
    bool blocked;           /* waits until the socket takes more */
};

enum progress { DONE, BLOCKED, BROKEN };

static struct piece plain_answer, stream_head, event, tail, tail_with_usage;
static struct connection *heap[MAX_CONNECTIONS];
static int heap_size, connections, epoll;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* -- what is answered ------------------------------------------------------------------------------------------- */

#define IDENTITY "\"id\":\"chatcmpl-bench000000000000000000001\",\"created\":1760000000,\"model\":\"mock-1-2026-01-01\""
#define COUNTS "\"usage\":{\"prompt_tokens\":61,\"completion_tokens\":38,\"total_tokens\":99," \
    "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":" \
    "{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}"
#define CHUNK "data: {" IDENTITY ",\"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_bench00001\","

static void add(struct piece *piece, const char *text)
{
    size_t length = strlen(text);
    if (piece->length + length > sizeof piece->bytes)
        abort();
    memcpy(piece->bytes + piece->length, text, length);
    piece->length += length;
}

static void add_chunk(struct piece *piece, const char *text)
{
    char size[24];
    snprintf(size, sizeof size, "%zx\r\n", strlen(text));
    add(piece, size);
    add(piece, text);
    add(piece, "\r\n");
}

static void write_answers(void)
{
    const char *body = "{" IDENTITY ",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":"
        "{\"role\":\"assistant\",\"content\":\"A gateway takes each call, picks one of the keys that can serve it, "
        "passes the call on and hands the answer back to the caller, who need not know which key it was.\","
        "\"refusal\":null,\"annotations\":[]},\"logprobs\":null,\"finish_reason\":\"stop\"}]," COUNTS
        ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench00001\"}";
    const char *finish = CHUNK "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    char length[64];

    add(&plain_answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench0001\r\n"
        "openai-processing-ms: 12\r\n");
    snprintf(length, sizeof length, "Content-Length: %zu\r\n\r\n", strlen(body));
    add(&plain_answer, length);
    add(&plain_answer, body);

    add(&stream_head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
        "x-request-id: req_bench0001\r\nTransfer-Encoding: chunked\r\n\r\n");
    add_chunk(&event, CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n");
    add_chunk(&tail, finish);
    add_chunk(&tail_with_usage, finish);
    add_chunk(&tail_with_usage, CHUNK "\"choices\":[]," COUNTS "}\n\n");
    for (struct piece *end = &tail; end; end = end == &tail ? &tail_with_usage : NULL) {
        add_chunk(end, "data: [DONE]\n\n");
        add(end, "0\r\n\r\n");
    }
}

/* -- what is due: a binary heap, the earliest on top ------------------------------------------------------------- */

static void put(int place, struct connection *c)
{
    heap[place] = c;
    c->place = place;
}

static void sift_up(int place, struct connection *c)
{
    while (place > 0 && heap[(place - 1) / 2]->due > c->due) {
        put(place, heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(place, c);
}

static void sift_down(int place, struct connection *c)
{
    for (;;) {
        int child = 2 * place + 1;
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due)
            child++;
        if (child >= heap_size || heap[child]->due >= c->due)
            break;
        put(place, heap[child]);
        place = child;
    }
    put(place, c);
}

static void schedule(struct connection *c)
{
    sift_up(heap_size++, c);
}

static void unschedule(struct connection *c)
{
    int place = c->place;
    if (place < 0)
        return;
    c->place = -1;
    struct connection *last = heap[--heap_size];
    if (last == c)
        return;
    if (place > 0 && heap[(place - 1) / 2]->due > last->due)
        sift_up(place, last);
    else
        sift_down(place, last);
}

/* -- sending ----------------------------------------------------------------------------------------------------- */

static void close_connection(struct connection *c)
{
    unschedule(c);
    close(c->fd);
    free(c->in);
    free(c);
    connections--;
}

static void watch(struct connection *c, bool blocked)
{
    struct epoll_event wanted = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = c};
    c->blocked = blocked;
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &wanted);
}

static enum progress send_piece(struct connection *c)
{
    while (c->offset < c->piece->length) {
        ssize_t sent = send(c->fd, c->piece->bytes + c->offset, c->piece->length - c->offset, MSG_NOSIGNAL);
        if (sent >= 0)
            c->offset += sent;
        else if (errno == EAGAIN)
            return BLOCKED;
        else if (errno != EINTR)
            return BROKEN;
    }
    c->offset = 0;
    return DONE;
}

/* After a piece is gone: the next one, or NULL at the end of the answer. */
static const struct piece *next_piece(struct connection *c)
{
    if (c->events_left > 0) {
        c->events_left--;
        return &event;
    }
    const struct piece *last = c->tail;
    c->tail = NULL;
    return last;
}

/* Sends what is due. False when the connection is gone. */
static bool advance(struct connection *c)
{
    for (int turn = 0; c->piece; turn++) {
        double now = now_s();
        if (c->due > now || turn == EVENTS_A_TURN) {
            if (!c->period_s)
                c->due = now; /* behind all others that are due */
            schedule(c);
            return true;
        }
        enum progress progress = send_piece(c);
        if (progress == BROKEN) {
            close_connection(c);
            return false;
        }
        if (progress == BLOCKED) {
            watch(c, true);
            return true;
        }
        c->piece = next_piece(c);
        c->due += c->period_s;
    }
    return true;
}

/* -- requests ---------------------------------------------------------------------------------------------------- */

static bool says_true(const char *body, size_t length, const char *name)
{
    const char *end = body + length;
    const char *found = memmem(body, length, name, strlen(name));
    if (!found)
        return false;
    for (found += strlen(name); found < end && (*found == ' ' || *found == ':'); found++)
        ;
    return end - found >= 4 && !memcmp(found, "true", 4);
}

static long number_after(const char *text, const char *end, const char *name, long otherwise)
{
    const char *found = memmem(text, end - text, name, strlen(name));
    return found ? strtol(found + strlen(name), NULL, 10) : otherwise;
}

/* The length of the first request in the buffer, 0 while it is not complete; where its body begins. */
static size_t request_length(const struct connection *c, size_t *body_at)
{
    const char *head_end = memmem(c->in, c->held, "\r\n\r\n", 4);
    if (!head_end)
        return 0;
    size_t length = 0;
    bool chunked = false;
    for (const char *line = c->in; line < head_end;) {
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding: chunked", 26))
            chunked = true;
        line = (const char *)memmem(line, head_end + 2 - line, "\r\n", 2) + 2;
    }
    *body_at = head_end + 4 - c->in;
    if (chunked) {
        /* JSON has no bare line ends, so that this can only be the end of the chunks. */
        const char *end = memmem(c->in + *body_at, c->held - *body_at, "0\r\n\r\n", 5);
        return end ? end + 5 - c->in : 0;
    }
    return c->held >= *body_at + length ? *body_at + length : 0;
}

static void choose_answer(struct connection *c, const char *body, size_t length)
{
    c->piece = &plain_answer;
    c->tail = NULL;
    c->events_left = 0;
    c->period_s = 0;
    c->due = 0;
    if (length > MAX_READ_BODY || !says_true(body, length, "\"stream\""))
        return;
    const char *shape = memmem(body, length, "mock-n", 6);
    const char *end = body + length;
    long period_ms = shape ? number_after(shape, end, "-d", 0) : 0;
    c->piece = &stream_head;
    c->events_left = shape ? number_after(shape, end, "mock-n", 0) : 0;
    c->tail = says_true(body, length, "\"include_usage\"") ? &tail_with_usage : &tail;
    c->period_s = period_ms / 1000.0;
    /* The head leaves at once, everything after it one period after what was before it. */
    c->due = period_ms ? now_s() : 0;
}

/* Answers the requests that are complete, one after the other. False when the connection is gone. */
static bool serve(struct connection *c)
{
    size_t body_at, length;
    while (!c->piece && (length = request_length(c, &body_at))) {
        choose_answer(c, c->in + body_at, length - body_at);
        memmove(c->in, c->in + length, c->held - length + 1);
        c->held -= length;
        if (!advance(c))
            return false;
    }
    return true;
}

/* False when the connection is gone. */
static bool receive(struct connection *c)
{
    if (c->held == c->room) {
        char *larger = c->room < MAX_REQUEST ? realloc(c->in, 2 * c->room + 1) : NULL;
        if (!larger) {
            close_connection(c);
            return false;
        }
        c->in = larger;
        c->room *= 2;
    }
    ssize_t got = recv(c->fd, c->in + c->held, c->room - c->held, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got <= 0) {
        close_connection(c);
        return false;
    }
    c->held += got;
    c->in[c->held] = 0;
    return serve(c);
}

static void accept_all(int listener)
{
    int fd, on = 1;
    while (connections < MAX_CONNECTIONS && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        char *in = malloc(FIRST_ROOM + 1);
        if (!c || !in)
            abort();
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        *c = (struct connection){.fd = fd, .in = in, .room = FIRST_ROOM, .place = -1};
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
        connections++;
    }
}

static int listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("mock");
        exit(1);
    }
    return listener;
}

/* Milliseconds until something is due, rounded up; -1 = nothing will be. */
static int wait_ms(void)
{
    if (!heap_size)
        return -1;
    double left_s = heap[0]->due - now_s();
    return left_s <= 0 ? 0 : (int)(left_s * 1000) + 1;
}

static void send_due(void)
{
    double now = now_s();
    while (heap_size && heap[0]->due <= now) {
        struct connection *c = heap[0];
        unschedule(c);
        if (advance(c))
            serve(c);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    write_answers();
    int listener = listen_on(atoi(argv[1]));
    epoll = epoll_create1(0);
    struct epoll_event ready[READY_AT_ONCE], wanted = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        int count = epoll_wait(epoll, ready, READY_AT_ONCE, wait_ms());
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (c->blocked && ready[i].events & EPOLLOUT) {
                watch(c, false);
                if (!advance(c) || !serve(c))
                    continue;
            }
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(c);
        }
        send_due();
    }
}
