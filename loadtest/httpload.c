/* A load generator for clients without a socket: one thread, epoll. Each connection polls without end (--way poll), or
 * reads a stream of server-sent events (--way sse); what comes is counted as in wsload.c, by the same marker.
 *
 * Knows HTTP/1.1 as far as an honest server speaks it, and one name in a poll's answer: "cursor". Prints the same lines as
 * wsload.c: "open" when every connection has its first answer, "measuring", "done". Arguments are trusted.
 */
#include "common.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORTS_PER_ADDRESS = 20000, BUFFER = 1 << 20, REQUEST = 16384, NUMBER_DIGITS = 5, SHOWN = 400 };
enum state { UNUSED, CONNECTING, OPENING, STREAMING, WAITING, GONE };

struct connection {
    int fd;
    enum state state;
    char *kept; /* the beginning of something whose end has not come */
    uint32_t kept_bytes, kept_room;
    uint64_t events, measured;
    int64_t started_ns;
};

static struct {
    const char *host, *first, *next, *marker;
    char **headers;
    int port, connections, at_once, header_count;
    double warmup_s, duration_s, open_limit_s;
    uint64_t events;
    bool sse;
} options = {.host = "127.0.0.1", .port = 8000, .first = "/", .next = "/", .marker = "\"sent_ns\":", .connections = 1,
             .at_once = 128, .duration_s = 5, .open_limit_s = 60};

static struct connection *connections;
static struct histogram latency, opening;
static char buffer[BUFFER];
static int poller, next_to_open, opening_now, open_count, gone_count, last_status;
static uint64_t answers, all_measured, empty_answers, bytes_read;
static bool measuring;
static volatile sig_atomic_t stopped;
static size_t marker_bytes;

static void keep(struct connection *c, const char *data, size_t bytes) {
    if (bytes > c->kept_room) {
        c->kept_room = (uint32_t)bytes + 512;
        c->kept = realloc(c->kept, c->kept_room);
    }
    if (bytes) memmove(c->kept, data, bytes);
    c->kept_bytes = (uint32_t)bytes;
    if (!bytes && c->kept) {
        free(c->kept);
        c->kept = NULL;
        c->kept_room = 0;
    }
}

static void drop(struct connection *c) {
    if (c->state < STREAMING) opening_now--; else if (c->state != GONE) open_count--;
    c->state = GONE;
    gone_count++;
    close(c->fd);
    keep(c, NULL, 0);
}

/* `text` with the connection's number in place of ~~~~~ and `cursor` in place of the word CURSOR. */
static void put_target(char *out, const char *text, int number, const char *cursor, size_t cursor_bytes) {
    while (*text) {
        if (!strncmp(text, "~~~~~", NUMBER_DIGITS)) {
            out += sprintf(out, "%05d", number);
            text += NUMBER_DIGITS;
        } else if (!strncmp(text, "CURSOR", 6)) {
            memcpy(out, cursor, cursor_bytes);
            out += cursor_bytes;
            text += 6;
        } else {
            *out++ = *text++;
        }
    }
    *out = 0;
}

static void ask(struct connection *c, const char *text, const char *cursor, size_t cursor_bytes) {
    static char target[REQUEST], request[REQUEST + 4096];
    int number = (int)(c - connections);
    if (cursor_bytes > REQUEST / 2) die("a cursor of %zu bytes", cursor_bytes);
    put_target(target, text, number, cursor, cursor_bytes);
    const char *header = options.header_count ? options.headers[number % options.header_count] : "";
    int bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n%s%s\r\n", target, options.host,
                         options.port, header, *header ? "\r\n" : "");
    if (send(c->fd, request, (size_t)bytes, MSG_NOSIGNAL) != bytes) drop(c);
}

