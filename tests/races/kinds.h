/* SPDX-License-Identifier: MIT */
/*
 * The kinds of image that are looked at, those of the model test, made by
 * qemu-img when they are needed first, and kept in memory.
 */
#ifndef RACES_KINDS_H
#define RACES_KINDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum content {
    CONTENT_EMPTY,
    CONTENT_FILLED,
    CONTENT_COMPRESSED,
    CONTENT_DATA_FILE,
    CONTENT_ON_RAW,   /* on a raw file of its own size */
    CONTENT_ON_SHORT, /* on one that is shorter */
    CONTENT_ON_LONG,  /* on one that is longer */
    CONTENT_ON_CHAIN, /* on a qcow2 image on a compressed one */
};

struct kind {
    const char *name;
    const char *options; /* for qemu-img -o, each with a comma before it */
    enum content content;
    unsigned snapshots;
    bool extended;   /* L2 entries */
    bool lazy;       /* refcounts */
    bool fixed;      /* its disk cannot change its size */
    bool compresses; /* what is written */
    bool data_file;  /* and whether that is raw: */
    bool raw_data_file;
    bool bitmaps;          /* persistent ones: those of bitmaps.c */
    const char *encrypted; /* the mode of its cipher; NULL: it has none */
};

/* Those of each image that has any; of each the bits are looked at. */
#define RACES_BITMAPS 4

struct races_bitmap {
    const char *name, *granularity; /* as qemu-img takes it */
    bool disabled;
};

extern const struct races_bitmap races_bitmaps[RACES_BITMAPS];

/* One file of an image. */
struct file_bytes {
    uint8_t *bytes;
    uint64_t size;
};

#define TEMPLATE_BACKING   2
#define TEMPLATE_SNAPSHOTS 2

struct template
{
    const struct kind *kind;
    unsigned cluster_bits;
    uint64_t disk_size; /* bytes */
    char *directory;
    char *path, *data_path; /* of files that may be written to, for qemu-img */
    struct file_bytes image, data;
    struct file_bytes backing[TEMPLATE_BACKING]; /* from the nearest on */
    bool backing_is_raw[TEMPLATE_BACKING];
    size_t backing_count;
    struct file_bytes contents;                      /* what the disk shows */
    struct file_bytes snapshots[TEMPLATE_SNAPSHOTS]; /* what each of them shows */
};

size_t kinds_count(void);
const struct kind *kind_at(size_t index);

/* NULL where there is none of this name. */
const struct kind *kind_named(const char *name);

/* How many sizes of clusters images of this kind are made with; and the bits of each. */
size_t kind_cluster_sizes(const struct kind *kind);
unsigned kind_cluster_bits(const struct kind *kind, size_t index);

/* The template, which is made once and kept; dies where it cannot be made. */
const struct template *template_get(const struct kind *kind, unsigned cluster_bits);

void templates_release(void);

#endif
