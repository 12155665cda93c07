/* SPDX-License-Identifier: MIT */
/* What is done to which image. A new line of the table in workloads.c is a new workload. */
#ifndef CRASH_WORKLOADS_H
#define CRASH_WORKLOADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run;

struct workload {
    const char *name;
    const char *create;            /* qemu-img create -o */
    uint64_t size, most;           /* of the disk, bytes: at first, and at most (0: the same) */
    void (*prepare)(struct run *); /* before anything is recorded; may be NULL */
    unsigned snapshots;            /* are made then */
    bool backing, data_file, bitmap, compressed;
    bool bitmaps;                 /* they are what is changed, and one with bits is there */
    void (*change)(struct run *); /* after the snapshots, not recorded either; may be NULL */
    bool crashed;                 /* and then it crashed, which leaves it to the script */
    void (*script)(struct run *);
    bool compresses; /* what is written */
    bool tiny_caches, discard, write_through, growable, threads;
    bool fills;     /* the host gains by runs that are filled, and so they are */
    bool encrypted; /* its data clusters are, with a key that the explorer has */
    bool device;    /* the file is a block device, with something behind the end of the image */
};

extern const struct workload workloads[];
extern const size_t workload_count;

/* What a program with only the argument `list` does: true when it was that. */
bool workloads_list(int count, char **arguments);

/*
 * Calls `one` for the workload of that name, or, where it is NULL, for each,
 * with a directory for its files; the sum of what it returns. Dies where there
 * is no such workload.
 */
uint64_t workloads_each(const char *name,
                        uint64_t (*one)(void *context, const struct workload *workload,
                                        const char *directory),
                        void *context);

#endif
