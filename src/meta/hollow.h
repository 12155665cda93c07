/* SPDX-License-Identifier: MIT */
/*
 * Free clusters that are known to read as zeros: a hole was punched there when they became free.
 * Who gets one need not write the zeros around what he writes.
 *
 * What is known is lost where the ranges become too many: then it is zeros that are written in
 * vain. The caller sees to it that nobody else is in here meanwhile.
 */
#ifndef META_HOLLOW_H
#define META_HOLLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOLLOW_MAX 4096 /* ranges */

struct hollow_range {
    uint64_t first, end; /* cluster numbers; `end` is the first behind it */
};

/* In order, and none touches the next. All zeros: none is known. */
struct hollow {
    struct hollow_range *ranges;
    size_t count, capacity;
};

void hollow_destroy(struct hollow *hollow);

/* These clusters are free, and read as zeros. */
void hollow_add(struct hollow *hollow, uint64_t first, uint64_t length);

/* These are in use, or nobody knows what they read as. */
void hollow_remove(struct hollow *hollow, uint64_t first, uint64_t length);

/* Whether cluster `first` is known to read as zeros; *length is cut down to those that are alike.
 */
bool hollow_look(const struct hollow *hollow, uint64_t first, uint64_t *length);

#endif
