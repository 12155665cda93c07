/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/audit_internal.h"

#include "admin/uses.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"
#include "util/size.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PIECE ((size_t)1 << 20) /* bytes of one read, or a cluster where that is more */

/* Clusters of one kind: how many, and the host offset of the first. */
struct tally {
    uint64_t count;
    uint64_t first;
};

struct walk {
    struct audit *audit;
    const struct inspection *image;
    const struct audit_options *options;
    struct header header; /* a copy: the checker may change it */

    struct uses uses;
    uint64_t complaints; /* of the checker, that were told */

    uint8_t *table; /* the refcount table */
    uint8_t *block; /* of one cluster: the refcount block of the next number, */
    uint64_t block_index;
    bool block_valid; /* where it could be read */
    uint8_t *piece;
    size_t piece_size;
    struct tally leaked, leaked_data, remnants, behind, kept, unreadable;
    struct tally uncounted; /* something refers to them, though they are counted as free */
    struct audit_contents contents;
};

/* --- References ---------------------------------------------------------------------- */

static const char *name_used(enum check_use use)
{
    switch (use) {
    case CHECK_USE_DATA:
        return "a data cluster";
    case CHECK_USE_L2_TABLE:
        return "an L2 table";
    case CHECK_USE_COMPRESSED:
        return "compressed clusters";
    default:
        return "a table of the image";
    }
}

static void tally(struct tally *tally, uint64_t host_offset)
{
    if (tally->count++ == 0) {
        tally->first = host_offset;
    }
}

/* Leaks are told otherwise, with what they hold. */
static void note_complaint(void *context, enum check_finding finding, const char *line)
{
    struct walk *walk = context;

    if (finding != CHECK_LEAK && walk->complaints++ < AUDIT_LIST_MAX) {
        audit_add(walk->audit, AUDIT_DANGER, finding == CHECK_ERROR ? "check-error" : "unreadable",
                  walk->image, "%s", line);
    }
}

static void show_progress(void *context, uint64_t done, uint64_t total)
{
    const struct walk *walk = context;

    if (walk->options->progress != NULL) {
        walk->options->progress(walk->options->context, done, total);
    }
}

static void begin_phase(const struct walk *walk, const char *what, const char *unit)
{
    if (walk->options->phase != NULL) {
        walk->options->phase(walk->options->context, what, unit);
    }
}

/* True when all references are known. */
static bool count_references(struct walk *walk)
{
    const struct uses_options options = {
        .report = note_complaint,
        .progress = show_progress,
        .context = walk,
    };
    const struct uses *uses = &walk->uses;
    struct check_result *found = &walk->audit->clusters;
    struct error error = {0};
    int result;

    begin_phase(walk, "looking at all tables", "L1 entries");
    result = uses_find(walk->image, &walk->header, &options, &walk->uses, &error);
    *found = uses->found;
    if (result == -ENOMEM) {
        walk->audit->incomplete = true;
        return false;
    }
    if (result < 0) {
        audit_add(walk->audit, AUDIT_DANGER, "not-counted", walk->image,
                  "its clusters cannot be counted: %s", error.text);
        return false;
    }
    walk->audit->counted = true;
    if (walk->complaints > AUDIT_LIST_MAX) {
        audit_add(walk->audit, AUDIT_DANGER, "check-error", walk->image,
                  "has %" PRIu64 " errors in its tables and refcounts in all",
                  found->errors + found->unreadable);
    }
    if (uses->overlaps > 0) {
        audit_add_at(
            walk->audit, AUDIT_DANGER, "overlap", walk->image, uses->overlap_offset,
            "clusters used for two things at once: %" PRIu64 "; the first is %s and also %s %s",
            uses->overlaps, name_used(uses->overlapped),
            uses->overlap == CHECK_USE_L1_TABLE || uses->overlap == CHECK_USE_L2_TABLE ? "an" : "a",
            check_use_name(uses->overlap));
    }
    return true;
}

/* --- Refcounts ----------------------------------------------------------------------- */

static uint64_t block_counts(const struct walk *walk)
{
    return walk->header.cluster_size * 8 >> walk->header.refcount_order;
}

