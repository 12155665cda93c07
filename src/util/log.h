/* SPDX-License-Identifier: MIT */
/*
 * What the program has to say after it was started: one line a message, handed
 * to a sink that main() chose (stderr in the foreground, syslog in the
 * background, memory in tests). Any thread may call; the log takes its own
 * mutex, under which the sink is called and nothing else.
 */
#ifndef UTIL_LOG_H
#define UTIL_LOG_H

#include <pthread.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_INFO,
};

/* Gets one line without a newline, control characters already replaced by `?`. */
typedef void log_sink_fn(void *context, enum log_level level, const char *line);

struct log {
    pthread_mutex_t mutex; /* guards all below; the sink runs under it */
    log_sink_fn *sink;
    void *context;
    double tokens;           /* lines that log_limited() may still write now */
    uint64_t refilled_at_ns; /* CLOCK_MONOTONIC */
    uint64_t suppressed;     /* lines dropped since the last one written */
};

/* Makes `log` write to `sink`; `context` stays the caller's. */
void log_init(struct log *log, log_sink_fn *sink, void *context);

/* Changes where later lines go (from the terminal to syslog, say). */
void log_redirect(struct log *log, log_sink_fn *sink, void *context);

void log_release(struct log *log);

/* Writes one line. `log` may be NULL: then nothing happens. */
void log_line(struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * The same for messages that a broken image can cause millions of times: at
 * most a burst of LOG_LIMIT_BURST lines, then LOG_LIMIT_PER_SECOND lines a
 * second on average. A line that comes after suppressed ones says how many
 * there were.
 */
#define LOG_LIMIT_BURST      10
#define LOG_LIMIT_PER_SECOND 0.2
void log_limited(struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
