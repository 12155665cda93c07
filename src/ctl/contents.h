/* SPDX-License-Identifier: MIT */
/*
 * What an open raw disk contains: its partitions, and the file system in each;
 * and which of them somebody means.
 */
#ifndef CTL_CONTENTS_H
#define CTL_CONTENTS_H

#include "guest/filesystem.h"
#include "guest/partitions.h"
#include "util/error.h"
#include "util/log.h"

#include <stdio.h>

struct contents {
    struct partition_table table;
    struct filesystem_found whole;  /* of the disk as a whole, where it has no table */
    struct filesystem_found *parts; /* one for each of table.list */
};

/* A place on the disk. */
struct contents_place {
    unsigned partition; /* its number; 0: the whole disk */
    uint64_t offset, size;
    const struct filesystem_found *found;
};

/* Reads the open file of `size` bytes; what is odd is a line of `log`. contents_release() it. */
int contents_read(int file, uint64_t size, const char *image, struct log *log,
                  struct contents *contents, struct error *error);
/* The same without what the partitions hold. */
int contents_read_table(int file, uint64_t size, const char *image, struct log *log,
                        struct contents *contents, struct error *error);
void contents_release(struct contents *contents);

/*
 * The place that `wanted` names (a number, LABEL=, UUID=, PARTLABEL=, PARTUUID=), or, where
 * that is NULL, the only file system there is. 0; -ENOENT or -ENOTUNIQ with a
 * sentence: then the list is worth showing.
 */
int contents_choose(const struct contents *contents, const char *image, uint64_t size,
                    const char *wanted, struct contents_place *place, struct error *error);

/* Number, start, size, type, file system, label: a line for each, under a heading. */
void contents_print(const struct contents *contents, uint64_t size, FILE *out);

/* The same as JSON, in one line; -ENOTSUP without the JSON library, -ENOMEM. */
int contents_print_json(const struct contents *contents, uint64_t size, FILE *out);

#endif
