/* A load generator: N persistent connections with one request at a time each. Reads every byte of every answer and
 * counts only correct answers.
 *
 *   load --port P --path /x --body FILE --connections N --seconds S --warmup-s W --stagger-ms G --lines L --tail TEXT
 *
 * An answer is correct if its status is 200, its framing is complete, its body has L line ends (0: the length of the
 * first answer) and ends with TEXT. The first requests of the N connections are spread over G ms, because real clients
 * do not start at the same time. Prints one line of JSON with times in microseconds. "first" is the time from the request to the first byte of the body.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, READ_MAX = 65536, EVENTS_MAX = 256, TAIL_MAX = 64 };
typedef enum { WAITING, HEAD, LENGTH, SIZE, DATA, DATA_END, TRAILER } Step;

typedef struct {
    int fd, lines, has_first_byte;
    Step step;
    long begun_us, start_us; /* when the request was sent; when to send the first one */
    size_t left, head_len, tail_len, bytes, sent;
    char head[HEAD_MAX], tail[TAIL_MAX];
} Conn;

typedef struct {
    uint32_t *us;
    size_t len, room;
} Samples;

static struct sockaddr_in address;
static char *request;
static size_t request_len;
enum { ID_DIGITS_MAX = 4 };
static int lines_wanted, poller;
static const char *tail_wanted = "";
static long window_us[2];
static Samples complete, first;
static long answers, lines_seen, body_bytes, errors, connects, body_bytes_wanted;
static long all_answers, all_lines; /* with warm-up and end, to compare with the gateway's CPU time */
static char reason[160];

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void add(Samples *s, long us) {
    if (s->len == s->room) s->us = realloc(s->us, sizeof(uint32_t) * (s->room = s->room * 2 + 65536));
    s->us[s->len++] = (uint32_t)us;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static long quantile(Samples *s, double q) { return s->len ? (long)s->us[(size_t)(q * (double)(s->len - 1))] : 0; }

static int in_window(long at_us) { return at_us >= window_us[0] && at_us < window_us[1]; }

/* --- one connection --- */

static void arm(Conn *c, int operation, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &e)) perror("epoll_ctl"), exit(1);
}

static void dial(Conn *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) perror("connect"), exit(1);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connects++;
    arm(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void ask(Conn *c, long at_us) {
    c->step = HEAD;
    c->lines = c->has_first_byte = 0;
    c->left = c->head_len = c->tail_len = c->bytes = 0;
    c->begun_us = at_us;
    /* A request is far smaller than the socket's buffer, which is empty here: one send is enough. */
    if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) perror("send");
}

static void wrong(Conn *c, const char *why) {
    errors++;
    if (!*reason) snprintf(reason, sizeof reason, "%s", why);
    close(c->fd);
    dial(c);
    ask(c, now_us());
}

static void took(Conn *c, const char *data, size_t len, long at_us) {
    int lines = 0;
    if (!c->has_first_byte && len) {
        c->has_first_byte = 1;
        if (in_window(at_us)) add(&first, at_us - c->begun_us);
    }
    for (size_t i = 0; i < len; i++) lines += data[i] == '\n';
    c->lines += lines;
    all_lines += lines;
    c->bytes += len;
    if (in_window(at_us)) lines_seen += lines, body_bytes += (long)len;
    if (len >= TAIL_MAX) {
        memcpy(c->tail, data + len - TAIL_MAX, TAIL_MAX);
        c->tail_len = TAIL_MAX;
        return;
    }
    if (c->tail_len + len > TAIL_MAX) {
        size_t gone = c->tail_len + len - TAIL_MAX;
        memmove(c->tail, c->tail + gone, c->tail_len - gone);
        c->tail_len -= gone;
    }
    memcpy(c->tail + c->tail_len, data, len);
    c->tail_len += len;
}

