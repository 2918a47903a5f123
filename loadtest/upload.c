/* A client that uploads one file as fast as the server takes it; the file is made up on the way, out of a seed.
 *
 * --way socket: hello, a call that gives a handle, chunks within the credit, then questions until the upload is settled.
 * --way tus: POST and one PATCH over HTTP, then the same questions. --way plain: messages of --chunk bytes without any
 * protocol, until the server says "done". --way pipe: the file itself to stdout. Prints one JSON object at its end.
 */
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN_BYTES = 1 << 20, TEXT_BYTES = 1 << 14, MOST_CHUNK = 1 << 20, HEAD = 14, CHUNK_HEAD = 12, ASK_MS = 10 };

static struct {
    const char *way, *path, *header, *hello, *call, *settled, *metadata, *marker;
    int port;
    uint64_t size, seed, chunk;
} options = {.way = "socket", .path = "/ws", .header = "", .hello = "{\"type\":\"hello\"}", .settled = "",
             .metadata = "filename YmVuY2guYmlu", .marker = "\"sent_ns\":", .chunk = 262144};

static int fd;
static char in[IN_BYTES], upload[256], state[32] = "";
static size_t in_bytes;
static char out[MOST_CHUNK + HEAD + CHUNK_HEAD + 64];
static size_t out_begin, out_end;

static uint64_t handle, next_offset, acknowledged, window;
static bool welcomed, may_send, done, answered = true;
static int64_t began_ns, first_byte_ns, stored_ns;
static double began_cpu;
static struct histogram latency;

/* --- the file: eight bytes at a time, each from its place (splitmix64), so that any part of it can be made */

static inline uint64_t word(uint64_t index) {
    uint64_t z = options.seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((z ^ (z >> 31)) & 0x3f3f3f3f3f3f3f3fu) + 0x2020202020202020u; /* text */
}

/* `bytes` of the file from `offset`, a multiple of 8, each xor the mask; may write up to 7 bytes more. */
static void fill(char *to, uint64_t offset, size_t bytes, uint32_t mask) {
    uint64_t wide = (uint64_t)mask << 32 | mask;
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t value = word((offset + at) / 8) ^ wide;
        memcpy(to + at, &value, 8);
    }
}

/* --- the connection */

static void open_link(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    int yes = 1;
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) die("cannot connect: %s", strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

/* Reads what is there, or waits for it up to `wait_ms`. */
static void read_some(int wait_ms) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    if (wait_ms && poll(&one, 1, wait_ms) <= 0) return;
    if (in_bytes == sizeof in) die("an answer is too long");
    ssize_t got = recv(fd, in + in_bytes, sizeof in - in_bytes, 0);
    if (got == 0) die("the server closed the connection");
    if (got < 0 && errno != EAGAIN) die("lost the server: %s", strerror(errno));
    if (got > 0) in_bytes += (size_t)got;
}

static void took(size_t bytes) {
    memmove(in, in + bytes, in_bytes - bytes);
    in_bytes -= bytes;
}

/* Writes what is waiting as far as the kernel takes it. */
static void flush(void) {
    while (out_begin < out_end) {
        ssize_t sent = send(fd, out + out_begin, out_end - out_begin, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) die("lost the server: %s", strerror(errno));
        out_begin += (size_t)sent;
    }
    out_begin = out_end = 0;
}

static void write_all(void) {
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    for (flush(); out_end; flush()) poll(&one, 1, -1);
}

static void put_text(const char *text, size_t bytes) {
    memcpy(out + out_end, text, bytes);
    out_end += bytes;
}

