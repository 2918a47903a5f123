/* What both load generators share: clocks, a histogram of latencies, arguments that may be a file's lines. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { FINE = 64, BUCKETS = FINE * 40 };

struct histogram { /* microseconds; 64 steps per doubling */
    uint64_t counts[BUCKETS], total;
    int64_t longest_us;
};

static inline int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void die(const char *text, ...) {
    va_list values;
    va_start(values, text);
    vfprintf(stderr, text, values);
    va_end(values);
    fputc('\n', stderr);
    exit(1);
}

static inline int bucket_of(uint64_t us) {
    if (us < FINE) return (int)us;
    int doublings = 63 - __builtin_clzll(us) - 6;
    int index = FINE * (doublings + 1) + (int)((us >> doublings) - FINE);
    return index < BUCKETS ? index : BUCKETS - 1;
}

static inline void add(struct histogram *histogram, int64_t us) {
    if (us < 0) us = 0;
    histogram->counts[bucket_of((uint64_t)us)]++;
    histogram->total++;
    if (us > histogram->longest_us) histogram->longest_us = us;
}

static inline double percentile_ms(const struct histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->total), seen = 0;
    for (int index = 0; index < BUCKETS; index++) {
        seen += histogram->counts[index];
        if (seen > wanted) {
            int doublings = index / FINE - 1;
            return (index < FINE ? index : (double)((uint64_t)(index % FINE + FINE) << doublings)) / 1000.0;
        }
    }
    return (double)histogram->longest_us / 1000.0;
}

static inline void print_histogram(const char *name, const struct histogram *h) {
    printf(", \"%s\": {\"count\": %lu, \"p50\": %.3f, \"p95\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, h->total,
           percentile_ms(h, 0.5), percentile_ms(h, 0.95), percentile_ms(h, 0.99), (double)h->longest_us / 1000.0);
}

static inline double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* One text, or the lines of a file when it begins with @. */
static inline char **lines_of(char *text, int *count) {
    char **lines = NULL;
    *count = 0;
    if (*text != '@') {
        lines = malloc(sizeof *lines);
        lines[(*count)++] = text;
        return lines;
    }
    FILE *file = fopen(text + 1, "r");
    if (!file) die("cannot read %s: %s", text + 1, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0; line = NULL, room = 0) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        lines = realloc(lines, sizeof *lines * (size_t)(*count + 1));
        lines[(*count)++] = line;
    }
    fclose(file);
    return lines;
}
