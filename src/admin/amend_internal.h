/* SPDX-License-Identifier: MIT */
/* What amend.c, amend_names.c and amend_zeros.c share. */
#ifndef IMAGE_AMEND_INTERNAL_H
#define IMAGE_AMEND_INTERNAL_H

#include "admin/amend.h"

#include "disk/writer_internal.h"

struct amend {
    struct image *image;
    const struct amend_change *change;
    const struct amend_options *options;
    struct error *error;
    struct writer *writer; /* NULL between the steps that need one */
};

/* The header with the change, but for its version; its strings are borrowed. */
struct header amend_changed_header(const struct header *header, const struct amend_change *change);

/* The sentence for a step that ended with the negative errno `result`, which is returned. */
int amend_failed(const struct amend *amend, int result, const char *what);

void amend_begin(const struct amend *amend, const char *what, const char *unit);
void amend_progress(const struct amend *amend, uint64_t done, uint64_t total);

/*
 * Replaces every zero cluster, in the active state and in all snapshots, by what
 * version 2 can say. With a writer; stable when it returns 0.
 */
int amend_expand_zeros(struct amend *amend);

#endif