/* Returns why the answer is not correct, or NULL. */
static const char *flaw(Conn *c) {
    size_t len = strlen(tail_wanted);
    if (!lines_wanted && !body_bytes_wanted) body_bytes_wanted = (long)c->bytes;
    /* The number in an answer's id gets another digit in the course of a run. */
    long more = (long)c->bytes - body_bytes_wanted;
    if (lines_wanted ? c->lines != lines_wanted : more < 0 || more > ID_DIGITS_MAX) return "an answer had the wrong length";
    if (c->tail_len < len || memcmp(c->tail + c->tail_len - len, tail_wanted, len)) return "an answer had the wrong end";
    return NULL;
}

/* Returns 0 if the connection was closed. */
static int answered(Conn *c, long at_us) {
    const char *why = flaw(c);
    if (why) return wrong(c, why), 0;
    all_answers++;
    if (in_window(at_us)) answers++, add(&complete, at_us - c->begun_us);
    ask(c, at_us);
    return 1;
}

static const char *read_head(Conn *c) {
    char *length;
    c->head[c->head_len] = 0;
    if (strncmp(c->head, "HTTP/1.1 200", 12)) return "a status other than 200";
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
        c->step = SIZE;
    } else if ((length = strcasestr(c->head, "\r\ncontent-length:"))) {
        c->step = LENGTH;
        c->left = (size_t)atol(length + 17);
    } else {
        return "an answer without framing";
    }
    return NULL;
}

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* Consumes bytes of the head. Returns their number, or -1. */
static long eat_head(Conn *c, const char *data, size_t len) {
    size_t n = min(len, HEAD_MAX - 1 - c->head_len), old = c->head_len;
    char *end;
    memcpy(c->head + old, data, n);
    c->head_len += n;
    end = memmem(c->head + (old > 3 ? old - 3 : 0), c->head_len - (old > 3 ? old - 3 : 0), "\r\n\r\n", 4);
    if (!end) return n == len ? (long)n : -1;
    n = (size_t)(end + 4 - c->head) - old;
    c->head_len = old + n;
    const char *why = read_head(c);
    if (why && !*reason) snprintf(reason, sizeof reason, "%s: %.60s", why, c->head);
    c->head_len = 0;
    return why ? -1 : (long)n;
}

static int hex(char ch) { return ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : -1; }

/* Consumes one byte of the chunked framing. Returns 1 at the end of the answer. */
static int eat_line(Conn *c, char ch) {
    if (c->step == SIZE) {
        if (ch == '\n') c->step = c->left ? DATA : TRAILER, c->head_len = 0;
        else if (hex(ch) >= 0 && !c->head_len) c->left = c->left * 16 + (size_t)hex(ch);
        else c->head_len = 1; /* an extension or the line's end: later digits do not count */
    } else if (c->step == DATA_END) {
        if (ch == '\n') c->step = SIZE;
    } else if (ch == '\n') {
        if (!c->head_len) return 1;
        c->head_len = 0;
    } else if (ch != '\r') {
        c->head_len++;
    }
    return 0;
}

static void eat(Conn *c, const char *data, size_t len, long at_us) {
    while (len) {
        size_t n = 1;
        int is_over = 0;
        if (c->step == WAITING) {
            wrong(c, "bytes before a request");
            return;
        } else if (c->step == HEAD) {
            long eaten = eat_head(c, data, len);
            if (eaten < 0) return wrong(c, "a bad head");
            n = (size_t)eaten;
            is_over = c->step == LENGTH && !c->left;
        } else if (c->step == LENGTH || c->step == DATA) {
            n = min(len, c->left);
            took(c, data, n, at_us);
            c->left -= n;
            if (!c->left && c->step == DATA) c->step = DATA_END;
            else is_over = !c->left;
        } else {
            is_over = eat_line(c, *data);
        }
        data += n;
        len -= n;
        if (is_over) {
            if (len) return wrong(c, "bytes after the answer");
            c->step = WAITING;
            if (!answered(c, at_us)) return;
        }
    }
}

static void readable(Conn *c) {
    static char data[READ_MAX];
    ssize_t n = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return wrong(c, n ? "the connection was reset" : "the connection was closed");
    eat(c, data, (size_t)n, now_us());
}

