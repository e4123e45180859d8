/* A stub engine: answers inference requests as fast as one core can, so that the benchmark measures the gateway in
 * front of it. It supports only the part of HTTP/1.1 that the gateways of this benchmark use.
 *
 *   stub --port P --chunks N --pace-ms M
 *
 * P 0 picks a free port; it is printed as "port P". A request whose body has "stream":true gets N chunks of about 150
 * bytes, each in its own write, as a real engine sends each token; any other request gets one answer of about 600 bytes.
 * If the body contains "paced" (part of the model's name, which every gateway keeps), chunks are sent M ms apart.
 * If it contains "tens", ten chunks are sent in one write.
 * /api/chat is answered in Ollama's format, /v1/chat/completions in OpenAI's. Runs until SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_MAX = 32768, CHUNKS_MAX = 1024, EVENTS_MAX = 256 };

/* A prepared answer. A connection stores only its position: `ends[k]` is the end of step k. */
typedef struct {
    char *bytes;
    size_t ends[CHUNKS_MAX + 2];
    int steps;
} Answer;

typedef struct Conn {
    int fd;
    int step;             /* steps that were started */
    size_t sent;          /* bytes that were sent */
    const Answer *answer; /* NULL between requests */
    int is_paced, is_blocked, index;
    long due_us;
    struct Conn *next; /* in the list of paced connections */
    size_t in_len;
    char in[IN_MAX];
} Conn;

static Answer openai_complete, openai_stream, openai_tens, ollama_tens, ollama_complete, ollama_stream, ollama_version, ollama_tags, ollama_ps, models, healthy;
static long pace_us = 10000;
static int chunks = 64;
static int poller;

static Conn **busy; /* streams that may send now */
static int busy_len, busy_room;
static Conn *due_first, *due_last; /* one pace for all: the list is always in order */

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* --- the answers --- */