static void start(int number) {
    struct connection *c = &connections[number];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("cannot open socket number %d: %s (ulimit -n)", number, strerror(errno));
    from.sin_addr.s_addr = htonl(0x7f000002u + (uint32_t)(number / PORTS_PER_ADDRESS));
    to.sin_port = htons((uint16_t)options.port);
    inet_pton(AF_INET, options.host, &to.sin_addr);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    c->state = CONNECTING;
    c->started_ns = now_ns(CLOCK_MONOTONIC);
    opening_now++;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (uint32_t)number};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void connected(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        drop(c);
        return;
    }
    c->state = OPENING;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)(c - connections)};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    ask(c, options.first, "", 0);
}

static void opened(struct connection *c) {
    add(&opening, (now_ns(CLOCK_MONOTONIC) - c->started_ns) / 1000);
    c->state = options.sse ? STREAMING : WAITING;
    opening_now--;
    open_count++;
}

static int count_events(struct connection *c, const char *data, size_t bytes) {
    const char *end = data + bytes;
    int64_t realtime_ns = now_ns(CLOCK_REALTIME);
    int found = 0;
    for (const char *at = data; (at = memmem(at, (size_t)(end - at), options.marker, marker_bytes)); found++) {
        at += marker_bytes;
        c->events++;
        if (!measuring) continue;
        int64_t sent_ns = 0;
        for (const char *digit = at; digit < end && *digit >= '0' && *digit <= '9'; digit++)
            sent_ns = sent_ns * 10 + (*digit - '0');
        c->measured++;
        all_measured++;
        add(&latency, (realtime_ns - sent_ns) / 1000);
    }
    return found;
}

static bool refused(struct connection *c, const char *data, size_t bytes) {
    last_status = bytes > 12 ? atoi(data + 9) : 0;
    if (last_status == 200) return false;
    if (!gone_count) fprintf(stderr, "refused: %.*s\n", (int)(bytes < SHOWN ? bytes : SHOWN), data);
    drop(c);
    return true;
}

/* A whole answer of a poll is taken, and asked again with its cursor; returns its bytes, 0 when it is not whole. */
static size_t take_answer(struct connection *c, char *data, size_t bytes) {
    char *end = memmem(data, bytes, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0; /* the head is text from here on */
    char *length = strcasestr(data, "\ncontent-length:");
    size_t body = length ? strtoul(length + 16, NULL, 10) : 0, head = (size_t)(end - data) + 4;
    if (head + body > bytes) {
        *end = '\r';
        return 0;
    }
    if (refused(c, data, head + body)) return head + body;
    int found = count_events(c, data + head, body);
    if (c->state == OPENING) {
        opened(c);
    } else if (measuring) {
        answers++;
        if (!found) empty_answers++;
    }
    static const char name[] = "\"cursor\":\"";
    char *cursor = memmem(data + head, body, name, sizeof name - 1);
    if (!cursor) die("an answer without a cursor: %.*s", (int)(body < SHOWN ? body : SHOWN), data + head);
    cursor += sizeof name - 1;
    ask(c, options.next, cursor, (size_t)((char *)memchr(cursor, '"', (size_t)(data + head + body - cursor)) - cursor));
    return head + body;
}

/* The head of a stream, then whole lines; returns how many bytes they were. */
static size_t take_stream(struct connection *c, char *data, size_t bytes) {
    size_t used = 0;
    if (c->state == OPENING) {
        char *end = memmem(data, bytes, "\r\n\r\n", 4);
        if (!end) return 0;
        used = (size_t)(end - data) + 4;
        if (refused(c, data, bytes)) return bytes;
        opened(c);
    }
    char *last = bytes > used ? memrchr(data + used, '\n', bytes - used) : NULL;
    if (!last) return used;
    count_events(c, data + used, (size_t)(last - data) + 1 - used);
    return (size_t)(last - data) + 1;
}

static void read_some(struct connection *c) {
    size_t before = c->kept_bytes, used = 0;
    memcpy(buffer, c->kept, before);
    ssize_t got = recv(c->fd, buffer + before, sizeof buffer - before - 1, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(c);
        return;
    }
    size_t bytes = before + (size_t)got;
    if (measuring) bytes_read += (uint64_t)got;
    if (options.sse) {
        used = take_stream(c, buffer, bytes);
    } else {
        for (size_t took; c->state != GONE && used < bytes && (took = take_answer(c, buffer + used, bytes - used));)
            used += took;
    }
    if (c->state != GONE) keep(c, buffer + used, bytes - used);
}

static void turn(int wait_ms) {
    static struct epoll_event events[512];
    int count = epoll_wait(poller, events, 512, wait_ms);
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[events[i].data.u32];
        if (c->state == CONNECTING)
            connected(c);
        else if (c->state != GONE)
            read_some(c);
    }
}