static void load_block(struct walk *walk, uint64_t index)
{
    uint64_t entries =
        ((uint64_t)walk->header.refcount_table_clusters << walk->header.cluster_bits) /
        REFCOUNT_TABLE_ENTRY_BYTES;
    uint64_t offset = 0;

    walk->block_index = index;
    if (index < entries) {
        offset = load_be64(walk->table + index * REFCOUNT_TABLE_ENTRY_BYTES) &
                 ~REFCOUNT_TABLE_ENTRY_RESERVED;
    }
    walk->block_valid = offset != 0 && store_read(walk->image->file, offset, walk->block,
                                                  in_memory(walk->header.cluster_size)) == 0;
}

/* Whether the cluster has a refcount other than 0. What cannot be read the checker has told. */
static bool is_counted(struct walk *walk, uint64_t cluster)
{
    uint64_t index = cluster / block_counts(walk);

    if (index != walk->block_index) {
        load_block(walk, index);
    }
    return walk->block_valid && refcount_load(walk->block, cluster % block_counts(walk),
                                              walk->header.refcount_order) != 0;
}

/* --- What nothing refers to ---------------------------------------------------------- */

/* What is done with a piece of the file, of whole clusters but at its end, that was read. */
typedef void (*judge_fn)(struct walk *walk, uint64_t host_offset, size_t length);

/* The clusters in a piece of the file, of which nothing is used. */
static void judge_unused(struct walk *walk, uint64_t host_offset, size_t length)
{
    uint64_t cluster_size = walk->header.cluster_size;
    uint64_t image_end = walk->audit->clusters.image_end_offset;

    audit_look_at_unused(&walk->contents, host_offset, walk->piece, length);
    for (size_t at = 0; at < length; at += in_memory(cluster_size)) {
        uint64_t cluster = (host_offset + at) >> walk->header.cluster_bits;
        size_t size = (size_t)min_u64(cluster_size, length - at);

        if (is_all_zeros(walk->piece + at, size)) {
            continue;
        }
        if (host_offset + at >= image_end) {
            tally(&walk->behind, host_offset + at);
        } else if (is_counted(walk, cluster)) {
            tally(&walk->leaked_data, host_offset + at);
        } else {
            tally(&walk->remnants, host_offset + at);
        }
    }
}

/* Whether a subcluster that is hidden holds anything but zeros. */
static bool keeps_data(const struct walk *walk, const uint8_t *cluster, size_t size,
                       uint32_t hidden)
{
    size_t subcluster = (size_t)1 << walk->header.subcluster_bits;

    for (size_t at = 0; at < size; at += subcluster) {
        if ((hidden >> (at >> walk->header.subcluster_bits) & 1) != 0 &&
            !is_all_zeros(cluster + at, (size_t)min_u64(subcluster, size - at))) {
            return true;
        }
    }
    return false;
}

static void judge_hidden(struct walk *walk, uint64_t host_offset, size_t length)
{
    uint64_t cluster_size = walk->header.cluster_size;

    for (size_t at = 0; at < length; at += in_memory(cluster_size)) {
        uint64_t cluster = (host_offset + at) >> walk->header.cluster_bits;
        size_t size = (size_t)min_u64(cluster_size, length - at);

        if (keeps_data(walk, walk->piece + at, size,
                       (uint32_t)check_counts_get(walk->uses.hidden, cluster))) {
            tally(&walk->kept, host_offset + at);
        }
    }
}

/* Reads what the host keeps of the range, which begins and ends at clusters. */
static void read_range(struct walk *walk, uint64_t begin, uint64_t end, judge_fn judge)
{
    while (begin < end) {
        uint64_t length = 0;
        bool is_data = true;
        int result = store_extent(walk->image->file, begin, end - begin, &is_data, &length);

        if (result == 0 && !is_data && length >= walk->header.cluster_size) {
            begin += round_down(length, walk->header.cluster_size);
            continue;
        }
        length = min_u64(end - begin, walk->piece_size);
        result = store_read(walk->image->file, begin, walk->piece, (size_t)length);
        if (result == 0) {
            judge(walk, begin, (size_t)length);
        } else {
            tally(&walk->unreadable, begin);
        }
        begin += length;
        show_progress(walk, min_u64(begin, walk->image->info.size), walk->image->info.size);
    }
}

