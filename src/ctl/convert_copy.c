/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/convert_copy.h"

#include "codec/compress.h"
#include "util/checked.h"
#include "util/process.h"
#include "util/progress.h"
#include "util/workers.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define JOB_BYTES (UINT64_C(1) << 20) /* or a cluster, where that is more */
#define ZEROS_BYTES \
    (UINT64_C(1) << 30) /* passed on at once: where they are written, it takes long */
#define THREADS_MAX 16
#define HOLE_BYTES  (UINT64_C(64) << 10) /* shorter holes are read with what is around them */

/* What a unit, or a subcluster of it, is to be. */
enum kind {
    KIND_DATA,
    KIND_ZEROS,
    KIND_SAME, /* what is behind the target shows it already */
};

struct job {
    uint64_t offset, length; /* of the disk, bytes */
    bool is_zeros;           /* all of it is a hole: nothing to be done, and the rest is not set */
    bool source_is_data, backing_is_data;
    uint8_t *bytes;  /* owned: what the source has, and zeros up to a whole unit */
    uint8_t *behind; /* owned: what the backing file has; NULL without one */
    uint8_t *kinds;  /* owned: enum kind of each subunit */
    uint8_t *packed; /* owned: what the units compress to, one behind the other; NULL without */
    uint32_t *sizes; /* owned: of each unit, bytes; 0: not compressed */
    int result;      /* what reading failed with */
    const char *failed;
};

struct copying {
    const struct convert_copy *copy;
    struct convert_target *target;
    struct error *error;
    struct disk_walk source, backing;
    uint64_t position; /* of the disk: what jobs have been made for */
    uint64_t job_bytes;
    uint64_t written; /* bytes of the disk */
    struct workers *workers;
    unsigned threads, jobs;
    struct compressor *compressors[THREADS_MAX + 1]; /* one for each thread, and ours */
    struct progress progress;
};

/* --- One piece, in any thread ------------------------------------------------------------- */

static int read_piece(struct copying *copying, struct job *job, uint64_t whole)
{
    size_t length = (size_t)job->length;
    int r = 0;

    job->failed = copying->copy->source_path;
    if (job->source_is_data) {
        r = view_read(copying->copy->source, job->offset, job->bytes, length);
        memset(job->bytes + length, 0, in_memory(whole - length));
    } else {
        memset(job->bytes, 0, in_memory(whole));
    }
    if (r == 0 && job->behind != NULL) {
        job->failed = copying->copy->backing_path;
        if (job->backing_is_data) {
            r = view_read(copying->copy->backing, job->offset, job->behind, length);
        } else {
            memset(job->behind, 0, length);
        }
    }
    return r;
}

/* Zeros that are fewer in a row than `least` subunits are data, as what is beside them. */
static void keep_short_zeros(struct job *job, uint64_t count, uint64_t least)
{
    uint64_t i = 0, end;

    while (i < count) {
        end = i;
        while (end < count && job->kinds[end] == job->kinds[i]) {
            end++;
        }
        if (job->kinds[i] == KIND_ZEROS && end - i < least && end - i < count) {
            memset(job->kinds + i, KIND_DATA, in_memory(end - i));
        }
        i = end;
    }
}

static void classify_piece(struct copying *copying, struct job *job)
{
    uint64_t subunit = copying->target->subunit, at, count = div_round_up(job->length, subunit);
    uint64_t zeros = copying->copy->zeros;

    for (uint64_t i = 0; i < count; i++) {
        size_t length;

        at = i * subunit;
        length = (size_t)min_u64(subunit, job->length - at);
        if (job->behind != NULL && memcmp(job->bytes + at, job->behind + at, length) == 0) {
            job->kinds[i] = KIND_SAME;
        } else if (zeros > 0 && is_all_zeros(job->bytes + at, length)) {
            job->kinds[i] = KIND_ZEROS;
        } else {
            job->kinds[i] = KIND_DATA;
        }
    }
    if (zeros > subunit) {
        keep_short_zeros(job, count, zeros / subunit);
    }
}

/* Whether a unit has anything that must be written. */
static bool has_data(const struct job *job, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        if (job->kinds[i] == KIND_DATA) {
            return true;
        }
    }
    return false;
}

/* How many subunits of the job unit number `index` has. */
static uint64_t subunits_in(const struct copying *copying, const struct job *job, uint64_t index)
{
    const struct convert_target *target = copying->target;
    uint64_t rest = job->length - index * target->unit;

    return div_round_up(min_u64(rest, target->unit), target->subunit);
}

