/* A load generator for WebSockets: one thread, epoll. It opens many sockets, says hello on each, then counts what comes.
 *
 * Knows WebSocket frames and one marker inside events (a time in nanoseconds, or --ms, CLOCK_REALTIME); nothing else of any
 * protocol, so that other servers are measured by the same program. Prints one JSON object per line: "open" when every
 * socket has its welcome, "measuring" after the warm-up, "done" with the figures. Only what the harness needs is here:
 * arguments are trusted, and a fault ends the program with a line on stderr.
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

enum { PORTS_PER_ADDRESS = 20000, BUFFER = 1 << 20, SLOW_TICK_MS = 100 };
enum state { UNUSED, CONNECTING, UPGRADING, GREETING, OPEN, GONE };

struct connection {
    int fd;
    enum state state;
    char *kept; /* the beginning of something whose end has not come */
    uint32_t kept_bytes, kept_room;
    uint64_t events, measured, bytes;
    int64_t started_ns, open_ns, kth_ns;
};

static struct {
    const char *host, *path, *marker, *welcome;
    char **headers, **hellos;
    int port, connections, at_once, header_count, hello_count;
    double warmup_s, duration_s, open_limit_s;
    long kth, read_rate;
    bool hex, until_kth, ms;
} options = {.host = "127.0.0.1", .port = 8000, .path = "/ws", .marker = "\"sent_ns\":", .connections = 1,
             .at_once = 128, .welcome = "\"type\":\"welcome\"", .duration_s = 5, .open_limit_s = 60};

static struct connection *connections;
static struct histogram latency, opening, catching_up;
static char buffer[BUFFER];
static int poller, next_to_open, opening_now, open_count, gone_count, kth_count, last_close;
static int64_t last_kth_ns; /* of the clock: when the last of them got its k-th event */
static bool measuring;
static volatile sig_atomic_t stopped;
static size_t marker_bytes;

/* --- one connection */

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
    if (c->state < OPEN) opening_now--;
    if (c->state == OPEN) open_count--;
    c->state = GONE;
    gone_count++;
    close(c->fd);
    keep(c, NULL, 0);
}

static void send_all(struct connection *c, const char *data, size_t bytes) {
    /* What a client says here is small against a socket's empty buffer; a short write means that it is gone. */
    if (send(c->fd, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes) drop(c);
}

static void send_frame(struct connection *c, int opcode, const char *payload, size_t bytes) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    static char frame[BUFFER];
    size_t head = 2;
    frame[0] = (char)(0x80 | opcode);
    if (bytes < 126) {
        frame[1] = (char)(0x80 | bytes);
    } else {
        frame[1] = (char)(0x80 | 126);
        frame[2] = (char)(bytes >> 8);
        frame[3] = (char)bytes;
        head = 4;
    }
    memcpy(frame + head, mask, 4);
    for (size_t i = 0; i < bytes; i++) frame[head + 4 + i] = (char)(payload[i] ^ mask[i & 3]);
    send_all(c, frame, head + 4 + bytes);
}

static size_t unhexed(char *out, const char *text) {
    size_t bytes = 0;
    for (; text[0] && text[1]; text += 2) sscanf(text, "%2hhx", (unsigned char *)&out[bytes++]);
    return bytes;
}

/* `text` with every %d replaced by the connection's number. */
static size_t substituted(char *out, const char *text, int number) {
    size_t bytes = 0;
    while (*text) {
        if (text[0] == '%' && text[1] == 'd') {
            bytes += (size_t)sprintf(out + bytes, "%d", number);
            text += 2;
        } else {
            out[bytes++] = *text++;
        }
    }
    out[bytes] = 0;
    return bytes;
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
    if (options.read_rate) {
        int small = 4096;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    c->state = CONNECTING;
    c->started_ns = now_ns(CLOCK_MONOTONIC);
    opening_now++;
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (uint32_t)number};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void upgrade(struct connection *c, int number) {
    char request[16384], header[8192] = "";
    if (options.header_count) substituted(header, options.headers[number % options.header_count], number);
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        drop(c);
        return;
    }
    int bytes = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s\r\n",
                         options.path, options.host, options.port, header, *header ? "\r\n" : "");
    c->state = UPGRADING;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    send_all(c, request, (size_t)bytes);
}

static void opened(struct connection *c) {
    c->state = OPEN;
    c->open_ns = now_ns(CLOCK_MONOTONIC);
    add(&opening, (c->open_ns - c->started_ns) / 1000);
    opening_now--;
    open_count++;
    if (options.read_rate) epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
}