/* --- the program --- */

static char *read_file(const char *name, size_t *len) {
    FILE *f = fopen(name, "rb");
    char *data = malloc(1 << 20);
    if (!f) perror(name), exit(2);
    *len = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

static void make_request(int port, const char *path, const char *body_file) {
    size_t len;
    char *body = read_file(body_file, &len);
    request = malloc(len + 512);
    request_len = (size_t)sprintf(request,
                                  "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench\r\nAccept: */*\r\n"
                                  "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                                  path, port, len);
    memcpy(request + request_len, body, len);
    request_len += len;
}

/* Sends the first requests that are due. Returns the longest time to wait in ms. */
static int start_due(Conn *all, int n, int *started) {
    long now = now_us();
    while (*started < n && all[*started].start_us <= now) ask(&all[(*started)++], now_us());
    return *started < n ? 1 : 100;
}

static void report(double seconds, int stuck) {
    qsort(complete.us, complete.len, sizeof(uint32_t), by_size);
    qsort(first.us, first.len, sizeof(uint32_t), by_size);
    printf("{\"answers\": %ld, \"seconds\": %.3f, \"lines\": %ld, \"body_bytes\": %ld, \"all_answers\": %ld, \"all_lines\": %ld, \"errors\": %ld, \"stuck\": %d, \"connects\": %ld, "
           "\"p50_us\": %ld, \"p99_us\": %ld, \"first_p50_us\": %ld, \"first_p99_us\": %ld, \"reason\": \"%.*s\"}\n",
           answers, seconds, lines_seen, body_bytes, all_answers, all_lines, errors, stuck, connects, quantile(&complete, 0.5), quantile(&complete, 0.99),
           quantile(&first, 0.5), quantile(&first, 0.99), (int)strcspn(reason, "\r\n\"\\"), reason);
}

int main(int argc, char **argv) {
    int port = 0, n = 1, started = 0, stuck = 0;
    double seconds = 2, warmup_s = 0.3, stagger_ms = 0;
    const char *path = "/", *body = NULL;
    struct epoll_event events[EVENTS_MAX];
    long begin;
    Conn *all;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--path")) path = value;
        else if (!strcmp(name, "--body")) body = value;
        else if (!strcmp(name, "--connections")) n = atoi(value);
        else if (!strcmp(name, "--seconds")) seconds = atof(value);
        else if (!strcmp(name, "--warmup-s")) warmup_s = atof(value);
        else if (!strcmp(name, "--stagger-ms")) stagger_ms = atof(value);
        else if (!strcmp(name, "--lines")) lines_wanted = atoi(value);
        else if (!strcmp(name, "--tail")) tail_wanted = value;
        else return fprintf(stderr, "unknown option %s\n", name), 2;
    }
    if (!body || !port || n < 1 || strlen(tail_wanted) > TAIL_MAX) return fputs("needs --port and --body\n", stderr), 2;
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    make_request(port, path, body);
    poller = epoll_create1(0);
    all = calloc((size_t)n, sizeof(Conn));
    for (int i = 0; i < n; i++) dial(&all[i]);
    begin = now_us();
    for (int i = 0; i < n; i++) all[i].start_us = begin + (long)(stagger_ms * 1000 * i / n);
    window_us[0] = begin + (long)((stagger_ms / 1000 + warmup_s) * 1e6);
    window_us[1] = window_us[0] + (long)(seconds * 1e6);
    while (now_us() < window_us[1]) {
        int got = epoll_wait(poller, events, EVENTS_MAX, started < n ? start_due(all, n, &started) : 100);
        for (int i = 0; i < got; i++) readable(events[i].data.ptr);
    }
    for (int i = 0; i < n; i++) stuck += all[i].step != WAITING && now_us() - all[i].begun_us > 3000000 && all[i].begun_us < window_us[0];
    report(seconds, stuck);
    return 0;
}
