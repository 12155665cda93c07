/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/check.h"

#include "check/internal.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "util/checked.h"
#include "util/memory.h"
#include "util/printable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SECTOR UINT64_C(512)

/* --- What the parts share ---------------------------------------------------------- */

void check_found(struct check *check, enum check_finding finding, const char *format, ...)
{
    char line[512];
    va_list arguments;

    switch (finding) {
    case CHECK_LEAK:
        check->result->leaks += check->weight;
        break;
    case CHECK_ERROR:
        check->result->errors += check->weight;
        break;
    case CHECK_UNREADABLE:
        check->result->unreadable += check->weight;
        break;
    case CHECK_NOTE:
        break;
    }
    if (check->quiet || check->options->report == NULL) {
        return;
    }
    va_start(arguments, format);
    printable_format(line, sizeof(line), format, arguments);
    va_end(arguments);
    check->options->report(check->options->context, finding, line);
}

int check_failed(const struct check *check, int result, const char *what)
{
    return error_set(check->error, -result, "%s: checking stopped while %s: %s", check->name, what,
                     result == -EFBIG ? "the file is too large for a refcount table of 8 MiB"
                                      : strerror(-result));
}

int check_go_on(const struct check *check)
{
    return stop_requested(check->options->stop)
               ? error_set(check->error, EINTR, "%s: checking was interrupted", check->name)
               : 0;
}

void check_progress(struct check *check)
{
    uint64_t done = min_u64(check->work_done, check->work_total);

    if (check->options->progress != NULL && done > check->work_shown) {
        check->work_shown = done;
        check->options->progress(check->options->context, done, check->work_total);
    }
}

int check_sync(const struct check *check)
{
    int result = store_sync(check->file);

    return result < 0 ? check_failed(check, result, "making the repair stable") : 0;
}

int check_read_run(struct check *check, const uint64_t *offsets, size_t count, size_t *read)
{
    uint64_t cluster_size = check->header->cluster_size;
    size_t most = (size_t)min_u64(count, check->buffer_size / cluster_size), run = 1;

    while (run < most && offsets[run] == offsets[0] + run * cluster_size) {
        run++;
    }
    *read = run;
    return store_read(check->file, offsets[0], check->buffer, in_memory(run * cluster_size));
}

int check_clear_unknown(struct check *check)
{
    int result = header_clear_unknown(check->file, check->header);

    return result < 0 ? check_failed(check, result, "clearing unknown autoclear features") : 0;
}

/* Writes a field of feature bits, stably. */
static int write_features(struct store *file, enum header_field field, uint64_t features)
{
    uint8_t raw[sizeof(features)];
    int result;

    store_be64(raw, features);
    result = store_write(file, field, raw, sizeof(raw));
    return result < 0 ? result : store_sync(file);
}

/* --- The order of it all ----------------------------------------------------------- */

int check_open(struct check *check)
{
    const struct header *header = check->header;
    struct store_info info;
    int result = store_info(check->file, &info);

    if (result < 0) {
        return check_failed(check, result, "looking at its size");
    }
    if (!checked_round_up(info.size, SECTOR, &check->file_size)) {
        return check_failed(check, -EFBIG, "looking at its size");
    }
    check->limit = div_round_up(check->file_size, header->cluster_size);
    check->block_device = S_ISBLK(info.mode);
    check->sparse = info.allocated < info.size;
    check->allocated = info.allocated;
    check->weight = 1;
    check->buffer_size = (size_t)max_u64(CHECK_READ_SIZE, header->cluster_size);
    check->buffer = malloc(check->buffer_size);
    if (check->buffer == NULL) {
        return check_failed(check, -ENOMEM, "reading tables");
    }
    memory_map(check->buffer,
               in_memory(header->cluster_size)); /* for one table, which there always is */
    /* A table may run past the end of the file by less than a cluster. */
    result = check_counts_create(check->limit + 1, &check->counts);
    if (result < 0) {
        return check_failed(check, result, "counting references");
    }
    result = check_counts_create(check->limit + 1, &check->exclusive);
    if (result < 0) {
        return check_failed(check, result, "counting references");
    }
    check->result->total_clusters = div_round_up(header->virtual_size, header->cluster_size);
    check->work_total = UINT64_C(2) * header->l1_entries;
    return check_open_snapshots(check);
}

void check_close(struct check *check)
{
    check_counts_destroy(check->counts);
    check_counts_destroy(check->exclusive);
    check_counts_destroy(check->leaked);
    check_walk_end(check);
    free(check->snapshots);
    free(check->blocks);
    free(check->buffer);
}

/* See the head of check.h. Where counts cannot be true, COPIED bits cannot either. */
static void make_plan(struct check *check)
{
    const struct check_options *options = check->options;
    bool sound = check->unsound_blocks == 0 && !check->missing_blocks && !check->table_shared;
    bool keep_tables = sound && check->unsound_snapshots == 0;
    bool safe = check->result->unreadable == 0 && !check->saturated;
    bool known = safe && !check->references_unknown;

    check->plan = (struct check_plan){
        .raise = options->repair_errors && safe && sound,
        .lower = options->repair_leaks && known && sound,
        .copied = options->repair_errors && known,
        .rebuild = options->repair_errors && known && !keep_tables,
    };
}

