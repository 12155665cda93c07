/* SPDX-License-Identifier: MIT */
/*
 * What is mounted: the image as the options of the mount want it opened, with an overlay before it
 * where they ask for one, and what writes to it where that is wanted and possible.
 */
#ifndef FUSE_SOURCE_H
#define FUSE_SOURCE_H

#include "disk/image.h"
#include "disk/writer.h"
#include "fuse/options.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>

struct source {
    struct image *image;        /* with its cache; image_named() is the one that was asked for */
    struct writer *writer;      /* NULL for a read-only mount */
    char *salvage_json;         /* what was deduced of a damaged image, or NULL */
    struct evidence *evidence;  /* where that is wanted, or NULL */
    struct error why_read_only; /* where that was not asked for */
    bool options_do_not_fit;    /* after a failure: neither each other, nor the image */
};

/* Opens it; read-only where it cannot be written. 0, or a negative errno with a sentence. */
int source_open(const char *path, const struct mount_options *options, struct log *log,
                struct source *source, struct error *error);

/* To be called where it could not be mounted after all: a file that was made for it goes again. */
void source_unmake(struct source *source);

/*
 * Before the process ends. A failure is the last sentence; the one before it, if there is one, is a
 * line of the log.
 */
int source_close(struct source *source, struct log *log, struct error *error);

#endif
