/* SPDX-License-Identifier: MIT */
/*
 * The image code over the disks of disk.h: opened, with a view and, where that
 * is wanted, a writer.
 */
#ifndef CRASH_SESSION_H
#define CRASH_SESSION_H

#include "disk.h"
#include "disk/image.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>

/* What an image consists of. */
struct stack {
    struct disk disks[DISKS];
    bool has_data_file;
    bool has_backing;
    bool is_encrypted;
    struct disk backing; /* raw, only read */
    char *path;          /* what the image is called; the files there are only looked at */
    char *data_path;     /* the same of the data file */
};

struct session_options {
    struct writer_options writer;
    bool writable;
    bool tiny_caches; /* the smallest that can be */
};

struct session {
    struct log log;
    char last_line[512]; /* of the log */
    struct image *image;
    struct view *view;     /* of the active disk */
    struct writer *writer; /* NULL while read-only */
};

/* 0 or a negative errno with a sentence: then nothing is open. */
int session_open(struct session *session, struct stack *stack,
                 const struct session_options *options, struct error *error);

/* Ends it; what writer_close() said. */
int session_close(struct session *session);

/* An empty stack; then its disks may be filled. */
void stack_init(struct stack *stack, const char *path);
void stack_release(struct stack *stack);

/* Makes `to`, which stack_init() made, hold what `from` does. */
void stack_copy(struct stack *to, const struct stack *from);

#endif
