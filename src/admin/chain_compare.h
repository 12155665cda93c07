/* SPDX-License-Identifier: MIT */
/*
 * Where a disk, or an internal snapshot, would show something else once the file behind it is
 * another, or says something else (rebase.h, commit.h): what has to be copied first, or, of a
 * snapshot, to which nothing can be, a reason to refuse.
 *
 * Of one thread; borrows all that it is given but its buffers.
 */
#ifndef ADMIN_CHAIN_COMPARE_H
#define ADMIN_CHAIN_COMPARE_H

#include "admin/chain_work.h"
#include "disk/walk.h"
#include "meta/snapshot.h"

/* What could not be read: the disk or snapshot, or what is behind it now or shall be. */
enum chain_side {
    CHAIN_STATE,
    CHAIN_OLD,
    CHAIN_NEW,
};

/* What a view has from some offset on, as far as one look went. */
struct chain_found {
    struct look look;
    uint64_t until; /* bytes of the disk */
    struct view_extent extent;
};

struct chain_compare;

/*
 * Units that the two show otherwise: [from, to), of which `old` are the bytes that are shown now.
 * 0, or a negative errno with a sentence, which ends it.
 */
typedef int chain_differ_fn(struct chain_compare *compare, uint64_t from, uint64_t to,
                            const uint8_t *old);

/* The sentence for what cannot be read at compare->offset, or, with -EINTR, for being stopped. */
typedef int chain_failed_fn(struct chain_compare *compare, enum chain_side side, int result);

struct chain_compare {
    /* Of who compares. */
    const struct chain_work *work;
    struct image *image;             /* whose disk, or snapshot, it is */
    const struct snapshot *snapshot; /* NULL: the disk */
    struct view *state;              /* of that */
    struct view *old;                /* of what is behind it; NULL: `state` shows that, too */
    struct view *new;                /* of what will be; NULL: nothing */
    unsigned own_depth; /* the last image, counted from `image` on, that is above what is behind */
    bool is_written;    /* `new` is written over what is behind: that stays where `new` has nothing
                           before the offset `cut` */
    uint64_t cut;
    uint64_t limit; /* bytes: from here on nothing changes */
    uint64_t unit;  /* bytes that differ as a whole */
    chain_differ_fn *differ;
    chain_failed_fn *failed;
    struct error *error;
    void *context;

    uint64_t offset; /* bytes of the disk: it is as far as this */

    /* Of the module. */
    uint64_t size;
    struct disk_walk walks[2];
    struct chain_found own, written;
    uint8_t *buffers[2]; /* CHAIN_WORK_STEP bytes each */
};

/* Its buffers. 0 or -ENOMEM, with a sentence; to be closed in any case. */
int chain_compare_open(struct chain_compare *compare);
void chain_compare_close(struct chain_compare *compare);

/* Goes through compare->state, which compare->image has been set for. 0, or a negative errno with a
 * sentence. */
int chain_compare_state(struct chain_compare *compare);

/*
 * Goes through the snapshots of the table, which is the image's: -EINVAL with a sentence at the
 * first that would show something else.
 */
int chain_compare_snapshots(struct chain_compare *compare, struct image *image,
                            const struct snapshot_table *snapshots);

#endif