static void run_for(double seconds) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9);
    while (!stopped && now_ns(CLOCK_MONOTONIC) < end && !(options.events && all_measured >= options.events)) turn(10);
}

static void report(double seconds, double cpu) {
    uint64_t events = 0, fewest = UINT64_MAX, most = 0;
    for (int number = 0; number < options.connections; number++) {
        struct connection *c = &connections[number];
        events += c->measured;
        if (c->measured < fewest) fewest = c->measured;
        if (c->measured > most) most = c->measured;
    }
    printf("{\"phase\": \"done\", \"seconds\": %.4f, \"events\": %lu, \"bytes\": %lu, \"events_per_s\": %.1f, "
           "\"answers_per_s\": %.1f, \"empty\": %lu, \"fewest\": %lu, \"most\": %lu, \"open\": %d, \"gone\": %d, "
           "\"status\": %d, \"cpu\": %.4f", seconds, events, bytes_read, (double)events / seconds,
           (double)answers / seconds, empty_answers, fewest, most, open_count, gone_count, last_status, cpu / seconds);
    print_histogram("latency_ms", &latency);
    puts("}");
    fflush(stdout);
}

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"way", 1, 0, 'y'},    {"port", 1, 0, 'p'},     {"first", 1, 0, 'f'},  {"next", 1, 0, 'n'},
        {"header", 1, 0, 'H'}, {"connections", 1, 0, 'c'}, {"at-once", 1, 0, 'a'}, {"warmup", 1, 0, 'w'},
        {"duration", 1, 0, 'd'}, {"open-limit", 1, 0, 'o'}, {"events", 1, 0, 'e'}, {0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
        case 'y': options.sse = !strcmp(optarg, "sse"); break;
        case 'p': options.port = atoi(optarg); break;
        case 'f': options.first = optarg; break;
        case 'n': options.next = optarg; break;
        case 'H': options.headers = lines_of(optarg, &options.header_count); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'a': options.at_once = atoi(optarg); break;
        case 'w': options.warmup_s = atof(optarg); break;
        case 'd': options.duration_s = atof(optarg); break;
        case 'o': options.open_limit_s = atof(optarg); break;
        case 'e': options.events = strtoull(optarg, NULL, 10); break;
        default: die("usage: see loadtest/generators.py, which calls this");
    }
    marker_bytes = strlen(options.marker);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(0);
    connections = calloc((size_t)options.connections, sizeof *connections);

    int64_t began = now_ns(CLOCK_MONOTONIC);
    double cpu = cpu_s();
    while (!stopped && open_count + gone_count < options.connections) {
        while (next_to_open < options.connections && (!options.at_once || opening_now < options.at_once))
            start(next_to_open++);
        turn(10);
        if ((double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9 > options.open_limit_s) break;
    }
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9;
    printf("{\"phase\": \"open\", \"seconds\": %.4f, \"open\": %d, \"gone\": %d, \"cpu\": %.4f", seconds, open_count,
           gone_count, (cpu_s() - cpu) / seconds);
    print_histogram("handshake_ms", &opening);
    puts("}");
    fflush(stdout);

    run_for(options.warmup_s);
    measuring = true;
    began = now_ns(CLOCK_MONOTONIC);
    cpu = cpu_s();
    puts("{\"phase\": \"measuring\"}");
    fflush(stdout);
    run_for(options.duration_s);
    report((double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9, cpu_s() - cpu);
    return 0;
}
