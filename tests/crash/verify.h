/* SPDX-License-Identifier: MIT */
/*
 * Whether a crash state is one that may be. The oracles are check_image() for
 * the refcounts, the view for what the disk and its snapshots show, and for a
 * sample qemu-img; the state is opened as a user's next mount would.
 */
#ifndef CRASH_VERIFY_H
#define CRASH_VERIFY_H

#include "model.h"
#include "run.h"
#include "session.h"

#include <stdbool.h>

#define VERIFY_TEXT (ERROR_TEXT_MAX + 256)

struct verify {
    const struct base *base;
    const struct model *model;
    struct stack *stack; /* the state */
    struct moment moment;
    bool go_on;     /* it is written to, too */
    bool ask_qemu;  /* about it */
    uint64_t seed;  /* of what is written */
    bool ended;     /* the run was closed: all of its bitmaps are in order */
    bool copied;    /* COPIED bits are to be corrected, which version 2 has no mark for */
    uint64_t size;  /* of the disk, in the state */
    uint8_t *bytes; /* what it shows */
    uint8_t *more;
    char text[VERIFY_TEXT];
};

void verify_init(struct verify *verify, const struct base *base, const struct model *model,
                 struct stack *stack);
void verify_release(struct verify *verify);

/* NULL where all is in order, else what is wrong. The disks are as they were afterwards. */
const char *verify_state(struct verify *verify);

/* The same for the end of a run that was closed: all of it is there, and nothing has leaked. */
const char *verify_end(struct verify *verify, const struct run *run);

#endif