static void count_leaks(struct walk *walk, uint64_t cluster, uint64_t end)
{
    while (cluster < end) {
        if (is_counted(walk, cluster)) {
            tally(&walk->leaked, cluster << walk->header.cluster_bits);
        }
        cluster++;
        if (!walk->block_valid) { /* none in all of the block */
            cluster = (walk->block_index + 1) * block_counts(walk);
        }
    }
}

/* All runs of clusters that nothing refers to. */
static void visit_unused(struct walk *walk)
{
    uint32_t bits = walk->header.cluster_bits;
    uint64_t clusters = walk->uses.clusters;
    uint64_t cluster = 0;

    begin_phase(walk, "looking at what nothing refers to", NULL);
    while (cluster < clusters) {
        uint64_t next = check_counts_next(walk->uses.used, cluster, clusters);

        if (next > cluster) {
            count_leaks(walk, cluster, next);
            read_range(walk, cluster << bits, next << bits, judge_unused);
        }
        cluster = next + 1;
        if (cluster % 65536 == 0) {
            show_progress(walk, cluster << bits, walk->image->info.size);
        }
    }
}

/* All runs of clusters of which something is kept and not shown. */
static void visit_hidden(struct walk *walk)
{
    uint32_t bits = walk->header.cluster_bits;
    uint64_t clusters = walk->uses.clusters;
    uint64_t cluster = check_counts_next(walk->uses.hidden, 0, clusters);

    if (cluster < clusters) {
        begin_phase(walk, "looking at what is kept and not shown", NULL);
    }
    while (cluster < clusters) {
        uint64_t next = cluster + 1;

        while (next < clusters && check_counts_get(walk->uses.hidden, next) != 0) {
            next++;
        }
        read_range(walk, cluster << bits, next << bits, judge_hidden);
        cluster = check_counts_next(walk->uses.hidden, next, clusters);
    }
}

static void judge_data(struct walk *walk, uint64_t host_offset, size_t length)
{
    audit_look_at_data(&walk->contents, host_offset, walk->piece, length);
}

/* All runs of data clusters, as far as they are searched; and all that is counted as free. */
static void visit_used(struct walk *walk)
{
    uint32_t bits = walk->header.cluster_bits;
    enum check_use use;
    bool used;

    begin_phase(walk, "looking for images within the disk", NULL);
    for (uint64_t cluster = 0, end; cluster < walk->uses.clusters; cluster = end) {
        end = cluster + uses_run(&walk->uses, cluster, &used, &use);
        if (!used) {
            continue;
        }
        for (uint64_t i = cluster; i < end; i++) {
            if (!is_counted(walk, i)) {
                tally(&walk->uncounted, i << bits);
            }
        }
        if (use == CHECK_USE_DATA && walk->contents.data_left > 0 &&
            walk->header.crypt_method == CRYPT_NONE) {
            uint64_t most = div_round_up(walk->contents.data_left, walk->header.cluster_size);

            read_range(walk, cluster << bits, (cluster + min_u64(most, end - cluster)) << bits,
                       judge_data);
        }
    }
}

/* --- What is said of it -------------------------------------------------------------- */