static void compress_piece(struct copying *copying, struct job *job, unsigned thread)
{
    uint64_t unit = copying->target->unit, units = div_round_up(job->length, unit);
    uint64_t subunits = unit / copying->target->subunit;
    uint8_t *to = job->packed;

    for (uint64_t i = 0; i < units; i++) {
        job->sizes[i] = 0;
        if (has_data(job, i * subunits, subunits_in(copying, job, i))) {
            job->sizes[i] =
                (uint32_t)compressor_run(copying->compressors[thread], job->bytes + i * unit,
                                         in_memory(unit), to, in_memory(unit - 1));
            to += job->sizes[i];
        }
    }
}

static void work(void *context, void *argument, unsigned thread)
{
    struct copying *copying = context;
    struct job *job = argument;
    uint64_t unit = copying->target->unit;

    if (job->is_zeros) {
        return;
    }
    job->result = read_piece(copying, job, div_round_up(job->length, unit) * unit);
    if (job->result == 0) {
        classify_piece(copying, job);
    }
    if (job->result == 0 && copying->copy->compress) {
        compress_piece(copying, job, thread);
    }
}

/* --- Which pieces there are ----------------------------------------------------------------- */

static int look(struct copying *copying, struct disk_walk *walk, uint64_t position,
                const char *path)
{
    int r = disk_walk_at(walk, position, copying->target->size);

    return r == 0 ? 0
                  : error_set(copying->error, -r,
                              "%s: cannot be copied: what it has at offset %" PRIu64
                              " cannot be found out: %s",
                              path, position, strerror(-r));
}

/* How far to go on with the source in one job, from `end` on: over holes that are short. */
static int extend(struct copying *copying, uint64_t limit, uint64_t *end)
{
    while (*end < limit) {
        int r = look(copying, &copying->source, *end, copying->copy->source_path);

        if (r != 0) {
            return r;
        }
        if (!copying->source.is_data && copying->source.until - *end >= HOLE_BYTES) {
            break;
        }
        *end = min_u64(copying->source.until, limit);
    }
    return 0;
}

/* What is at the position of both: 0, or a negative errno with a sentence. */
static int look_at_both(struct copying *copying, uint64_t *until)
{
    const struct convert_copy *copy = copying->copy;
    int r = look(copying, &copying->source, copying->position, copy->source_path);

    if (r != 0) {
        return r;
    }
    *until = copying->source.until;
    if (copy->backing != NULL) {
        r = look(copying, &copying->backing, copying->position, copy->backing_path);
        *until = min_u64(*until, copying->backing.until);
    }
    *until = min_u64(*until, copying->target->size);
    return r;
}

/* Whole units from the position on, at most to `until`; all that is left where that is the end. */
static uint64_t whole_units(const struct copying *copying, uint64_t until)
{
    uint64_t end = until < copying->target->size ? round_down(until, copying->target->unit)
                                                 : copying->target->size;

    return end > copying->position ? end - copying->position : 0;
}

/* The bytes of both that are the same ones of the same file. */
static uint64_t shared_units(const struct copying *copying, uint64_t until)
{
    const struct convert_copy *copy = copying->copy;
    uint64_t length = until - copying->position, shared;

    if (copy->backing == NULL || !copying->source.is_data || !copying->backing.is_data) {
        return 0;
    }
    shared = view_shared(copy->source, copy->backing, copying->position, length);
    return whole_units(copying, copying->position + shared);
}

/* Fills in a job of data at the position. 1, or a negative errno with a sentence. */
static int plan_data(struct copying *copying, uint64_t until, struct job *job)
{
    const struct convert_target *target = copying->target;
    uint64_t limit = min_u64(target->size, round_down(copying->position, copying->job_bytes) +
                                               copying->job_bytes);
    uint64_t end = min_u64(until, limit);
    int r = 0;

    job->is_zeros = false;
    job->offset = copying->position;
    job->source_is_data = copying->source.is_data;
    job->backing_is_data = copying->copy->backing != NULL && copying->backing.is_data;
    if (copying->copy->backing == NULL) {
        r = extend(copying, limit, &end);
    }
    if (r != 0) {
        return r;
    }
    if (end % target->unit != 0 && end < target->size) {
        end = min_u64(round_down(end, target->unit) + target->unit, target->size);
    }
    /* Of what the look has not seen all, it has seen nothing. */
    if (end > until) {
        job->source_is_data = true;
        job->backing_is_data = copying->copy->backing != NULL;
    }
    job->length = end - job->offset;
    copying->position = end;
    return 1;
}

