/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/writer_internal.h"

#include "check/check.h"
#include "meta/format.h"
#include "util/bytes.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

/*
 * With WRITER_CHECK_AUTO the whole comparison is made where there are at most so many bytes of
 * tables to be read (of a full disk of 1 TiB in clusters of 64 KiB: 160 MiB, some 100 ms).
 */
#define AUTO_BYTES (UINT64_C(192) << 20)

/*
 * A host whose disk is slow, or busy, may take much longer: a mount does not wait for more than
 * this, and goes on as with an image that has more tables. A few tables are read to the end: that
 * the machine stood still for a moment is no reason to trust them.
 */
#define AUTO_MILLISECONDS 3000
#define AUTO_BYTES_ALWAYS (UINT64_C(1) << 20)

/* Otherwise tables are looked at for so long, the half of it for others than L2 tables. */
#define TABLES_NANOSECONDS UINT64_C(50000000)

/* Forwards the progress of the check. */
static void report_progress(void *context, uint64_t done, uint64_t total)
{
    const struct writer_options *options = context;

    if (options->progress != NULL) {
        options->progress(options->progress_context, done, total);
    }
}

/* COPIED bits may have been corrected, and the snapshot table has another place, and length. */
static int read_again(struct image *image, struct error *error)
{
    struct snapshot_table *table;
    struct store_info info;
    int result = store_info(image->file, &info);

    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found: %s", image->path,
                         strerror(-result));
    }
    if (image->snapshots != NULL) { /* of what is behind another image nobody asks for them */
        result =
            snapshot_table_read(image->file, image->header, info.size, image->path, &table, error);
        if (result < 0) {
            return result;
        }
        snapshot_table_free(image->snapshots);
        image->snapshots = table;
    }
    return mapping_reload(image->active, image->path, error);
}

/* `why` the image is repaired. */
static int repair(struct writer *writer, const char *why, struct check_result *result,
                  struct error *error)
{
    struct image *image = writer->image;
    const struct check_options options = {
        .repair_leaks = true,
        .repair_errors = true,
        .progress = report_progress,
        .context = &writer->options,
    };
    int status = check_image(image->header, image->file, image->path, &options, result, error);

    if (status < 0) {
        return status;
    }
    if (!check_is_clean(result)) {
        return error_set(
            error, EROFS,
            "%s: %s, and %" PRIu64
            " of its errors cannot be repaired by mounting it; qcow2ctl check tells of "
            "them; mount it with -o ro to copy what can be read",
            image->path, why, result->errors - result->fixed_errors + result->unreadable);
    }
    writer->compared = true;
    return read_again(image, error);
}

int writer_repair(struct writer *writer, struct error *error)
{
    struct image *image = writer->image;
    struct check_result result;
    int status;

    if ((image->header->incompatible_features & INCOMPATIBLE_DIRTY) == 0) {
        return 0;
    }
    if (writer->options.no_repair) {
        return error_set(error, EUCLEAN,
                         "%s: is marked dirty: it was not closed properly, and its refcounts must "
                         "be repaired before it can be written; leave out repair=off, or mount it "
                         "with -o ro",
                         image->path);
    }
    status = repair(writer, "is marked dirty", &result, error);
    if (status == 0) {
        status = check_clear_dirty(image->header, image->file, image->path, error);
    }
    if (status == 0) {
        log_line(image->log, LOG_LEVEL_INFO,
                 "%s: was not closed properly; its refcounts were repaired: %" PRIu64
                 " errors, %" PRIu64 " leaked clusters",
                 image->path, result.fixed_errors, result.fixed_leaks);
    }
    return status;
}

/* --- Before the first write --------------------------------------------------------------------
 */

/* Bytes of the tables that a check reads, at most. */
static int tables_bytes(const struct image *image, uint64_t *bytes)
{
    const struct header *header = image->header;
    uint64_t counts = header->cluster_size * 8 >> header->refcount_order, tables;
    struct store_info info;
    int result = store_info(image->file, &info);

    if (result < 0) {
        return result;
    }
    tables = mapping_tables(image->active);
    for (size_t i = 0; i < image->snapshots->count; i++) {
        tables += image->snapshots->snapshots[i].l1_entries;
    }
    tables += div_round_up(div_round_up(info.size, header->cluster_size), counts);
    *bytes =
        tables > UINT64_MAX >> header->cluster_bits ? UINT64_MAX : tables << header->cluster_bits;
    return 0;
}

