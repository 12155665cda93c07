/* SPDX-License-Identifier: MIT */
/*
 * A store in memory that is the disk under a workload, and then the disk of
 * each crash state. It can
 *
 *     record   what succeeds, in a log
 *     fail     the n-th call of all disks that share a plan
 *     undo     what was written since a checkpoint, so that thousands of
 *              states and what a repair does to them share one copy
 *
 * Any thread may use it as a store. Behind its end its memory is zero.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "log.h"
#include "store/store.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR UINT64_C(512)

/* The n-th call fails. */
struct fault_plan {
    uint64_t calls; /* so far: reads, writes, syncs, punches, resizes */
    uint64_t at;    /* the number of the one that fails, from 1 on; 0: none */
    int error;      /* positive */
    bool partly;    /* a write has done its first half */
    bool lands;     /* what is no read and no sync is done, and fails all the same */
    bool silent;    /* it does nothing and returns 0: what the instrument must see */
    bool hit;       /* it was met */
    bool hit_sync;  /* and was a sync */
};

struct disk {
    struct store store;
    pthread_mutex_t mutex; /* guards all below */
    uint8_t *data;
    uint64_t size;
    unsigned number;
    bool fills;                /* the host gains by store_fill() */
    bool device;               /* a block device: its size is fixed */
    struct crash_log *log;     /* NULL: nothing is recorded */
    struct fault_plan *faults; /* NULL: nothing fails; guarded by the mutex of disk 0 alone */
    bool undoing;
    struct undo *undo;
    size_t undo_count, undo_capacity;
    uint8_t *old; /* the bytes of all of them, one after the other */
    size_t old_size, old_capacity;
};

/* `number`: DISK_IMAGE or DISK_DATA. Takes a copy of the bytes. */
void disk_init(struct disk *disk, unsigned number, const void *bytes, uint64_t size);
void disk_release(struct disk *disk);

/* Makes `to` hold what `from` does. */
void disk_copy(struct disk *to, const struct disk *from);

/* Does to the disk what the entry says. */
void disk_apply(struct disk *disk, const struct log_entry *entry);

/* From here on all can be undone; to be followed by disk_undo(). */
void disk_checkpoint(struct disk *disk);
void disk_undo(struct disk *disk);

/* Changes bytes with no record of it; the caller keeps what was there. */
void disk_set_size(struct disk *disk, uint64_t size);

#endif