static void make_complete(Answer *a, const char *body) {
    a->bytes = malloc(strlen(body) + 256);
    a->ends[0] = (size_t)sprintf(a->bytes, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    a->steps = 1;
}

static size_t put_chunk(char *to, const char *data) { return (size_t)sprintf(to, "%zx\r\n%s\r\n", strlen(data), data); }

/* The head is sent with the first chunk, the last event and the end of the body with the last chunk. */
static void make_stream(Answer *a, int per_write, const char *type, const char *chunk, const char *last) {
    size_t at;
    a->bytes = malloc((strlen(chunk) + 32) * (size_t)chunks + strlen(last) + 512);
    at = (size_t)sprintf(a->bytes, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", type);
    for (int k = 0; k < chunks; k++) {
        at += put_chunk(a->bytes + at, chunk);
        if (k == chunks - 1) {
            at += put_chunk(a->bytes + at, last);
            at += (size_t)sprintf(a->bytes + at, "0\r\n\r\n");
        }
        if (k == chunks - 1 || (k + 1) % per_write == 0) a->ends[a->steps++] = at;
    }
}

#define SENTENCE "The herd moves as one body, yet each animal in it looks for its own grass and keeps an eye on the others. "

static void make_answers(void) {
    make_complete(&openai_complete,
               "{\"id\":\"chatcmpl-0001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,"
               "\"message\":{\"role\":\"assistant\",\"content\":\"" SENTENCE SENTENCE SENTENCE "\"},\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":190,\"completion_tokens\":64,\"total_tokens\":254},\"system_fingerprint\":\"complete\"}");
    make_complete(&ollama_complete,
               "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"" SENTENCE SENTENCE SENTENCE
               "\"},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":900000000,\"load_duration\":1000000,\"prompt_eval_count\":190,"
               "\"prompt_eval_duration\":100000000,\"eval_count\":64,\"eval_duration\":799000000}");
    const char *openai_chunk =
        "data: {\"id\":\"chatcmpl-0001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" grass\"}}]}\n\n";
    const char *openai_last =
        "data: [DONE]\n\n";
    const char *ollama_chunk =
        "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00.000000000Z\",\"message\":{\"role\":\"assistant\",\"content\":\" grass\"},\"done\":false}\n";
    const char *ollama_last =
        "{\"model\":\"bench\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\","
        "\"done\":true,\"total_duration\":900000000,\"prompt_eval_count\":190,\"eval_count\":64}\n";
    make_stream(&openai_stream, 1, "text/event-stream", openai_chunk, openai_last);
    make_stream(&openai_tens, 10, "text/event-stream", openai_chunk, openai_last);
    make_stream(&ollama_stream, 1, "application/x-ndjson", ollama_chunk, ollama_last);
    make_stream(&ollama_tens, 10, "application/x-ndjson", ollama_chunk, ollama_last);
    make_complete(&ollama_version, "{\"version\":\"0.17.7\"}");
    make_complete(&ollama_tags, "{\"models\":[{\"name\":\"bench:latest\",\"model\":\"bench:latest\",\"size\":1000000000},"
                             "{\"name\":\"bench-ollama:latest\",\"model\":\"bench-ollama:latest\",\"size\":1000000000}]}");
    make_complete(&ollama_ps, "{\"models\":[{\"name\":\"bench:latest\",\"model\":\"bench:latest\",\"size\":1000000000,\"size_vram\":0}]}");
    make_complete(&models, "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"},{\"id\":\"bench-paced\",\"object\":\"model\"}]}");
    make_complete(&healthy, "{\"status\":\"ok\"}");
}

static int has(const char *where, size_t len, const char *what) { return memmem(where, len, what, strlen(what)) != NULL; }

static const Answer *answer_for(const char *head, size_t head_len, const char *body, size_t body_len) {
    const char *path = memchr(head, ' ', head_len);
    int streams = has(body, body_len, "\"stream\":true") || has(body, body_len, "\"stream\": true");
    int tens = has(body, body_len, "tens");
    if (path == NULL) return &healthy;
    path++;
    if (!strncmp(path, "/v1/chat/completions", 20)) return streams ? (tens ? &openai_tens : &openai_stream) : &openai_complete;
    if (!strncmp(path, "/api/chat", 9)) return streams ? (tens ? &ollama_tens : &ollama_stream) : &ollama_complete;
    if (!strncmp(path, "/api/version", 12)) return &ollama_version;
    if (!strncmp(path, "/api/tags", 9)) return &ollama_tags;
    if (!strncmp(path, "/api/ps", 7)) return &ollama_ps;
    if (!strncmp(path, "/v1/models", 10)) return &models;
    return &healthy; /* health checks of the gateways */
}

/* --- connections --- */

static void watch(Conn *c, int operation, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &e)) fail("epoll_ctl");
}

static void join_busy(Conn *c) {
    if (busy_len == busy_room) busy = realloc(busy, sizeof(Conn *) * (size_t)(busy_room = busy_room * 2 + 64));
    c->index = busy_len;
    busy[busy_len++] = c;
}

static void leave_busy(Conn *c) {
    if (c->index < 0) return;
    busy[c->index] = busy[--busy_len];
    busy[c->index]->index = c->index;
    c->index = -1;
}

static void join_due(Conn *c) {
    c->next = NULL;
    if (due_last) due_last->next = c;
    else due_first = c;
    due_last = c;
}

static void leave_due(Conn *c) {
    Conn **at = &due_first, *before = NULL;
    while (*at && *at != c) before = *at, at = &(*at)->next;
    if (!*at) return;
    *at = c->next;
    if (due_last == c) due_last = before;
}

static void drop(Conn *c) {
    leave_busy(c);
    if (c->is_paced) leave_due(c);
    close(c->fd);
    free(c);
}