static uint64_t number(const char *text, const char *name, const char *end) {
    const char *at = memmem(text, (size_t)(end - text), name, strlen(name));
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static void copy_text(char *to, size_t room, const char *text, const char *end, const char *name) {
    const char *at = memmem(text, (size_t)(end - text), name, strlen(name));
    if (!at) return;
    at += strlen(name);
    size_t bytes = strcspn(at, "\"");
    if (bytes >= room) die("%s is too long", name);
    memcpy(to, at, bytes);
    to[bytes] = 0;
}

static int64_t since_ms(int64_t ns) { return (now_ns(CLOCK_MONOTONIC) - ns) / 1000000; }

/* --- the WebSocket */

/* The head of a masked frame; returns the mask. */
static uint32_t put_head(int opcode, size_t bytes) {
    static uint32_t mask = 0x3d21fa37;
    mask = mask * 1664525 + 1013904223;
    unsigned char *at = (unsigned char *)out + out_end;
    size_t length = 2;
    at[0] = (unsigned char)(0x80 | opcode);
    if (bytes < 126) {
        at[1] = (unsigned char)(0x80 | bytes);
    } else if (bytes < 65536) {
        at[1] = 0x80 | 126;
        at[2] = (unsigned char)(bytes >> 8), at[3] = (unsigned char)bytes, length = 4;
    } else {
        at[1] = 0x80 | 127, length = 10;
        for (int i = 0; i < 8; i++) at[2 + i] = (unsigned char)((uint64_t)bytes >> (8 * (7 - i)));
    }
    memcpy(at + length, &mask, 4);
    out_end += length + 4;
    return mask;
}

static void put_frame(int opcode, const char *payload, size_t bytes) {
    uint32_t mask = put_head(opcode, bytes);
    for (size_t i = 0; i < bytes; i++) out[out_end + i] = (char)(payload[i] ^ ((char *)&mask)[i & 3]);
    out_end += bytes;
}

static void put_chunk(void) {
    uint64_t left = options.size - next_offset;
    size_t bytes = left < options.chunk ? left : options.chunk;
    bool plain = !handle;
    unsigned char head[CHUNK_HEAD];
    uint32_t mask = put_head(2, bytes + (plain ? 0 : CHUNK_HEAD));
    if (!plain) {
        for (int i = 0; i < 4; i++) head[i] = (unsigned char)(handle >> (8 * (3 - i)));
        for (int i = 0; i < 8; i++) head[4 + i] = (unsigned char)(next_offset >> (8 * (7 - i)));
        for (int i = 0; i < CHUNK_HEAD; i++) out[out_end++] = (char)(head[i] ^ ((unsigned char *)&mask)[i & 3]);
    }
    fill(out + out_end, next_offset, bytes, mask);
    out_end += bytes;
    next_offset += bytes;
}

static void count_events(const char *text, const char *end) {
    int64_t now = now_ns(CLOCK_REALTIME), sent;
    for (const char *at = text; (at = memmem(at, (size_t)(end - at), options.marker, strlen(options.marker)));) {
        at += strlen(options.marker);
        sent = strtoll(at, NULL, 10);
        if (first_byte_ns && !stored_ns) add(&latency, (now - sent) / 1000);
    }
}

static void take_text(const char *text, const char *end) {
    size_t bytes = (size_t)(end - text);
    if (memmem(text, bytes, "\"type\":\"event\"", 14)) {
        count_events(text, end);
    } else if (memmem(text, bytes, "\"type\":\"welcome\"", 16)) {
        welcomed = true;
    } else if (memmem(text, bytes, "\"type\":\"credit\"", 15)) {
        acknowledged = number(text, "\"offset\":", end);
        window = number(text, "\"window\":", end);
    } else if (memmem(text, bytes, "\"type\":\"error\"", 14)) {
        die("the server says: %.*s", (int)bytes, text);
    } else if (memmem(text, bytes, "\"handle\":", 9)) {
        handle = number(text, "\"handle\":", end);
        next_offset = acknowledged = number(text, "\"offset\":", end);
        window = number(text, "\"window\":", end);
        uint64_t most = number(text, "\"chunk_bytes\":", end);
        if (most && most < options.chunk) options.chunk = most & ~7u;
        copy_text(upload, sizeof upload, text, end, "\"upload\":\"");
        may_send = true;
    } else if (memmem(text, bytes, "\"type\":\"reply\"", 14)) {
        answered = true;
        copy_text(state, sizeof state, text, end, "\"state\":\"");
    } else if (bytes >= 4 && !memcmp(text, "done", 4)) {
        done = true;
    }
}

static void take_frames(void) {
    size_t at = 0;
    while (in_bytes - at >= 2) {
        const unsigned char *frame = (const unsigned char *)in + at;
        size_t head = 2, length = frame[1] & 127;
        if (length == 126) head = 4;
        if (length == 127) die("a frame is too long");
        if (in_bytes - at < head) break;
        if (head == 4) length = (size_t)frame[2] << 8 | frame[3];
        if (in_bytes - at < head + length) break;
        const char *payload = in + at + head;
        int opcode = frame[0] & 15;
        if (opcode == 8) die("closed with %d", (unsigned char)payload[0] << 8 | (unsigned char)payload[1]);
        if (opcode == 9) put_frame(10, payload, length);
        if (opcode == 1) take_text(payload, payload + length);
        at += head + length;
    }
    took(at);
}

static void upgrade(bool json) {
    char request[TEXT_BYTES];
    int bytes = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s%s%s\r\n",
                         options.path, options.port, json ? "Sec-WebSocket-Protocol: hub.v1.json\r\n" : "",
                         options.header, *options.header ? "\r\n" : "");
    put_text(request, (size_t)bytes);
    write_all();
    char *end;
    while (!(end = memmem(in, in_bytes, "\r\n\r\n", 4))) read_some(1000);
    if (memcmp(in + 9, "101", 3)) die("refused: %.*s", (int)in_bytes, in);
    took((size_t)(end + 4 - in));
}