static void tell_unaccounted(struct walk *walk)
{
    struct audit *audit = walk->audit;
    const struct inspection *image = walk->image;

    if (walk->leaked.count > 0) {
        audit_add_at(audit, walk->leaked_data.count > 0 ? AUDIT_WARNING : AUDIT_NOTE,
                     "leaked-clusters", image, walk->leaked.first,
                     "clusters that are counted as used, though nothing refers to them: %" PRIu64
                     ", of which %" PRIu64 " hold data",
                     walk->leaked.count, walk->leaked_data.count);
    }
    if (walk->remnants.count > 0) {
        audit_add_at(audit, AUDIT_WARNING, "deleted-data", image, walk->remnants.first,
                     "free clusters that still hold data, which was deleted: %" PRIu64,
                     walk->remnants.count);
    }
    if (audit->clusters.leaks > walk->leaked.count) {
        audit_add(audit, AUDIT_WARNING, "counted-too-high", image,
                  "clusters that are in use and counted as if more referred to them: %" PRIu64
                  ", as the removal of a snapshot leaves them that did not come to its end",
                  audit->clusters.leaks - walk->leaked.count);
    }
    if (walk->uncounted.count > 0) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, walk->uncounted.first,
                     "clusters in use that are counted as free: %" PRIu64
                     ", as VirtualBox leaves them, which keeps no refcounts",
                     walk->uncounted.count);
    }
    if (walk->kept.count > 0) {
        audit_add_at(
            audit, AUDIT_WARNING, "zeroed-data", image, walk->kept.first,
            "clusters that were set to zeros, or in part, but keep their place and what was "
            "there before: %" PRIu64,
            walk->kept.count);
    }
    if (walk->unreadable.count > 0) {
        audit_add_at(
            audit, AUDIT_DANGER, "unreadable", image, walk->unreadable.first,
            "pieces of the file that the disk does not show and that cannot be read: %" PRIu64,
            walk->unreadable.count);
    }
}

static void tell_behind(struct walk *walk, uint64_t image_end)
{
    uint64_t size = walk->image->info.size;
    char text[SIZE_TEXT_MAX];

    if (walk->behind.count > 0) {
        audit_add_at(
            walk->audit, AUDIT_WARNING, "data-behind-end", walk->image, walk->behind.first,
            "clusters with data behind the last one in use, which ends at offset 0x%" PRIx64
            ": %" PRIu64,
            image_end, walk->behind.count);
    } else if (size > image_end && size - image_end >= walk->header.cluster_size) {
        audit_add_at(walk->audit, AUDIT_NOTE, "file-longer", walk->image, image_end,
                     "the file goes on for %s of zeros behind the last cluster in use",
                     size_format(size - image_end, text));
    }
}

/* --- All of it ----------------------------------------------------------------------- */

static bool open_walk(struct walk *walk)
{
    const struct inspection *image = walk->image;
    const struct header *header = &walk->header;
    size_t table_size = (size_t)header->refcount_table_clusters << header->cluster_bits;

    walk->block_index = UINT64_MAX;
    walk->piece_size = (size_t)max_u64(PIECE, header->cluster_size);
    walk->piece = malloc(walk->piece_size);
    walk->block = malloc((size_t)header->cluster_size);
    walk->table = calloc(1, table_size);
    if (walk->piece == NULL || walk->block == NULL || walk->table == NULL) {
        walk->audit->incomplete = true;
        return false;
    }
    /* What cannot be read of it stays 0; the checker tells it. */
    if (store_read(image->file, header->refcount_table_offset, walk->table, table_size) < 0) {
        memset(walk->table, 0, table_size);
    }
    return true;
}

static void close_walk(struct walk *walk)
{
    uses_release(&walk->uses);
    free(walk->piece);
    free(walk->block);
    free(walk->table);
}

void audit_clusters(struct audit *audit, const struct inspection *image,
                    const struct audit_options *options)
{
    struct walk walk = {.audit = audit, .image = image, .options = options};
    const char *reason = inspect_obstacle(image);
    uint64_t image_end;

    if (reason != NULL) {
        audit_add(audit, AUDIT_DANGER, "not-counted", image, "its clusters cannot be counted: %s",
                  reason);
        return;
    }
    walk.header = *image->header;
    walk.contents =
        (struct audit_contents){.audit = audit, .image = image, .data_left = AUDIT_DATA_MAX};
    if (open_walk(&walk) && count_references(&walk)) {
        image_end = audit->clusters.image_end_offset;
        visit_unused(&walk);
        visit_hidden(&walk);
        visit_used(&walk);
        audit_origin(audit, image);
        audit_tell_contents(&walk.contents);
        tell_unaccounted(&walk);
        tell_behind(&walk, image_end);
    }
    close_walk(&walk);
}
