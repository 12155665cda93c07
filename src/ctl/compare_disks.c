/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/compare_disks.h"

#include "util/checked.h"
#include "util/process.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define JOB_BYTES   (UINT64_C(1) << 20) /* compared by one thread at a time */
#define THREADS_MAX 8

struct job {
    uint64_t offset, length; /* of both disks, bytes */
    bool is_data[2];         /* else it reads as zeros */
    uint8_t *bytes[2];       /* owned, JOB_BYTES */
    bool *differs;           /* owned: of each sector, where ranges are wanted */
    int result;              /* 0, or what reading failed with */
    unsigned failed;         /* then: which side */
    bool different;
    uint64_t first; /* then: the offset of the first byte that is */
};

/* --- One job ---------------------------------------------------------------------------- */

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t length)
{
    uint64_t at = 0;

    while (at < length && a[at] == b[at]) {
        at++;
    }
    return at;
}

static uint64_t first_nonzero(const uint8_t *bytes, uint64_t length)
{
    uint64_t at = 0;

    while (at < length && bytes[at] == 0) {
        at++;
    }
    return at;
}

/* Which sectors differ; `one`: the bytes of the side that has some, the other reads as zeros. */
static void mark_sectors(struct job *job, const uint8_t *one)
{
    uint64_t first = job->offset / COMPARE_SECTOR, end = job->offset + job->length;

    for (uint64_t at = job->offset; at < end;) {
        uint64_t next = min_u64(round_down(at, COMPARE_SECTOR) + COMPARE_SECTOR, end);
        size_t from = (size_t)(at - job->offset), length = (size_t)(next - at);

        job->differs[at / COMPARE_SECTOR - first] =
            one != NULL ? !is_all_zeros(one + from, length)
                        : memcmp(job->bytes[0] + from, job->bytes[1] + from, length) != 0;
        at = next;
    }
}

static void work(void *context, void *argument, unsigned thread)
{
    struct comparison *comparison = context;
    struct job *job = argument;
    size_t length = (size_t)job->length;
    bool both = job->is_data[0] && job->is_data[1];
    const uint8_t *one = job->bytes[job->is_data[0] ? 0 : 1];

    (void)thread;
    job->result = 0;
    job->different = false;
    for (unsigned i = 0; i < 2 && job->result == 0; i++) {
        if (job->is_data[i]) {
            job->failed = i;
            job->result =
                view_read(comparison->sides[i].disk.view, job->offset, job->bytes[i], length);
        }
    }
    if (job->result != 0) {
        return;
    }
    job->different =
        both ? memcmp(job->bytes[0], job->bytes[1], length) != 0 : !is_all_zeros(one, length);
    if (job->different) {
        job->first = job->offset + (both ? first_difference(job->bytes[0], job->bytes[1], length)
                                         : first_nonzero(one, length));
    }
    if (job->different && comparison->range != NULL) {
        mark_sectors(job, both ? NULL : one);
    }
}

/* --- What there is to be done ------------------------------------------------------------ */

/* Finds out what the side has at the position. 0 or a negative errno, with comparison->planned. */
static int look_at(struct comparison *comparison, struct compare_side *side)
{
    int r = disk_walk_at(&side->walk, comparison->position, comparison->end);

    return r == 0 ? 0
                  : error_set(&comparison->planned, -r,
                              "%s: cannot be compared: what it has at offset %" PRIu64
                              " cannot be found out: %s",
                              side->path, comparison->position, strerror(-r));
}

static void found(struct comparison *comparison, enum difference what, uint64_t offset)
{
    comparison->found = what;
    comparison->offset = offset;
}

/* Two states of one image, of which one L2 table says all: nothing in it need be looked at. */
static bool skip_table(struct comparison *comparison)
{
    const struct disk_walk *a = &comparison->sides[0].walk, *b = &comparison->sides[1].walk;
    uint64_t both = min_u64(a->size, b->size);
    uint64_t length =
        comparison->position < both
            ? view_same_table(a->view, b->view, comparison->position, both - comparison->position)
            : 0;

    comparison->position += length;
    return length > 0;
}

/*
 * Goes on to what must be read, and makes a job of it: 1; 0 where there is nothing more, or the
 * maps alone show a difference; a negative errno, with comparison->planned.
 */