/* Why an image is only read: for each request that would change it, and for who may mend that. */
struct fault {
    const char *refused, *remedy;
};

static const struct fault too_low = {
    "its refcounts are too low; repair it with qcow2ctl check --repair=all",
    "repair it with qcow2ctl check --repair, or mount it with -o repair=on",
};

static const struct fault falsely_copied = {
    "its COPIED bits are wrong; repair it with qcow2ctl check --repair=all",
    "repair it with qcow2ctl check --repair, or mount it with -o repair=on",
};

static const struct fault uncountable = {
    "its refcounts cannot say how often its clusters are in use; copy it with qcow2ctl convert",
    "copy it with qcow2ctl convert",
};

static void fault_sentence(const struct writer *writer, const struct fault *fault, const char *what,
                           struct error *error)
{
    error_set(error, EUCLEAN,
              "%s: %s: new data would overwrite what is there, so it is only read; %s",
              writer->image->path, what, fault->remedy);
}

/* From now on. What was written before is still flushed. */
static void only_read(struct writer *writer, const struct fault *fault, const char *what)
{
    struct error sentence;

    fault_sentence(writer, fault, what, &sentence);
    writer_refuse(writer, fault->refused, sentence.text);
}

/*
 * Nothing may be written: where a check was asked for that is an error. Otherwise it is said, the
 * disk can be read, and each change fails with EROFS.
 */
static int refuse(struct writer *writer, const struct fault *fault, const char *what,
                  struct error *error)
{
    if (writer->options.refuse_at_once || writer->options.check == WRITER_CHECK_ON) {
        fault_sentence(writer, fault, what, error);
        return -EUCLEAN;
    }
    only_read(writer, fault, what);
    return 0;
}

static int repair_counts(struct writer *writer, struct error *error)
{
    struct check_result result;
    int status = repair(writer, "has wrong refcounts", &result, error);

    if (status == 0) {
        log_line(writer->image->log, LOG_LEVEL_INFO,
                 "%s: had wrong refcounts; they were repaired: %" PRIu64 " errors, %" PRIu64
                 " leaked clusters",
                 writer->image->path, result.fixed_errors, result.fixed_leaks);
    }
    return status;
}

/* What a comparison has found that makes it dangerous to write. */
static int judge(struct writer *writer, const struct check_result *result, struct error *error)
{
    const struct fault *fault = &too_low;
    char what[160];

    if (result->uncountable > 0) {
        fault = &uncountable;
        snprintf(what, sizeof(what),
                 "its clusters have %" PRIu64 " references more than refcounts of %u bits can say",
                 result->uncountable, 1U << writer->header->refcount_order);
    } else if (result->too_low > 0) {
        snprintf(what, sizeof(what), "%" PRIu64 " of its clusters have refcounts that are too low",
                 result->too_low);
    } else if (result->falsely_copied > 0) {
        fault = &falsely_copied;
        snprintf(what, sizeof(what),
                 "%" PRIu64 " of its entries have the COPIED bit set, and others refer to their "
                 "clusters, too",
                 result->falsely_copied);
    } else {
        return 0;
    }
    return writer->options.repair ? repair_counts(writer, error)
                                  : refuse(writer, fault, what, error);
}

