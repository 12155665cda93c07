/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/log.h"

#include "util/printable.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 4096 /* of a message; longer ones are cut */
#define NOTE_MAX_BYTES 64   /* of the count of suppressed lines behind it */

#define NS_PER_SECOND 1e9

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void log_init(struct log *log, log_sink_fn *sink, void *context)
{
    pthread_mutex_init(&log->mutex, NULL);
    log->sink = sink;
    log->context = context;
    log->tokens = LOG_LIMIT_BURST;
    log->refilled_at_ns = monotonic_ns();
    log->suppressed = 0;
}

void log_redirect(struct log *log, log_sink_fn *sink, void *context)
{
    pthread_mutex_lock(&log->mutex);
    log->sink = sink;
    log->context = context;
    pthread_mutex_unlock(&log->mutex);
}

void log_release(struct log *log)
{
    pthread_mutex_destroy(&log->mutex);
}

/* Under the mutex. A token trickles in every 1 / LOG_LIMIT_PER_SECOND seconds. */
static bool take_token(struct log *log)
{
    uint64_t now = monotonic_ns();

    if (now > log->refilled_at_ns) {
        double elapsed = (double)(now - log->refilled_at_ns) / NS_PER_SECOND;

        log->tokens += elapsed * LOG_LIMIT_PER_SECOND;
        if (log->tokens > LOG_LIMIT_BURST) {
            log->tokens = LOG_LIMIT_BURST;
        }
        log->refilled_at_ns = now;
    }
    if (log->tokens < 1) {
        return false;
    }
    log->tokens -= 1;
    return true;
}

static void write_line(struct log *log, enum log_level level, bool limited, const char *format,
                       va_list arguments) __attribute__((format(printf, 4, 0)));

static void write_line(struct log *log, enum log_level level, bool limited, const char *format,
                       va_list arguments)
{
    char line[LINE_MAX_BYTES + NOTE_MAX_BYTES];

    if (log == NULL) {
        return;
    }
    printable_format(line, LINE_MAX_BYTES, format, arguments);

    pthread_mutex_lock(&log->mutex);
    if (limited && !take_token(log)) {
        log->suppressed++;
    } else {
        if (log->suppressed > 0) {
            snprintf(line + strlen(line), NOTE_MAX_BYTES, " (%" PRIu64 " earlier %s suppressed)",
                     log->suppressed, log->suppressed == 1 ? "line was" : "lines were");
            log->suppressed = 0;
        }
        log->sink(log->context, level, line);
    }
    pthread_mutex_unlock(&log->mutex);
}

void log_line(struct log *log, enum log_level level, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    write_line(log, level, false, format, arguments);
    va_end(arguments);
}

void log_limited(struct log *log, enum log_level level, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    write_line(log, level, true, format, arguments);
    va_end(arguments);
}
