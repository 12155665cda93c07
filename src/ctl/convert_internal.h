/* SPDX-License-Identifier: MIT */
/*
 * Between convert.c, which is the command, convert_usage.c, which says what has no meaning, and
 * convert_files.c, which opens what is read and written, and convert_bitmaps.c: one module in four
 * files.
 */
#ifndef CTL_CONVERT_INTERNAL_H
#define CTL_CONVERT_INTERNAL_H

#include "admin/create_files.h"
#include "ctl/command.h"
#include "ctl/convert_target.h"
#include "ctl/create_values.h"
#include "ctl/disk.h"
#include "ctl/new_key.h"

#define CONVERT_ZEROS_DEFAULT UINT64_C(4096)
#define CONVERT_ZEROS_MIN     UINT64_C(512)

struct convert_options {
    struct create_values values; /* first: create_values[] is of it */
    struct common_flags common;
    struct option_number format, target_format, zeros;
    char *backing_flag, *backing_format_flag; /* -B, -F */
    char *snapshot;
    char *new_key_files, *objects;
    struct option_bool compress, existing, unordered, bitmaps, skip_broken;
};

struct conversion {
    struct ctl *ctl;
    const struct convert_options *options;
    const char *source_path, *path;
    struct ctl_disk source, backing;
    char *backing_path;               /* where it is; owned */
    struct bitmap_directory *bitmaps; /* of the source, to be copied; NULL: none; owned */
    bool is_raw;                      /* the target */
    struct create_parameters parameters;
    struct create_files files;
    struct create_plan plan;
    struct new_key key; /* of a target that is made encrypted */
    struct convert_target target;
    struct store *existing; /* a raw target that is written in place */
    uint64_t size, written; /* bytes: of the disk, and what of it the target was told */
};

/*
 * Looks at the command line alone, whatever files there are, and sets is_raw. 0, or a negative
 * errno with a sentence.
 */
int convert_check_usage(struct conversion *conversion);

/* Opens what is copied. 0, or a negative errno with a sentence. */
int convert_open_source(struct conversion *conversion);

/*
 * Plans the target, where a new image is made, and finds the key of one that is to be encrypted:
 * what may take long before signals are held. 0, or a negative errno with a sentence.
 */
int convert_plan(struct conversion *conversion);

/*
 * Opens what it is copied to, and what will be behind that: no file of what is copied. 0, or a
 * negative errno with a sentence; convert_close_target() in any case.
 */
int convert_open_target(struct conversion *conversion);

/*
 * Finds the bitmaps that are asked for, or says that there are some that are not; writes them to a
 * new image, before or behind its data; asks whether an existing one can take them, and, behind the
 * data, gives them to it. 0, or a negative errno with a sentence.
 */
int convert_find_bitmaps(struct conversion *conversion);
int convert_bitmaps_to_new(struct conversion *conversion);
int convert_check_existing_bitmaps(struct conversion *conversion);
int convert_bitmaps_to_existing(struct conversion *conversion);

/* Gives new files their names. 0, or a negative errno with a sentence. */
int convert_name_files(struct conversion *conversion);

/* What has no name goes. `result` is what came of all that was done; what shall be returned. */
int convert_close_target(struct conversion *conversion, int result);

/* What was opened and planned. */
void convert_release(struct conversion *conversion);

#endif
