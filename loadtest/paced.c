/* A publisher that keeps time: writes one message after another to a server, at a rate or as fast as answers come.
 *
 * Knows no protocol. A message is the bytes of a file in which, each time, the topic's number is put in place of every
 * "~~~~~" (five digits) and the time in place of the 19 digits after the marker. So it speaks to Redis, to HTTP servers,
 * to NATS and to an MQTT broker alike. Prints one JSON object at its end.
 */
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 64, PENDING = 1 << 22, HOLES = 16, TOPIC_DIGITS = 5, TIME_DIGITS = 19, LEAST_PAUSE_NS = 200000 };

struct link {
    int fd;
    char *pending; /* not yet taken by the kernel */
    size_t begin, end;
    uint64_t sent, answered;
    char tail[64]; /* an answer's first bytes at the end of what was read */
    size_t tail_bytes;
};

static struct {
    const char *to, *message, *preamble, *marker, *answer;
    double rate, duration_s;
    int connections, topics, window, tick_us, first_topic;
    uint64_t count;
} options = {.marker = "\"sent_ns\":", .answer = "", .duration_s = 5, .connections = 1, .topics = 1, .window = 1000};

static struct link links[CONNECTIONS];
static char *message;
static size_t message_bytes, topic_at[HOLES * 64], time_at[HOLES * 64];
static int topic_holes, time_holes;
static uint64_t sent;
static struct histogram lateness;
static volatile sig_atomic_t stopped;

static char *file(const char *path, size_t *bytes) {
    FILE *stream = fopen(path, "rb");
    if (!stream) die("cannot read %s: %s", path, strerror(errno));
    char *data = malloc(1 << 20);
    *bytes = fread(data, 1, 1 << 20, stream);
    fclose(stream);
    return data;
}

static void find_holes(void) {
    char *end = message + message_bytes;
    for (char *at = message; (at = memmem(at, (size_t)(end - at), "~~~~~", TOPIC_DIGITS)); at += TOPIC_DIGITS)
        topic_at[topic_holes++] = (size_t)(at - message);
    size_t marker = strlen(options.marker);
    for (char *at = message; (at = memmem(at, (size_t)(end - at), options.marker, marker)); at += marker)
        time_at[time_holes++] = (size_t)(at - message) + marker;
}

static int open_link(void) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in remote = {.sin_family = AF_INET};
    char host[64];
    int port, fd, yes = 1, failed;
    if (*options.to == '/') {
        strncpy(local.sun_path, options.to, sizeof local.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        failed = connect(fd, (struct sockaddr *)&local, sizeof local);
    } else {
        if (sscanf(options.to, "%63[^:]:%d", host, &port) != 2) die("--to: a path or host:port");
        inet_pton(AF_INET, host, &remote.sin_addr);
        remote.sin_port = htons((uint16_t)port);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        failed = connect(fd, (struct sockaddr *)&remote, sizeof remote);
    }
    if (failed) die("cannot connect to %s: %s", options.to, strerror(errno));
    return fd;
}

static void greet(struct link *link) {
    size_t bytes;
    link->fd = open_link();
    link->pending = malloc(PENDING);
    if (options.preamble) {
        char *data = file(options.preamble, &bytes);
        if (write(link->fd, data, bytes) != (ssize_t)bytes) die("cannot write the preamble");
        free(data);
    }
    fcntl(link->fd, F_SETFL, O_NONBLOCK);
}

static void flush(struct link *link) {
    while (link->begin < link->end) {
        ssize_t took = send(link->fd, link->pending + link->begin, link->end - link->begin, MSG_NOSIGNAL);
        if (took < 0 && errno == EAGAIN) break;
        if (took < 0) die("lost the server: %s", strerror(errno));
        link->begin += (size_t)took;
    }
    if (link->begin == link->end) link->begin = link->end = 0;
}

/* Appends one message; the time in it is now. */
static void put(struct link *link, const char *time_digits, int64_t elapsed_ns) {
    char digits[16];
    if (link->end + message_bytes > PENDING) {
        memmove(link->pending, link->pending + link->begin, link->end - link->begin);
        link->end -= link->begin;
        link->begin = 0;
        if (link->end + message_bytes > PENDING) die("the server does not take %.0f messages a second", options.rate);
    }
    char *out = link->pending + link->end;
    memcpy(out, message, message_bytes);
    if (options.rate > 0) add(&lateness, (elapsed_ns - (int64_t)((double)sent * 1e9 / options.rate)) / 1000);
    sprintf(digits, "%05d", options.first_topic + (int)(sent % (uint64_t)options.topics));
    for (int i = 0; i < topic_holes; i++) memcpy(out + topic_at[i], digits, TOPIC_DIGITS);
    for (int i = 0; i < time_holes; i++) memcpy(out + time_at[i], time_digits, TIME_DIGITS);
    link->end += message_bytes;
    link->sent++;
    sent++;
}