/* Sends what may be sent and takes what comes, until everything is acknowledged (or, without a protocol, done). */
static void send_chunks(void) {
    struct pollfd one = {.fd = fd};
    first_byte_ns = now_ns(CLOCK_MONOTONIC);
    while (handle ? acknowledged < options.size : !done) {
        flush();
        bool room = !handle || next_offset + options.chunk <= acknowledged + window ||
                    (options.size <= acknowledged + window);
        if (!out_end && room && next_offset < options.size) {
            put_chunk();
            flush();
        }
        one.events = (short)(POLLIN | (out_end ? POLLOUT : 0));
        bool idle = out_end || !room || next_offset >= options.size;
        if (poll(&one, 1, idle ? 1000 : 0) > 0 && one.revents & (POLLIN | POLLHUP | POLLERR)) {
            read_some(0);
            take_frames();
        }
    }
    stored_ns = now_ns(CLOCK_MONOTONIC);
}

static void by_socket(void) {
    char ask[TEXT_BYTES];
    open_link();
    upgrade(true);
    put_frame(1, options.hello, strlen(options.hello));
    write_all();
    for (; !welcomed; take_frames()) read_some(1000);
    began_ns = now_ns(CLOCK_MONOTONIC), began_cpu = cpu_s();
    put_frame(1, options.call, strlen(options.call));
    write_all();
    for (; !may_send; take_frames()) read_some(1000);
    send_chunks();
    int bytes = snprintf(ask, sizeof ask,
                         "{\"type\":\"call\",\"id\":2,\"method\":\"upload.status\",\"params\":{\"upload\":\"%s\"}}", upload);
    for (int64_t asked = 0; *options.settled && strcmp(state, options.settled);) {
        if (!strcmp(state, "rejected")) die("it was rejected");
        if (answered && since_ms(asked) >= ASK_MS) {
            put_frame(1, ask, (size_t)bytes);
            write_all();
            answered = false;
            asked = now_ns(CLOCK_MONOTONIC);
        }
        read_some(ASK_MS);
        take_frames();
    }
}

static void by_messages(void) {
    open_link();
    upgrade(false);
    began_ns = now_ns(CLOCK_MONOTONIC), began_cpu = cpu_s();
    send_chunks();
}

/* --- HTTP */

/* An answer without a body that matters; its head stays in `answer`. Dies unless its status begins with `wanted`. */
static void await_answer(char *answer, size_t room, const char *wanted) {
    char *end;
    while (!(end = memmem(in, in_bytes, "\r\n\r\n", 4))) read_some(1000);
    size_t head = (size_t)(end + 4 - in);
    if (head >= room) die("an answer is too long");
    if (memcmp(in + 9, wanted, strlen(wanted))) die("refused: %.*s", (int)in_bytes, in);
    memcpy(answer, in, head);
    answer[head] = 0;
    char *length = strcasestr(answer, "\r\ncontent-length:");
    size_t body = length ? strtoull(length + 17, NULL, 10) : 0;
    while (in_bytes < head + body) read_some(1000);
    if (head + body >= room) die("an answer is too long");
    memcpy(answer + head, in + head, body);
    answer[head + body] = 0;
    took(head + body);
}

static void request(const char *method, const char *path, const char *headers) {
    char text[TEXT_BYTES];
    int bytes = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTus-Resumable: 1.0.0\r\n%s%s%s\r\n",
                         method, path, options.port, options.header, *options.header ? "\r\n" : "", headers);
    put_text(text, (size_t)bytes);
    write_all();
}

