/* SPDX-License-Identifier: MIT */
#include "config.h"

#define FUSE_USE_VERSION 312

#include "fuse/messages.h"

#include <fcntl.h>
#include <fuse_log.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

/*
 * The exception to "no mutable globals": libfuse gives its log function no
 * context. Both are set while only one thread runs.
 */
static struct log *fuse_log_target;
static struct messages *catching;
static _Thread_local bool is_quiet;

/* "fusermount3: what is wrong\n" -> "what is wrong"; the first line only. */
static void keep_reason(char *text)
{
    static const char *const prefixes[] = {"fuse: ", "fusermount3: ", "fusermount: ", "error: "};

    text[strcspn(text, "\n")] = '\0';
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        size_t length = strlen(prefixes[i]);

        if (strncmp(text, prefixes[i], length) == 0) {
            memmove(text, text + length, strlen(text + length) + 1);
        }
    }
}

static void on_message(enum fuse_log_level level, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

static void on_message(enum fuse_log_level level, const char *format, va_list arguments)
{
    char text[MESSAGES_TEXT_MAX];

    if (is_quiet) {
        return;
    }
    vsnprintf(text, sizeof(text), format, arguments);
    if (catching != NULL) {
        if (level <= FUSE_LOG_WARNING && catching->text[0] == '\0') {
            keep_reason(text);
            memcpy(catching->text, text, sizeof(text));
        }
        return;
    }
    text[strcspn(text, "\n")] = '\0';
    log_line(fuse_log_target,
             level <= FUSE_LOG_ERR       ? LOG_LEVEL_ERROR
             : level == FUSE_LOG_WARNING ? LOG_LEVEL_WARNING
                                         : LOG_LEVEL_INFO,
             "%s", text);
}

void messages_to_log(struct log *log)
{
    fuse_log_target = log;
    fuse_set_log_func(log != NULL ? on_message : NULL);
}

void messages_quiet(bool quiet)
{
    is_quiet = quiet;
}

void messages_catch(struct messages *messages)
{
    messages->text[0] = '\0';
    messages->caught = memfd_create("messages", MFD_CLOEXEC);
    messages->saved_output = -1;
    messages->saved_error = -1;
    if (messages->caught >= 0) {
        fflush(stdout);
        fflush(stderr);
        messages->saved_output = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
        messages->saved_error = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    }
    if (messages->saved_output >= 0) {
        dup2(messages->caught, STDOUT_FILENO);
    }
    if (messages->saved_error >= 0) {
        dup2(messages->caught, STDERR_FILENO);
    }
    catching = messages;
}

static void restore(int saved, int descriptor)
{
    if (saved >= 0) {
        dup2(saved, descriptor);
        close(saved);
    }
}

void messages_release(struct messages *messages)
{
    char text[MESSAGES_TEXT_MAX];
    ssize_t length = 0;

    catching = NULL;
    restore(messages->saved_output, STDOUT_FILENO);
    restore(messages->saved_error, STDERR_FILENO);
    if (messages->caught < 0) {
        return;
    }
    length = pread(messages->caught, text, sizeof(text) - 1, 0);
    close(messages->caught);
    /* fusermount3 knows the reason; libfuse then only knows that there is one. */
    if (length > 0) {
        text[length] = '\0';
        keep_reason(text);
        memcpy(messages->text, text, sizeof(text));
    }
}