static void take_answers(struct link *link) {
    static char buffer[1 << 18];
    size_t wanted = strlen(options.answer);
    for (;;) {
        memcpy(buffer, link->tail, link->tail_bytes);
        ssize_t got = recv(link->fd, buffer + link->tail_bytes, sizeof buffer - link->tail_bytes, 0);
        if (got == 0) die("the server closed the connection");
        if (got < 0) return;
        size_t bytes = link->tail_bytes + (size_t)got;
        char *at = buffer, *found;
        while (*options.answer && (found = memmem(at, bytes - (size_t)(at - buffer), options.answer, wanted))) {
            link->answered++;
            at = found + wanted;
        }
        size_t left = bytes - (size_t)(at - buffer);
        link->tail_bytes = !wanted ? 0 : left < wanted - 1 ? left : wanted - 1;
        memcpy(link->tail, buffer + bytes - link->tail_bytes, link->tail_bytes);
    }
}

/* How many messages may leave on this connection now: by the clock, or by the answers that have come. */
static uint64_t due(const struct link *link, int64_t elapsed_ns) {
    if (options.rate > 0) {
        uint64_t wanted = (uint64_t)((double)elapsed_ns * options.rate / 1e9) + 1;
        if (options.count && wanted > options.count) wanted = options.count;
        return wanted > sent ? wanted - sent : 0;
    }
    uint64_t waiting = link->sent - link->answered;
    return waiting < (uint64_t)options.window ? (uint64_t)options.window - waiting : 0;
}

/* With --count: so many are answered, or sent where no answer is known. */
static bool complete(void) {
    uint64_t answered = 0;
    for (int i = 0; i < options.connections; i++) answered += links[i].answered;
    return options.count && (*options.answer ? answered : sent) >= options.count;
}

static void wait_for(struct pollfd *polls, int64_t elapsed_ns) {
    struct timespec pause = {.tv_nsec = 100000000};
    if (options.tick_us) { /* no answer wakes it */
        pause.tv_nsec = options.tick_us * 1000L;
        nanosleep(&pause, NULL);
        return;
    }
    if (options.rate > 0) {
        int64_t left = (int64_t)((double)sent * 1e9 / options.rate) - elapsed_ns;
        if (left < LEAST_PAUSE_NS) left = LEAST_PAUSE_NS;
        if (left < pause.tv_nsec) pause.tv_nsec = left;
    }
    for (int i = 0; i < options.connections; i++) {
        polls[i].fd = links[i].fd;
        polls[i].events = (short)(POLLIN | (links[i].end ? POLLOUT : 0));
    }
    ppoll(polls, (nfds_t)options.connections, &pause, NULL);
}

static void stop(int number) {
    (void)number;
    stopped = 1;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"to", 1, 0, 't'},     {"message", 1, 0, 'm'}, {"preamble", 1, 0, 'p'}, {"rate", 1, 0, 'r'},
        {"topics", 1, 0, 'k'}, {"first-topic", 1, 0, 'f'}, {"duration", 1, 0, 'd'}, {"connections", 1, 0, 'c'},
        {"answer", 1, 0, 'a'}, {"window", 1, 0, 'w'},  {"tick-us", 1, 0, 'u'}, {"count", 1, 0, 'n'}, {0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
        case 't': options.to = optarg; break;
        case 'm': options.message = optarg; break;
        case 'p': options.preamble = optarg; break;
        case 'r': options.rate = atof(optarg); break;
        case 'k': options.topics = atoi(optarg); break;
        case 'f': options.first_topic = atoi(optarg); break;
        case 'd': options.duration_s = atof(optarg); break;
        case 'c': options.connections = atoi(optarg); break;
        case 'a': options.answer = optarg; break;
        case 'w': options.window = atoi(optarg); break;
        case 'u': options.tick_us = atoi(optarg); break;
        case 'n': options.count = strtoull(optarg, NULL, 10); break;
        default: die("usage: see loadtest/generators.py, which calls this");
    }
    if (!options.to || !options.message || options.connections > CONNECTIONS) die("--to and --message are needed");
}

int main(int argc, char **argv) {
    char time_digits[32];
    struct pollfd polls[CONNECTIONS];
    parse(argc, argv);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    prctl(PR_SET_TIMERSLACK, 1000);
    message = file(options.message, &message_bytes);
    find_holes();
    for (int i = 0; i < options.connections; i++) greet(&links[i]);

    int64_t began = now_ns(CLOCK_MONOTONIC), elapsed = 0;
    double cpu = cpu_s();
    while (!stopped && !complete() && (elapsed = now_ns(CLOCK_MONOTONIC) - began) < (int64_t)(options.duration_s * 1e9)) {
        sprintf(time_digits, "%019ld", now_ns(CLOCK_REALTIME));
        for (int i = 0; i < options.connections; i++) {
            take_answers(&links[i]); /* first: an answer taken after it would leave the loop asleep with nothing to wait for */
            for (uint64_t left = due(&links[i], elapsed); left; left--) put(&links[i], time_digits, elapsed);
            flush(&links[i]);
        }
        wait_for(polls, now_ns(CLOCK_MONOTONIC) - began);
    }
    double seconds = (double)elapsed / 1e9;
    uint64_t answered = 0;
    for (int i = 0; i < options.connections; i++) answered += links[i].answered;
    printf("{\"sent\": %lu, \"answered\": %lu, \"seconds\": %.4f, \"per_s\": %.1f, \"answered_per_s\": %.1f, \"cpu\": %.4f",
           sent, answered, seconds, (double)sent / seconds, (double)answered / seconds, (cpu_s() - cpu) / seconds);
    print_histogram("late_ms", &lateness);
    puts("}");
    return 0;
}