/* The next job: 1; 0 where all is done; a negative errno with a sentence. */
static int plan(struct copying *copying, struct job *job)
{
    const struct convert_copy *copy = copying->copy;

    while (copying->position < copying->target->size) {
        uint64_t until, units, shared;
        int r = look_at_both(copying, &until);

        if (r != 0) {
            return r;
        }
        if (copy->zeros == 0) { /* all is written */
            copying->source.is_data = true;
        }
        units = whole_units(copying, until);
        if (copying->source.is_data || (copy->backing != NULL && copying->backing.is_data) ||
            units == 0) {
            shared = shared_units(copying, until);
            if (shared == 0) {
                return plan_data(copying, until, job);
            }
            copying->position += shared;
        } else if (copy->backing != NULL || copying->target->ops->zeros == NULL) {
            copying->position += units; /* it reads so already */
        } else {
            job->is_zeros = true;
            job->result = 0;
            job->offset = copying->position;
            job->length = min_u64(units, ZEROS_BYTES);
            copying->position += job->length;
            return 1;
        }
        progress_show(&copying->progress, copying->position, copying->target->size);
        if (copy->stop(NULL)) {
            return -EINTR;
        }
    }
    return 0;
}

/* --- Writing a piece -------------------------------------------------------------------------- */

/* A unit of which the subunits are of several kinds. */
static int write_mixed(struct copying *copying, const struct job *job, uint64_t index)
{
    struct convert_target *target = copying->target;
    uint64_t at = index * target->unit, subunits = target->unit / target->subunit;
    uint32_t data = 0, zeros = 0;

    for (uint64_t i = 0; i < subunits_in(copying, job, index); i++) {
        enum kind kind = (enum kind)job->kinds[index * subunits + i];

        data |= kind == KIND_DATA ? UINT32_C(1) << i : 0;
        if (kind == KIND_DATA) {
            copying->written += min_u64(target->subunit, job->length - at - i * target->subunit);
        }
        zeros |= kind == KIND_ZEROS && job->behind != NULL ? UINT32_C(1) << i : 0;
    }
    return new_image_subclusters(target->image, job->offset + at, job->bytes + at,
                                 min_u64(target->unit, job->length - at), data, zeros);
}

/* The kind of all subunits of a unit; *mixed where they are of several. */
static enum kind kind_of_unit(const struct copying *copying, const struct job *job, uint64_t index,
                              bool *mixed)
{
    uint64_t first = index * (copying->target->unit / copying->target->subunit);
    uint64_t count = subunits_in(copying, job, index);

    *mixed = false;
    for (uint64_t i = 1; i < count; i++) {
        *mixed = *mixed || job->kinds[first + i] != job->kinds[first];
    }
    return (enum kind)job->kinds[first];
}

/* Units of one kind that follow each other, at most up to number `end`; the first is `index`. */
static uint64_t run_of(const struct copying *copying, const struct job *job, uint64_t index,
                       uint64_t end)
{
    bool mixed;
    enum kind kind = kind_of_unit(copying, job, index, &mixed);
    uint64_t next = index + 1;

    while (next < end && kind_of_unit(copying, job, next, &mixed) == kind && !mixed &&
           (job->sizes == NULL || job->sizes[next] == 0)) {
        next++;
    }
    return next - index;
}

static int write_run(struct copying *copying, const struct job *job, uint64_t index, uint64_t count,
                     enum kind kind)
{
    struct convert_target *target = copying->target;
    uint64_t at = index * target->unit;
    uint64_t length = min_u64(count * target->unit, job->length - at);

    if (kind == KIND_DATA) {
        copying->written += length;
        return target->ops->data(target, job->offset + at, job->bytes + at, length);
    }
    if (kind == KIND_ZEROS && target->ops->zeros != NULL) {
        return target->ops->zeros(target, job->offset + at, length);
    }
    return 0;
}

static int write_piece(struct copying *copying, const struct job *job)
{
    struct convert_target *target = copying->target;
    uint64_t units = div_round_up(job->length, target->unit), index = 0;
    const uint8_t *packed = job->packed;
    int r = 0;

    while (index < units && r == 0) {
        bool mixed;
        enum kind kind = kind_of_unit(copying, job, index, &mixed);
        uint64_t count = 1;

        if (job->sizes != NULL && job->sizes[index] > 0) {
            r = new_image_compressed(target->image, job->offset + index * target->unit, packed,
                                     job->sizes[index]);
            packed += job->sizes[index];
            copying->written += min_u64(target->unit, job->length - index * target->unit);
        } else if (mixed) {
            r = write_mixed(copying, job, index);
        } else {
            count = run_of(copying, job, index, units);
            r = write_run(copying, job, index, count, kind);
        }
        index += count;
    }
    return r;
}