static void by_tus(void) {
    char headers[TEXT_BYTES], answer[TEXT_BYTES], path[1024];
    open_link();
    began_ns = now_ns(CLOCK_MONOTONIC), began_cpu = cpu_s();
    snprintf(headers, sizeof headers, "Content-Length: 0\r\nUpload-Length: %lu\r\nUpload-Metadata: %s\r\n", options.size,
             options.metadata);
    request("POST", options.path, headers);
    await_answer(answer, sizeof answer, "201");
    char *at = strcasestr(answer, "\r\nlocation:");
    if (!at) die("no Location: %s", answer);
    at += 11 + strspn(at + 11, " ");
    if (!strncmp(at, "http://", 7)) at = strchr(at + 7, '/');
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, "\r"), at);
    snprintf(upload, sizeof upload, "%s", strrchr(path, '/') + 1);
    snprintf(headers, sizeof headers,
             "Content-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\nContent-Length: %lu\r\n", options.size);
    request("PATCH", path, headers);
    first_byte_ns = now_ns(CLOCK_MONOTONIC);
    while (next_offset < options.size) {
        uint64_t left = options.size - next_offset;
        size_t bytes = left < options.chunk ? left : options.chunk;
        fill(out, next_offset, bytes, 0);
        out_end = bytes;
        next_offset += bytes;
        write_all();
    }
    await_answer(answer, sizeof answer, "204");
    stored_ns = now_ns(CLOCK_MONOTONIC);
    while (*options.settled && strcmp(state, options.settled)) {
        if (*state) usleep(ASK_MS * 1000);
        request("GET", path, "");
        await_answer(answer, sizeof answer, "200");
        copy_text(state, sizeof state, answer, answer + strlen(answer), "\"state\":\"");
        if (!strcmp(state, "rejected")) die("it was rejected: %s", answer);
    }
}

static void by_pipe(void) {
    for (; next_offset < options.size; next_offset += options.chunk) {
        uint64_t left = options.size - next_offset;
        size_t bytes = left < options.chunk ? left : options.chunk;
        fill(out, next_offset, bytes, 0);
        if (fwrite(out, 1, bytes, stdout) != bytes) die("cannot write");
    }
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {{"way", 1, 0, 'w'},   {"port", 1, 0, 'p'},    {"path", 1, 0, 'a'},
                                          {"header", 1, 0, 'h'}, {"hello", 1, 0, 'l'},   {"call", 1, 0, 'c'},
                                          {"settled", 1, 0, 't'}, {"metadata", 1, 0, 'm'}, {"size", 1, 0, 's'},
                                          {"seed", 1, 0, 'e'},  {"chunk", 1, 0, 'k'},   {0}};
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) switch (name) {
        case 'w': options.way = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'a': options.path = optarg; break;
        case 'h': options.header = optarg; break;
        case 'l': options.hello = optarg; break;
        case 'c': options.call = optarg; break;
        case 't': options.settled = optarg; break;
        case 'm': options.metadata = optarg; break;
        case 's': options.size = strtoull(optarg, NULL, 10); break;
        case 'e': options.seed = strtoull(optarg, NULL, 10); break;
        case 'k': options.chunk = strtoull(optarg, NULL, 10); break;
        default: die("usage: see loadtest/generators.py, which calls this");
    }
    if (!options.size || !options.chunk || options.chunk > MOST_CHUNK || options.chunk % 8)
        die("--size, and --chunk: a multiple of 8 up to %d", MOST_CHUNK);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    if (!strcmp(options.way, "pipe")) {
        by_pipe();
        return 0;
    }
    if (!strcmp(options.way, "socket")) by_socket();
    else if (!strcmp(options.way, "tus")) by_tus();
    else if (!strcmp(options.way, "plain")) by_messages();
    else die("--way: socket, tus, plain or pipe");
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - began_ns) / 1e9;
    printf("{\"bytes\": %lu, \"seconds\": %.4f, \"first_byte_s\": %.4f, \"stored_s\": %.4f, \"mb_per_s\": %.1f, "
           "\"upload\": \"%s\", \"state\": \"%s\", \"cpu\": %.4f",
           options.size, seconds, (double)(first_byte_ns - began_ns) / 1e9, (double)(stored_ns - began_ns) / 1e9,
           (double)options.size / seconds / 1e6, upload, state, (cpu_s() - began_cpu) / seconds);
    print_histogram("latency_ms", &latency);
    puts("}");
    return 0;
}