/* The answer to the upgrade; returns how much of `data` it is, 0 when its end is missing. */
static size_t upgraded(struct connection *c, const char *data, size_t bytes) {
    const char *end = memmem(data, bytes, "\r\n\r\n", 4);
    if (!end) return 0;
    if (bytes < 12 || memcmp(data + 9, "101", 3)) {
        if (!gone_count) fprintf(stderr, "refused: %.*s\n", (int)(end - data), data);
        drop(c);
        return bytes;
    }
    if (options.hello_count) {
        static char hello[BUFFER];
        int number = (int)(c - connections);
        c->state = GREETING;
        const char *text = options.hellos[number % options.hello_count];
        size_t length = options.hex ? unhexed(hello, text) : substituted(hello, text, number);
        send_frame(c, options.hex ? 2 : 1, hello, length);
    } else {
        opened(c);
    }
    return (size_t)(end - data) + 4;
}

static void count_events(struct connection *c, const char *data, size_t bytes, int64_t realtime_ns) {
    const char *end = data + bytes;
    for (const char *at = data; (at = memmem(at, (size_t)(end - at), options.marker, marker_bytes));) {
        at += marker_bytes;
        c->events++;
        if (measuring) {
            int64_t sent_ns = 0;
            for (const char *digit = at; digit < end && *digit >= '0' && *digit <= '9'; digit++)
                sent_ns = sent_ns * 10 + (*digit - '0');
            c->measured++;
            if (options.ms) sent_ns *= 1000000;
            add(&latency, (realtime_ns - sent_ns) / 1000);
        }
        if (options.kth && c->events == (uint64_t)options.kth) {
            c->kth_ns = now_ns(CLOCK_MONOTONIC);
            add(&catching_up, (c->kth_ns - c->started_ns) / 1000);
            last_kth_ns = realtime_ns;
            kth_count++;
        }
    }
}

static void take(struct connection *c, int opcode, const char *payload, size_t bytes, int64_t realtime_ns) {
    if (opcode == 9) {
        send_frame(c, 10, payload, bytes);
    } else if (opcode == 8) {
        last_close = bytes >= 2 ? (unsigned char)payload[0] << 8 | (unsigned char)payload[1] : 1005;
        drop(c);
    } else if (opcode < 3) {
        if (c->state == GREETING && memmem(payload, bytes, options.welcome, strlen(options.welcome))) opened(c);
        count_events(c, payload, bytes, realtime_ns);
    }
}

/* Takes whole frames; returns how many bytes they were. */
static size_t take_frames(struct connection *c, const unsigned char *data, size_t bytes) {
    size_t at = 0;
    int64_t realtime_ns = now_ns(CLOCK_REALTIME);
    while (bytes - at >= 2 && c->state != GONE) {
        size_t head = 2, length = data[at + 1] & 127;
        if (length == 126) head = 4;
        if (length == 127) head = 10;
        if (bytes - at < head) break;
        if (head == 4) length = (size_t)data[at + 2] << 8 | data[at + 3];
        if (head == 10) {
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | data[at + i];
        }
        if (bytes - at < head + length) break;
        take(c, data[at] & 15, (const char *)data + at + head, length, realtime_ns);
        at += head + length;
    }
    return at;
}

/* Returns whether there may be more to read. */
static bool read_some(struct connection *c, size_t most) {
    size_t before = c->kept_bytes, room = sizeof buffer - before, used = 0;
    memcpy(buffer, c->kept, before);
    ssize_t got = recv(c->fd, buffer + before, most < room ? most : room, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(c);
        return false;
    }
    size_t bytes = before + (size_t)got;
    if (measuring) c->bytes += (uint64_t)got;
    if (c->state == UPGRADING) used = upgraded(c, buffer, bytes);
    if (c->state == GREETING || c->state == OPEN) used += take_frames(c, (unsigned char *)buffer + used, bytes - used);
    if (c->state != GONE) keep(c, buffer + used, bytes - used);
    return c->state != GONE && (size_t)got == most;
}

/* --- all of them */

static void open_more(void) {
    while (next_to_open < options.connections && (!options.at_once || opening_now < options.at_once))
        start(next_to_open++);
}

static void read_slowly(int64_t now) {
    static int64_t last;
    if (now - last < SLOW_TICK_MS * 1000000ll) return;
    last = now;
    for (int number = 0; number < options.connections; number++)
        if (connections[number].state == OPEN) read_some(&connections[number], (size_t)options.read_rate / 10);
}