/* The same references once more, but those of the old refcount table and blocks. */
static int rebuild(struct check *check)
{
    struct check_result found = *check->result;
    uint64_t first = check->limit;
    int result;

    if (check->block_device) {
        first = found.image_end_offset >> check->header->cluster_bits; /* it cannot grow */
    }
    check_counts_destroy(check->counts);
    result = check_counts_create(check->limit + 1, &check->counts);
    if (result < 0) {
        return check_failed(check, result, "counting references");
    }
    check->work_total += check->work_done;
    check->quiet = true;
    check->result->unreadable = 0;
    result = check_count_references(check, false);
    check->quiet = false;
    if (result == 0 && check->result->unreadable > 0) {
        /* It could be read a moment ago. Nothing has been written. */
        result = check_failed(check, -EIO, "reading tables again");
    }
    *check->result = found;
    if (result == 0) {
        result = check_rebuild(check, first);
    }
    return result;
}

/*
 * R6: what an unknown feature refers to was not counted. Known are the bitmaps,
 * and that the data file is raw: neither minds what a repair does.
 */
static int clear_autoclear(struct check *check)
{
    const struct check_plan *plan = &check->plan;

    return plan->raise || plan->lower || plan->copied || plan->rebuild ? check_clear_unknown(check)
                                                                       : 0;
}

/* Nobody can tell any more what a damaged directory said. */
static int give_up_bitmaps(struct check *check)
{
    struct header *header = check->header;
    uint64_t kept = header->autoclear_features & ~AUTOCLEAR_BITMAPS;
    int result;

    if (!check->bitmaps_lost || !check->options->repair_errors ||
        !check->options->give_up_bitmaps || check->result->unreadable > 0) {
        return 0;
    }
    result = write_features(check->file, HEADER_AUTOCLEAR_FEATURES, kept);
    if (result < 0) {
        return check_failed(check, result, "giving up the bitmaps");
    }
    header->autoclear_features = kept;
    header->bitmap_count = 0;
    check->result->fixed_errors++;
    return 0;
}

/* Raises what is too low, or replaces all. */
static int repair_errors(struct check *check)
{
    struct check_result *found = check->result;
    int result = 0;

    if (check->plan.rebuild) {
        result = rebuild(check);
        if (result == 0) {
            found->fixed_errors +=
                check->too_low + check->unsound_blocks + check->unsound_snapshots;
            found->fixed_leaks += check->too_high;
        }
    } else if (check->plan.raise && check->too_low > 0) {
        result = check_correct_counts(check, true);
        if (result == 0) {
            found->fixed_errors += check->too_low;
        }
    }
    if (result == 0 && check->stray_snapshots && check->plan.copied) {
        result = check_clear_snapshots(check);
    }
    return result;
}

static int repair_leaks(struct check *check)
{
    int result = 0;

    if (check->plan.lower && !check->plan.rebuild) {
        result = check_correct_counts(check, false);
        if (result == 0) {
            check->result->fixed_leaks += check->too_high;
        }
    }
    return result;
}

static int check_copied(struct check *check)
{
    const struct check_result *found = check->result;

    if (check->copied_clear || check->clusters_shared || check->counts_wrong || found->errors > 0 ||
        found->unreadable > 0) {
        return check_copied_bits(check);
    }
    check->work_done = check->work_total;
    check_progress(check);
    return 0;
}

static int run_check(struct check *check)
{
    int result = check_open(check);

    if (result == 0) {
        result = check_open_refcounts(check);
    }
    if (result == 0) {
        result = check_count_references(check, true);
    }
    if (result == 0) {
        check_find_missing_blocks(check);
        make_plan(check);
        result = check_compare(check);
    }
    if (result == 0 && check->result->unreadable > 0) {
        check->plan = (struct check_plan){0}; /* a block could not be read */
    }
    if (result == 0) {
        result = clear_autoclear(check);
    }
    if (result == 0) {
        result = give_up_bitmaps(check);
    }
    if (result == 0) {
        result = repair_errors(check);
    }
    if (result == 0) {
        result = check_copied(check);
    }
    return result < 0 ? result : repair_leaks(check);
}

int check_image(struct header *header, struct store *file, const char *name,
                const struct check_options *options, struct check_result *result,
                struct error *error)
{
    struct check check = {
        .header = header,
        .file = file,
        .name = name,
        .options = options,
        .result = result,
        .error = error,
    };
    int status;

    memset(result, 0, sizeof(*result));
    status = run_check(&check);
    result->too_low = check.too_low;
    result->uncountable = check.uncountable;
    result->falsely_copied = check.falsely_copied;
    check_close(&check);
    return status;
}

/* --- The bits of the header -------------------------------------------------------- */

static int clear_bit(struct header *header, struct store *file, uint64_t bit)
{
    uint64_t features = header->incompatible_features & ~bit;
    int result = store_sync(file); /* R5: all refcounts before the bit */

    if (result == 0) {
        result = write_features(file, HEADER_INCOMPATIBLE_FEATURES, features);
    }
    if (result == 0) {
        header->incompatible_features = features;
    }
    return result;
}

static int clear_feature(struct header *header, struct store *file, const char *name, uint64_t bit,
                         const char *what, struct error *error)
{
    int result;

    if ((header->incompatible_features & bit) == 0) {
        return 0;
    }
    result = clear_bit(header, file, bit);
    if (result < 0) {
        return error_set(error, -result, "%s: the %s bit cannot be cleared: %s", name, what,
                         strerror(-result));
    }
    return 0;
}

int check_clear_dirty(struct header *header, struct store *file, const char *name,
                      struct error *error)
{
    return clear_feature(header, file, name, INCOMPATIBLE_DIRTY, "dirty", error);
}

int check_clear_corrupt(struct header *header, struct store *file, const char *name,
                        struct error *error)
{
    return clear_feature(header, file, name, INCOMPATIBLE_CORRUPT, "corrupt", error);
}
