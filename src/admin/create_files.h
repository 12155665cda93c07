/* SPDX-License-Identifier: MIT */
/*
 * The files around a new image: which the names mean that will be recorded in
 * it, and whether they can be that. Only looks; changes nothing.
 */
#ifndef IMAGE_CREATE_FILES_H
#define IMAGE_CREATE_FILES_H

#include "disk/image.h"
#include "util/error.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdint.h>

struct create_files {
    const char *image; /* path of the new image, which need not exist */
    const char *backing_file, *backing_format;
    const char *data_file;    /* NULL, as the others, where there is none */
    enum image_follow follow; /* which files that the backing file names are opened */
    const char *remedy; /* ends the sentence about a backing file that cannot be used; or NULL */
    /* Set by the functions below. */
    char *data_path;       /* owned */
    uint64_t backing_size; /* bytes, of the disk that the backing file shows */
};

/*
 * Where the data file is: *data_path. -EINVAL with a sentence for a name that
 * this program and QEMU would look for in different directories.
 */
int create_files_resolve(struct create_files *files, struct error *error);

/*
 * Opens the backing chain, as the image will, and closes it again: sets
 * backing_size. A negative errno with a sentence for one that is missing, in
 * use, not of the format, too long, or part of which is the new image or its
 * data file. What can be wrong without being impossible is logged.
 */
int create_files_check_backing(struct create_files *files, struct log *log, struct error *error);

/* Refuses names that mean one file, as far as that can be told without opening any. */
int create_files_check_names(const struct create_files *files, struct error *error);

void create_files_release(struct create_files *files);

#endif