/* The oldest job: what was found is written. 0 or a negative errno with a sentence. */
static int take(struct copying *copying, const struct job *job)
{
    struct convert_target *target = copying->target;
    int r = job->result;

    if (r != 0) {
        return error_set(copying->error, -r,
                         "%s: cannot be copied: its disk cannot be read at offset %" PRIu64
                         " (%" PRIu64 " bytes): %s",
                         job->failed, job->offset, job->length, strerror(-r));
    }
    r = job->is_zeros ? target->ops->zeros(target, job->offset, job->length)
                      : write_piece(copying, job);
    if (r != 0) {
        return error_set(copying->error, -r,
                         "%s: cannot be written, at offset %" PRIu64 " of the disk: %s%s",
                         target->path, job->offset, strerror(-r),
                         r == -ENOSPC || r == -EDQUOT ? "; make room there" : "");
    }
    progress_show(&copying->progress, job->offset + job->length, target->size);
    return 0;
}

static int copy_all(struct copying *copying)
{
    int planning = 1, r = 0;
    struct job *job;

    do {
        while (planning == 1 && (job = workers_next(copying->workers)) != NULL) {
            planning = plan(copying, job);
            if (planning == 1) {
                workers_submit(copying->workers);
            }
        }
        if (planning < 0) {
            return planning;
        }
        job = workers_oldest(copying->workers);
        r = job != NULL ? take(copying, job) : 0;
        if (job != NULL) {
            workers_release(copying->workers);
        }
        if (r == 0 && copying->copy->stop(NULL)) {
            r = -EINTR;
        }
    } while (job != NULL && r == 0);
    return r;
}

/* --- Threads and memory ----------------------------------------------------------------------- */

static int prepare_job(struct copying *copying, struct job *job)
{
    const struct convert_target *target = copying->target;
    bool ok;

    job->bytes = malloc(in_memory(copying->job_bytes));
    job->kinds = malloc(in_memory(copying->job_bytes / target->subunit));
    ok = job->bytes != NULL && job->kinds != NULL;
    if (copying->copy->backing != NULL) {
        job->behind = malloc(in_memory(copying->job_bytes));
        ok = ok && job->behind != NULL;
    }
    if (copying->copy->compress) {
        job->packed = malloc(in_memory(copying->job_bytes));
        job->sizes = calloc(in_memory(copying->job_bytes / target->unit), sizeof(*job->sizes));
        ok = ok && job->packed != NULL && job->sizes != NULL;
    }
    return ok ? 0 : -ENOMEM;
}

static int start(struct copying *copying)
{
    struct workers_options options = {
        .job_size = sizeof(struct job),
        .work = work,
        .context = copying,
    };
    int r = 0;

    copying->threads = (unsigned)min_u64(process_processors(), THREADS_MAX);
    copying->jobs = 3 * copying->threads + 1;
    copying->job_bytes = max_u64(JOB_BYTES, copying->target->unit);
    options.threads = copying->threads;
    options.jobs = copying->jobs;
    for (unsigned i = 0; i <= copying->threads && copying->copy->compress && r == 0; i++) {
        r = compressor_create(copying->copy->compression_type, CODEC_FASTEST,
                              &copying->compressors[i]);
    }
    if (r == 0) {
        r = workers_create(&options, &copying->workers);
    }
    for (unsigned i = 0; i < copying->jobs && r == 0; i++) {
        r = prepare_job(copying, workers_job(copying->workers, i));
    }
    return r == 0 ? 0
                  : error_set(copying->error, -r, "%s: cannot be copied: %s",
                              copying->copy->source_path, strerror(-r));
}

static void stop(struct copying *copying)
{
    if (copying->workers != NULL) {
        workers_drop(copying->workers);
        for (unsigned i = 0; i < copying->jobs; i++) {
            struct job *job = workers_job(copying->workers, i);

            free(job->bytes);
            free(job->behind);
            free(job->kinds);
            free(job->packed);
            free(job->sizes);
        }
        workers_destroy(copying->workers);
    }
    for (unsigned i = 0; i <= copying->threads; i++) {
        compressor_destroy(copying->compressors[i]);
    }
}

int convert_copy(const struct convert_copy *copy, struct error *error)
{
    struct copying *copying = calloc(1, sizeof(*copying));
    int r;

    if (copying == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", copy->source_path);
    }
    copying->copy = copy;
    copying->target = copy->target;
    copying->error = error;
    disk_walk_begin(&copying->source, copy->source);
    if (copy->backing != NULL) {
        disk_walk_begin(&copying->backing, copy->backing);
    }
    r = start(copying);
    if (r == 0) {
        progress_begin(&copying->progress, "qcow2ctl", "copying the disk", NULL);
        r = copy_all(copying);
        progress_end(&copying->progress);
    }
    *copy->written = copying->written;
    stop(copying);
    free(copying);
    if (r == 0) {
        r = copy->target->ops->finish(copy->target);
        r = r == 0
                ? 0
                : error_set(error, -r, "%s: cannot be written: %s%s", copy->target->path,
                            strerror(-r), r == -ENOSPC || r == -EDQUOT ? "; make room there" : "");
    }
    return r;
}