static int plan(struct comparison *comparison, struct job *job)
{
    struct disk_walk *a = &comparison->sides[0].walk, *b = &comparison->sides[1].walk;

    while (comparison->position < comparison->end) {
        uint64_t position = comparison->position, length, shared;

        if (skip_table(comparison)) {
            continue;
        }
        for (unsigned i = 0; i < 2; i++) {
            int r = look_at(comparison, &comparison->sides[i]);

            if (r != 0) {
                return r;
            }
        }
        length = min_u64(a->until, b->until) - position;
        if (comparison->strict && a->is_data != b->is_data) {
            found(comparison, DIFFERENCE_ALLOCATION, position);
            return 0;
        }
        if (!a->is_data && !b->is_data) {
            comparison->position += length;
            progress_show(&comparison->progress, comparison->position, comparison->end);
            continue;
        }
        shared = a->is_data && b->is_data ? view_shared(a->view, b->view, position, length) : 0;
        if (shared > 0) {
            comparison->position += shared;
            continue;
        }
        /* Jobs begin at multiples of their size, as clusters do. */
        *job = (struct job){
            .offset = position,
            .length = min_u64(length, JOB_BYTES - position % JOB_BYTES),
            .is_data = {a->is_data, b->is_data},
            .bytes = {job->bytes[0], job->bytes[1]},
            .differs = job->differs,
        };
        comparison->position += job->length;
        return 1;
    }
    return 0;
}

static int tell_range(struct comparison *comparison)
{
    uint64_t begin = comparison->range_begin, end = comparison->range_end;

    comparison->range_begin = comparison->range_end = 0;
    return end > begin ? comparison->range(comparison->context, begin, end - begin) : 0;
}

/* One that goes on is told as a whole. */
static int take_ranges(struct comparison *comparison, const struct job *job)
{
    uint64_t first = job->offset / COMPARE_SECTOR, end = job->offset + job->length;
    int r = 0;

    for (uint64_t at = job->offset; at < end && r == 0;) {
        uint64_t next = min_u64(round_down(at, COMPARE_SECTOR) + COMPARE_SECTOR, end);

        if (job->differs[at / COMPARE_SECTOR - first]) {
            if (comparison->range_end != at) {
                r = tell_range(comparison);
                comparison->range_begin = at;
            }
            comparison->range_end = next;
        }
        at = next;
    }
    return r;
}

/* What came of the oldest job: 0, also where it shows a difference; or a negative errno. */
static int take(struct comparison *comparison, const struct job *job)
{
    if (job->result != 0) {
        return error_set(&comparison->ctl->error, -job->result,
                         "%s: cannot be compared: its disk cannot be read at offset %" PRIu64
                         " (%" PRIu64 " bytes): %s",
                         comparison->sides[job->failed].path, job->offset, job->length,
                         strerror(-job->result));
    }
    if (job->different && comparison->range == NULL) {
        found(comparison, DIFFERENCE_BYTES, job->first);
    } else if (job->different) {
        int r = take_ranges(comparison, job);

        if (r != 0) {
            return r;
        }
    }
    progress_show(&comparison->progress, job->offset + job->length, comparison->end);
    return 0;
}

/*
 * All of it, up to the first difference. What the maps show comes behind the jobs that were made
 * before, of which each may find an earlier one.
 */
static int compare_all(struct comparison *comparison)
{
    enum difference planned = DIFFERENCE_NONE;
    uint64_t planned_offset = 0;
    struct job *job;
    int r, planning = 1;

    do {
        while (planning == 1 && (job = workers_next(comparison->workers)) != NULL) {
            planning = plan(comparison, job);
            if (planning == 1) {
                workers_submit(comparison->workers);
            }
        }
        if (comparison->found != DIFFERENCE_NONE) {
            planned = comparison->found;
            planned_offset = comparison->offset;
            comparison->found = DIFFERENCE_NONE;
        }
        job = workers_oldest(comparison->workers);
        r = job != NULL ? take(comparison, job) : 0;
        if (job != NULL) {
            workers_release(comparison->workers);
        }
    } while (job != NULL && r == 0 && comparison->found == DIFFERENCE_NONE);
    if (r == 0 && comparison->found == DIFFERENCE_NONE) {
        found(comparison, planned, planned_offset);
        if (planning < 0) {
            comparison->ctl->error = comparison->planned;
            r = planning;
        }
    }
    return r;
}