static void turn(int wait_ms) {
    static struct epoll_event events[512];
    int count = epoll_wait(poller, events, 512, wait_ms);
    for (int i = 0; i < count; i++) {
        struct connection *c = &connections[events[i].data.u32];
        if (c->state == CONNECTING)
            upgrade(c, (int)events[i].data.u32);
        else if (c->state != GONE)
            read_some(c, sizeof buffer);
    }
    if (options.read_rate) read_slowly(now_ns(CLOCK_MONOTONIC));
}

static void run_for(double seconds) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + (int64_t)(seconds * 1e9);
    while (!stopped && now_ns(CLOCK_MONOTONIC) < end) {
        turn(10);
        if (options.until_kth && kth_count + gone_count >= options.connections) return;
    }
}

static void report(double seconds, double cpu) {
    uint64_t events = 0, bytes = 0, fewest = UINT64_MAX, most = 0;
    for (int number = 0; number < options.connections; number++) {
        struct connection *c = &connections[number];
        events += c->measured;
        bytes += c->bytes;
        if (c->measured < fewest) fewest = c->measured;
        if (c->measured > most) most = c->measured;
    }
    printf("{\"phase\": \"done\", \"seconds\": %.4f, \"events\": %lu, \"bytes\": %lu, \"events_per_s\": %.1f, "
           "\"fewest\": %lu, \"most\": %lu, \"open\": %d, \"gone\": %d, \"close_code\": %d, \"cpu\": %.4f, "
           "\"caught_up\": %d, \"last_kth_ns\": %ld", seconds, events, bytes, (double)events / seconds, fewest, most,
           open_count, gone_count, last_close, cpu / seconds, kth_count, last_kth_ns);
    print_histogram("latency_ms", &latency);
    print_histogram("catch_up_ms", &catching_up);
    puts("}");
    fflush(stdout);
}

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"port", 1, 0, 'p'},     {"path", 1, 0, 'u'},    {"connections", 1, 0, 'n'}, {"at-once", 1, 0, 'c'},
        {"header", 1, 0, 'H'},   {"hello", 1, 0, 't'},   {"welcome", 1, 0, 'W'},     {"hex", 0, 0, 'x'},
        {"marker", 1, 0, 'm'},   {"warmup", 1, 0, 'w'},  {"duration", 1, 0, 'd'},    {"kth", 1, 0, 'k'},
        {"until-kth", 0, 0, 'K'}, {"read-rate", 1, 0, 'r'}, {"open-limit", 1, 0, 'o'},
        {"ms", 0, 0, 'M'},      {0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'n': options.connections = atoi(optarg); break;
        case 'c': options.at_once = atoi(optarg); break;
        case 'H': options.headers = lines_of(optarg, &options.header_count); break;
        case 't': options.hellos = lines_of(optarg, &options.hello_count); break;
        case 'W': options.welcome = optarg; break;
        case 'x': options.hex = true; break;
        case 'm': options.marker = optarg; break;
        case 'M': options.ms = true; break;
        case 'w': options.warmup_s = atof(optarg); break;
        case 'd': options.duration_s = atof(optarg); break;
        case 'k': options.kth = atol(optarg); break;
        case 'K': options.until_kth = true; break;
        case 'r': options.read_rate = atol(optarg); break;
        case 'o': options.open_limit_s = atof(optarg); break;
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
    measuring = options.kth > 0; /* what is caught up with comes before everybody is in */
    while (!stopped && open_count + gone_count < options.connections) {
        open_more();
        turn(10);
        if ((double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9 > options.open_limit_s) break;
    }
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9;
    printf("{\"phase\": \"open\", \"seconds\": %.4f, \"open\": %d, \"gone\": %d, \"cpu\": %.4f", seconds, open_count,
           gone_count, (cpu_s() - cpu) / seconds);
    print_histogram("handshake_ms", &opening);
    puts("}");
    fflush(stdout);

    if (!options.kth) {
        run_for(options.warmup_s);
        measuring = true;
        began = now_ns(CLOCK_MONOTONIC);
        cpu = cpu_s();
    }
    puts("{\"phase\": \"measuring\"}");
    fflush(stdout);
    run_for(options.duration_s);
    report((double)(now_ns(CLOCK_MONOTONIC) - began) / 1e9, cpu_s() - cpu);
    return 0;
}
