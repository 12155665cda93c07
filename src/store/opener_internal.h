/* SPDX-License-Identifier: MIT */
/* What is said between a process in its box and its opener, over a socket of whole messages. */
#ifndef STORE_OPENER_INTERNAL_H
#define STORE_OPENER_INTERNAL_H

#include "store/opener.h"
#include "util/error.h"

#include <limits.h>
#include <stdint.h>

#define OPENER_PATH_MAX (2 * PATH_MAX) /* bytes, the NUL included; no kernel takes a longer one */
#define OPENER_WHAT_MAX 32

enum opener_kind {
    OPENER_OPEN,
    OPENER_STAT,
    OPENER_REAL_PATH,
    OPENER_READ_LINK,
    OPENER_MAKE,
    OPENER_REPLACE,
    OPENER_REMOVE,
};

/* Each text ends with a NUL; `named_by` is empty for a name that the user gave. */
struct opener_question {
    uint32_t kind;
    uint32_t access, cache; /* as in struct store_file_options, of OPENER_OPEN */
    uint32_t no_locks;
    char what[OPENER_WHAT_MAX];
    char path[OPENER_PATH_MAX], named_by[OPENER_PATH_MAX];
};

/* With the descriptor, where there is one. */
struct opener_answer {
    int32_t result;       /* 0, or a negative errno */
    struct stat status;   /* of OPENER_OPEN and OPENER_STAT */
    struct owners owners; /* of OPENER_OPEN */
    struct error error;   /* of OPENER_OPEN */
    char text[PATH_MAX];
};

/* The process itself: it does not return. */
void opener_run(int socket, const struct opener_policy *policy) __attribute__((noreturn));

#endif