int writer_check(struct writer *writer, struct error *error)
{
    struct check_options options = {.context = NULL};
    enum writer_check how = writer->options.check;
    struct image *image = writer->image;
    struct error own = {0};
    struct check_result result;
    struct stop stop;
    uint64_t bytes;
    int status;

    if (how == WRITER_CHECK_OFF || writer->compared) {
        return 0;
    }
    status = tables_bytes(image, &bytes);
    if (status < 0) {
        return error_set(error, -status, "%s: cannot be checked: %s", image->path,
                         strerror(-status));
    }
    if (writer->options.repair) {
        how = WRITER_CHECK_ON; /* else what is only found later could not be repaired */
    }
    if (how == WRITER_CHECK_AUTO && bytes > AUTO_BYTES) {
        return 0; /* see writer_check_tables() */
    }
    stop_init(&stop, NULL);
    if (how == WRITER_CHECK_AUTO && bytes > AUTO_BYTES_ALWAYS) {
        stop_after(&stop, AUTO_MILLISECONDS);
        options.stop = &stop;
    }
    status = check_image(image->header, image->file, image->path, &options, &result, &own);
    if (status < 0 && how == WRITER_CHECK_AUTO && status != -ENOMEM) {
        log_line(image->log, LOG_LEVEL_WARNING, "%s", own.text);
        return 0;
    }
    if (status < 0) {
        *error = own;
        return status;
    }
    writer->compared = true;
    return judge(writer, &result, error);
}

/* Counts of 0 among the clusters of [offset, offset + length). */
static int check_counted(struct writer *writer, uint64_t offset, uint64_t length, const char *table,
                         struct error *error)
{
    uint64_t cluster = offset >> writer->header->cluster_bits, count;
    uint64_t end = div_round_up(offset + length, writer->header->cluster_size);
    char what[96];

    for (; cluster < end; cluster++) {
        int result = refcounts_get(writer->refcounts, cluster, &count);

        if (result < 0) {
            return error_set(error, -result, "%s: a refcount block cannot be read: %s",
                             writer->image->path, strerror(-result));
        }
        if (count == 0) {
            snprintf(what, sizeof(what), "the %s at 0x%" PRIx64 " is counted as free", table,
                     cluster << writer->header->cluster_bits);
            return refuse(writer, &too_low, what, error);
        }
    }
    return 0;
}

static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* What of these does not lie in the file is refused when somebody looks at it. */
static int check_snapshots(struct writer *writer, uint64_t until, struct error *error)
{
    const struct snapshot_table *table = writer->image->snapshots;
    const struct header *header = writer->header;
    struct store_info info;
    int result = store_info(writer->image->file, &info);

    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found: %s", writer->image->path,
                         strerror(-result));
    }
    if (table->count > 0 && range_within(header->snapshots_offset, table->size, info.size)) {
        result =
            check_counted(writer, header->snapshots_offset, table->size, "snapshot table", error);
    }
    for (size_t i = 0; i < table->count && result == 0 && now() < until; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        uint64_t length = (uint64_t)snapshot->l1_entries * L1_ENTRY_BYTES;

        if (range_within(snapshot->l1_offset, length, info.size)) {
            result =
                check_counted(writer, snapshot->l1_offset, length, "L1 table of a snapshot", error);
        }
    }
    return result;
}

/* Refcount blocks, too, are counted: one that is not would be handed out. */
static int check_blocks(struct writer *writer, uint64_t until, struct error *error)
{
    uint64_t block = 0, index = 0;
    int result = 0;

    while (result == 0 && now() < until &&
           refcounts_next_block(writer->refcounts, &index, &block)) {
        result = check_counted(writer, block, 1, "refcount block", error);
    }
    return result;
}

/* The L2 tables are looked at in an order that spreads over the disk: time may not do for all. */
static int check_l2_tables(struct writer *writer, uint64_t until, struct error *error)
{
    const struct header *header = writer->header;
    uint64_t step = 1021, first, i;
    int result = 0;

    for (first = 0; first < step && result == 0; first++) {
        for (i = first; i < header->l1_entries && result == 0; i += step) {
            uint64_t table = mapping_table(writer->image->active, i);

            if (now() > until) {
                return 0;
            }
            if (table != 0 && table % header->cluster_size == 0) {
                result = check_counted(writer, table, header->cluster_size, "L2 table", error);
            }
        }
    }
    return result;
}

