/* SPDX-License-Identifier: MIT */
/*
 * Between open.c, which opens files, and open_failed.c, which has the sentences for what goes
 * wrong: one module in two files.
 */
#ifndef STORE_OPEN_INTERNAL_H
#define STORE_OPEN_INTERNAL_H

#include "store/open.h"
#include "store/place.h"

/* What is being opened, for the functions that make sentences of it. */
struct subject {
    const char *path;
    const char *what;
    enum store_access access;
    bool direct;
    const struct store_file_options *options;
    struct error *error;
};

/* Whether something can be opened, to have its bytes and nothing else. */
static inline bool has_bytes(const struct place *place)
{
    return (S_ISREG(place->status.st_mode) && place->kernel == NULL) ||
           S_ISBLK(place->status.st_mode);
}

/* Each makes the sentence for subject->error, and returns its code, negative. */

/* open(2), or what follows it, has failed with `code`. */
int open_failed(const struct subject *subject, int code);

/* What the user can do about an error of the host: the end of a sentence, or nothing. */
const char *open_advice(int code);

/* What was found is nothing that has_bytes(). */
int open_refuse_type(const struct subject *subject, const struct place *place);

/* The owner of an image that led to it may not open it. */
int open_forbidden_to_owner(const struct subject *subject, uid_t uid);

#endif