/* --- The threads and their memory ---------------------------------------------------------- */

static int start(struct comparison *comparison, unsigned *jobs)
{
    struct workers_options options = {
        .threads = (unsigned)min_u64(process_processors(), THREADS_MAX),
        .job_size = sizeof(struct job),
        .work = work,
        .context = comparison,
    };
    int r;

    options.jobs = 2 * options.threads;
    *jobs = options.jobs;
    r = workers_create(&options, &comparison->workers);
    for (unsigned i = 0; i < options.jobs && r == 0; i++) {
        struct job *job = workers_job(comparison->workers, i);

        for (unsigned side = 0; side < 2; side++) {
            job->bytes[side] = malloc(JOB_BYTES);
            r = job->bytes[side] == NULL ? -ENOMEM : r;
        }
        job->differs = malloc(JOB_BYTES / COMPARE_SECTOR + 1);
        r = job->differs == NULL ? -ENOMEM : r;
    }
    return r == 0 ? 0
                  : error_set(&comparison->ctl->error, ENOMEM, "%s: out of memory",
                              comparison->sides[0].path);
}

static void stop(struct comparison *comparison, unsigned jobs)
{
    if (comparison->workers == NULL) {
        return;
    }
    workers_drop(comparison->workers);
    for (unsigned i = 0; i < jobs; i++) {
        struct job *job = workers_job(comparison->workers, i);

        free(job->bytes[0]);
        free(job->bytes[1]);
        free(job->differs);
    }
    workers_destroy(comparison->workers);
}

int compare_disks(struct comparison *comparison)
{
    struct compare_side *a = &comparison->sides[0], *b = &comparison->sides[1];
    unsigned jobs = 0;
    int r;

    comparison->end = max_u64(a->walk.size, b->walk.size);
    if (comparison->strict && a->walk.size != b->walk.size) {
        found(comparison, DIFFERENCE_SIZE, min_u64(a->walk.size, b->walk.size));
        return 0;
    }
    r = start(comparison, &jobs);
    if (r == 0) {
        progress_begin(&comparison->progress, "qcow2ctl", "comparing the disks", NULL);
        r = compare_all(comparison);
        if (r == 0) {
            r = tell_range(comparison);
        }
        progress_end(&comparison->progress);
    }
    stop(comparison, jobs);
    return r;
}

/* --- Opening both ------------------------------------------------------------------------- */

static bool is_same_format(const struct option_number *a, const struct option_number *b)
{
    return a->set == b->set && (!a->set || a->value == b->value);
}

int compare_open(struct comparison *comparison, const struct ctl_disk_request requests[2],
                 const struct common_flags *flags)
{
    struct compare_side *a = &comparison->sides[0], *b = &comparison->sides[1];
    int r;

    a->path = requests[0].path;
    b->path = requests[1].path;
    r = ctl_disk_open(comparison->ctl, &requests[0], flags, &a->disk);
    if (r == 0 && strcmp(a->path, b->path) == 0 &&
        is_same_format(&requests[0].format, &requests[1].format)) {
        b->shares_image = true;
        r = ctl_disk_open_state(comparison->ctl, a->disk.image, requests[1].snapshot, &b->disk);
    } else if (r == 0) {
        r = ctl_disk_open(comparison->ctl, &requests[1], flags, &b->disk);
    }
    if (r == 0) {
        image_may_read_ahead(a->disk.image);
        if (!b->shares_image) {
            image_may_read_ahead(b->disk.image);
        }
        disk_walk_begin(&a->walk, a->disk.view);
        disk_walk_begin(&b->walk, b->disk.view);
    }
    return r;
}

void compare_close(struct comparison *comparison)
{
    struct compare_side *a = &comparison->sides[0], *b = &comparison->sides[1];

    if (b->shares_image) {
        view_close(b->disk.view);
    } else {
        ctl_disk_close(&b->disk);
    }
    ctl_disk_close(&a->disk);
}