/* Sends up to the end of the current step. Returns 0 if the connection was closed. */
static int send_step(Conn *c) {
    size_t end = c->answer->ends[c->step - 1];
    while (c->sent < end) {
        ssize_t n = send(c->fd, c->answer->bytes + c->sent, end - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!c->is_blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->is_blocked = 1;
            return 1;
        }
        if (n <= 0) return 0;
        c->sent += (size_t)n;
    }
    if (c->is_blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->is_blocked = 0;
    if (c->step == c->answer->steps) c->answer = NULL;
    return 1;
}

static int begin(Conn *c, const Answer *a, int is_paced) {
    c->answer = a;
    c->step = 1;
    c->sent = 0;
    c->is_paced = is_paced;
    if (!send_step(c)) return 0;
    if (!c->answer || a->steps == 1) return 1;
    if (is_paced) {
        c->due_us = now_us() + pace_us;
        join_due(c);
    } else {
        join_busy(c);
    }
    return 1;
}

/* Answers the requests that have arrived completely, one at a time. Returns 0 if the connection must be closed. */
static int take(Conn *c) {
    while (!c->answer && c->in_len) {
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4), *length;
        size_t head_len, body_len;
        if (!end) return c->in_len < IN_MAX;
        head_len = (size_t)(end - c->in) + 4;
        *end = 0;
        length = strcasestr(c->in, "\r\ncontent-length:");
        if (strcasestr(c->in, "\r\ntransfer-encoding:")) return 0; /* no gateway of this benchmark uses it */
        *end = '\r';
        body_len = length ? (size_t)atol(length + 17) : 0;
        if (head_len + body_len > IN_MAX) return 0;
        if (c->in_len < head_len + body_len) return 1;
        const Answer *a = answer_for(c->in, head_len, end + 4, body_len);
        int is_paced = a->steps > 1 && has(end + 4, body_len, "paced");
        c->in_len -= head_len + body_len;
        memmove(c->in, c->in + head_len + body_len, c->in_len);
        if (!begin(c, a, is_paced)) return 0;
    }
    return 1;
}

static int readable(Conn *c) {
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_MAX - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return 1;
    if (n <= 0) return 0;
    c->in_len += (size_t)n;
    return take(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        Conn *c = calloc(1, sizeof(Conn));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->index = -1;
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

/* Sends one more chunk of each stream without pace, so that all streams progress equally. */
static void serve_busy(void) {
    for (int i = busy_len - 1; i >= 0; i--) {
        Conn *c = busy[i];
        if (c->is_blocked) continue;
        c->step++;
        if (!send_step(c)) {
            drop(c);
            continue;
        }
        if (!c->answer) {
            leave_busy(c);
            if (!take(c)) drop(c);
        }
    }
}

static void serve_due(void) {
    long now = now_us();
    while (due_first && due_first->due_us <= now) {
        Conn *c = due_first;
        leave_due(c);
        c->due_us += pace_us;
        if (c->is_blocked) {
            join_due(c);
            continue;
        }
        c->step++;
        if (!send_step(c)) {
            c->is_paced = 0;
            drop(c);
        } else if (c->answer) {
            join_due(c);
        } else {
            c->is_paced = 0;
            if (!take(c)) drop(c);
        }
    }
}

static int timeout_ms(void) {
    long left_us;
    for (int i = 0; i < busy_len; i++)
        if (!busy[i]->is_blocked) return 0;
    if (!due_first) return -1;
    left_us = due_first->due_us - now_us();
    return left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
}

static int listen_on(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) fail("listen");
    getsockname(listener, (struct sockaddr *)&a, &len);
    printf("port %d\n", ntohs(a.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS_MAX], e = {.events = EPOLLIN, .data.ptr = NULL};
    int port = 0, listener;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--chunks")) chunks = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--pace-ms")) pace_us = atol(argv[i + 1]) * 1000;
    }
    if (chunks < 2 || chunks > CHUNKS_MAX) return fputs("--chunks must be 2 to 1024\n", stderr), 2;
    make_answers();
    poller = epoll_create1(0);
    listener = listen_on(port);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e)) fail("epoll_ctl");
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS_MAX, timeout_ms());
        if (n < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            Conn *c = events[i].data.ptr;
            int is_open = 1;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) is_open = readable(c);
            if (is_open && (events[i].events & EPOLLOUT) && c->answer) {
                is_open = send_step(c);
                if (is_open && !c->answer) {
                    leave_busy(c);
                    if (c->is_paced) leave_due(c), c->is_paced = 0;
                    is_open = take(c);
                }
            }
            if (!is_open) drop(c);
        }
        serve_busy();
        serve_due();
    }
}