int writer_check_tables(struct writer *writer, struct error *error)
{
    const struct header *header = writer->header;
    uint64_t begin = now(), half = begin + TABLES_NANOSECONDS / 2;
    const char *table;
    uint64_t host_offset;
    char what[96];
    int result;

    if (writer->options.check == WRITER_CHECK_OFF) {
        return 0;
    }
    if (gate_conflict(writer->gate, &host_offset, &table)) {
        snprintf(what, sizeof(what), "the cluster at 0x%" PRIx64 " is two tables, one in the %s",
                 host_offset, table);
        return refuse(writer, &too_low, what, error);
    }
    if (writer->compared) {
        return 0;
    }
    result = check_counted(writer, 0, 1, "header", error);
    if (result == 0) {
        result = check_counted(writer, header->l1_offset,
                               (uint64_t)header->l1_entries * L1_ENTRY_BYTES, "L1 table", error);
    }
    if (result == 0) {
        result = check_counted(writer, header->refcount_table_offset,
                               (uint64_t)header->refcount_table_clusters << header->cluster_bits,
                               "refcount table", error);
    }
    if (result == 0) {
        result = check_snapshots(writer, half, error);
    }
    if (result == 0) {
        result = check_blocks(writer, half, error);
    }
    return result == 0 ? check_l2_tables(writer, begin + TABLES_NANOSECONDS, error) : result;
}

/* --- While it is being written ------------------------------------------------------------------
 */

/* Host clusters that follow each other; `count` is 0 at first. */
struct cluster_run {
    uint64_t first, count;
};

static void look_at_run(struct writer *writer, const struct cluster_run *run, uint64_t file_size)
{
    uint32_t bits = writer->header->cluster_bits;
    uint64_t end = min_u64(run->first + run->count, div_round_up(file_size, UINT64_C(1) << bits));
    uint64_t offset;
    char what[96];
    bool found;

    /* Entries that name what is not in the file are refused when they are decoded. */
    if (run->first < end &&
        allocator_find_free(writer->allocator, run->first << bits, end - run->first, &found,
                            &offset) == 0 &&
        found) {
        snprintf(what, sizeof(what), "the cluster in use at 0x%" PRIx64 " is counted as free",
                 offset);
        only_read(writer, &too_low, what);
    }
}

/* Which clusters of the image file the entry names: *run, or none. */
static void clusters_of(const struct header *header, uint64_t entry, struct cluster_run *run)
{
    uint64_t host = l2_entry_host_offset(entry), last;
    uint32_t bits = header->cluster_bits;

    *run = (struct cluster_run){.count = 0};
    if (l2_entry_is_compressed(entry)) {
        host = l2_entry_compressed_offset(entry, bits);
        last = host + l2_entry_compressed_size(entry, bits) - 1;
        *run = (struct cluster_run){host >> bits, (last >> bits) - (host >> bits) + 1};
    } else if (host != 0) {
        *run = (struct cluster_run){host >> bits, 1};
    }
}

/*
 * A cluster that is in use and counted as free would be handed out, and its count may be wrong in
 * an image that was not compared. Those that the cache knows are looked at when it comes to know
 * them: no count falls as long as something refers to the cluster (R2), so they are not handed out
 * later either.
 */
static void look_at_slice(void *context, const void *entries, size_t size)
{
    struct writer *writer = context;
    const struct header *header = writer->header;
    struct cluster_run run = {.count = 0}, next;
    struct store_info info;

    if (writer_is_refused(writer) || atomic_load_explicit(&writer->corrupt, memory_order_relaxed) ||
        store_info(writer->image->file, &info) < 0) {
        return;
    }
    for (size_t at = 0; at < size; at += header->l2_entry_bytes) {
        clusters_of(header, load_be64((const uint8_t *)entries + at), &next);
        if (next.count == 0) {
            continue;
        }
        if (run.count > 0 && next.first >= run.first && next.first <= run.first + run.count) {
            run.count = max_u64(run.count, next.first + next.count - run.first);
            continue;
        }
        if (run.count > 0) {
            look_at_run(writer, &run, info.size);
        }
        run = next;
    }
    if (run.count > 0) {
        look_at_run(writer, &run, info.size);
    }
}

void writer_look_at_counts(struct writer *writer)
{
    if (!writer->header->external_data_file) { /* what is in a data file is not counted */
        mapping_set_look(writer->image->active, look_at_slice, writer);
    }
}
