/* SPDX-License-Identifier: MIT */
/*
 * qcow2ctl compare: whether two disks are the same.
 *
 * The maps of both are walked by one thread, and what at least one of them has data for is read
 * and compared by others: nothing is read where both read as zeros without it, or show the same
 * bytes of the same file.
 */
#include "config.h"

#include "ctl/command.h"
#include "ctl/disk.h"
#include "disk/prefetch.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"
#include "util/workers.h"
#include "util/zeros.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define JOB_BYTES   (UINT64_C(1) << 20) /* compared by one thread at a time */
#define THREADS_MAX 8

/* The exit status: those of qemu-img compare. */
enum compare_status {
    COMPARE_EQUAL = 0,
    COMPARE_DIFFERENT = 1,
    COMPARE_FAILED = 2,
};

struct compare_options {
    struct common_flags common;
    struct option_number format[2];
    char *snapshot[2];
    struct option_bool strict;
};

enum difference {
    DIFFERENCE_NONE,
    DIFFERENCE_BYTES,
    DIFFERENCE_SIZE,
    DIFFERENCE_ALLOCATION, /* one has data where the other has none */
};

/* What one of the disks has at a position. */
struct side {
    struct ctl_disk disk;
    const char *path;
    struct disk_walk walk;
};

struct job {
    uint64_t offset, length; /* of both disks, bytes */
    bool is_data[2];         /* else it reads as zeros */
    uint8_t *bytes[2];       /* owned, JOB_BYTES */
    int result;              /* 0, or what reading failed with */
    unsigned failed;         /* then: which side */
    bool different;
    uint64_t first; /* then: the offset of the first byte that is */
};

struct comparison {
    struct ctl *ctl;
    const struct compare_options *options;
    struct side sides[2];
    uint64_t position, end; /* of both, bytes: what is planned, and the longer size */
    struct workers *workers;
    struct progress progress;
    enum difference found;
    uint64_t offset;      /* of what was found */
    struct error planned; /* what is wrong with a map, behind the jobs made so far */
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
}

/* --- What there is to be done ------------------------------------------------------------ */

/* Finds out what the side has at the position. 0 or a negative errno, with comparison->planned. */
static int look_at(struct comparison *comparison, struct side *side)
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

/*
 * Goes on to what must be read, and makes a job of it: 1; 0 where there is nothing more, or the
 * maps alone show a difference; a negative errno, with comparison->planned.
 */
static int plan(struct comparison *comparison, struct job *job)
{
    struct disk_walk *a = &comparison->sides[0].walk, *b = &comparison->sides[1].walk;

    while (comparison->position < comparison->end) {
        uint64_t position = comparison->position, length, shared;

        for (unsigned i = 0; i < 2; i++) {
            int r = look_at(comparison, &comparison->sides[i]);

            if (r != 0) {
                return r;
            }
        }
        length = min_u64(a->until, b->until) - position;
        if (comparison->options->strict.value && a->is_data != b->is_data) {
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
        };
        comparison->position += job->length;
        return 1;
    }
    return 0;
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
    if (job->different) {
        found(comparison, DIFFERENCE_BYTES, job->first);
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
        .threads = (unsigned)min_u64(prefetch_processors(), THREADS_MAX),
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
    }
    workers_destroy(comparison->workers);
}

static int compare_disks(struct comparison *comparison)
{
    struct side *a = &comparison->sides[0], *b = &comparison->sides[1];
    unsigned jobs = 0;
    int r;

    comparison->end = max_u64(a->walk.size, b->walk.size);
    if (comparison->options->strict.value && a->walk.size != b->walk.size) {
        found(comparison, DIFFERENCE_SIZE, min_u64(a->walk.size, b->walk.size));
        return 0;
    }
    r = start(comparison, &jobs);
    if (r == 0) {
        progress_begin(&comparison->progress, "qcow2ctl", "comparing the disks", NULL);
        r = compare_all(comparison);
        progress_end(&comparison->progress);
    }
    stop(comparison, jobs);
    return r;
}

/* --- What is said ------------------------------------------------------------------------- */

static struct json *describe(const struct side *side)
{
    struct json *object = json_new_object();

    json_put_text(object, "filename", side->path);
    json_put_text(object, "format", ctl_disk_format(&side->disk));
    json_put_number(object, "virtual-size", side->walk.size);
    return object;
}

static int print_json(struct comparison *comparison)
{
    static const char *const names[] = {
        [DIFFERENCE_BYTES] = "bytes",
        [DIFFERENCE_SIZE] = "size",
        [DIFFERENCE_ALLOCATION] = "allocation",
    };
    struct json *object = json_new_object(), *images = json_new_array();
    int r;

    json_put_bool(object, "equal", comparison->found == DIFFERENCE_NONE);
    if (comparison->found != DIFFERENCE_NONE) {
        json_put_text(object, "difference", names[comparison->found]);
        json_put_number(object, "offset", comparison->offset);
    }
    json_add(images, describe(&comparison->sides[0]));
    json_add(images, describe(&comparison->sides[1]));
    json_put(object, "images", images);
    r = json_print(object, stdout);
    json_free(object);
    return r == 0 ? 0
                  : error_set(&comparison->ctl->error, -r, "the output could not be written: %s",
                              strerror(-r));
}

/* In the words of qemu-img. */
static void print_text(const struct comparison *comparison)
{
    const struct side *a = &comparison->sides[0], *b = &comparison->sides[1];

    if (a->walk.size != b->walk.size && comparison->found != DIFFERENCE_SIZE) {
        printable_line(stdout, "Warning: Image size mismatch! (%" PRIu64 " and %" PRIu64 " bytes)",
                       a->walk.size, b->walk.size);
    }
    switch (comparison->found) {
    case DIFFERENCE_BYTES:
        printable_line(stdout, "Content mismatch at offset %" PRIu64 "!", comparison->offset);
        break;
    case DIFFERENCE_SIZE:
        printable_line(stdout,
                       "Strict mode: Image size mismatch! (%" PRIu64 " and %" PRIu64 " bytes)",
                       a->walk.size, b->walk.size);
        break;
    case DIFFERENCE_ALLOCATION:
        printable_line(stdout,
                       "Strict mode: Allocation mismatch at offset %" PRIu64
                       ": only %s has data there!",
                       comparison->offset, a->walk.is_data ? a->path : b->path);
        break;
    default:
        printable_line(stdout, "Images are identical.");
        break;
    }
}

static int report(struct comparison *comparison)
{
    if (command_prints_json(&comparison->options->common)) {
        return print_json(comparison);
    }
    if (!comparison->options->common.quiet.value) {
        print_text(comparison);
    }
    return 0;
}

/* --- The command --------------------------------------------------------------------------- */

static int open_side(struct comparison *comparison, unsigned number)
{
    const struct compare_options *options = comparison->options;
    struct side *side = &comparison->sides[number];
    const struct ctl_disk_request request = {
        .path = comparison->ctl->operands[number],
        .format = options->format[number],
        .snapshot = options->snapshot[number],
    };
    int r = ctl_disk_open(comparison->ctl, &request, &options->common, &side->disk);

    side->path = request.path;
    if (r == 0) {
        disk_walk_begin(&side->walk, side->disk.view);
    }
    return r;
}

static int run_compare(struct ctl *ctl)
{
    struct comparison comparison = {.ctl = ctl, .options = ctl->options};
    int r = command_prints_json(&comparison.options->common) ? json_require(&ctl->error) : 0;

    for (unsigned i = 0; i < 2 && r == 0; i++) {
        r = open_side(&comparison, i);
    }
    if (r == 0) {
        r = compare_disks(&comparison);
    }
    if (r == 0) {
        r = report(&comparison);
    }
    ctl_disk_close(&comparison.sides[0].disk);
    ctl_disk_close(&comparison.sides[1].disk);
    if (r != 0) {
        return COMPARE_FAILED;
    }
    return comparison.found == DIFFERENCE_NONE ? COMPARE_EQUAL : COMPARE_DIFFERENT;
}

#define FIELD(name) offsetof(struct compare_options, name)

static const struct option_spec compare_flags[] = {
    {.name = "format",
     .letter = 'f',
     .type = OPTION_CHOICE,
     .field = FIELD(format[0]),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of A: qcow2 or raw"},
    {.name = "second-format",
     .letter = 'F',
     .type = OPTION_CHOICE,
     .field = FIELD(format[1]),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of B"},
    {.name = "snapshot",
     .letter = 'l',
     .type = OPTION_STRING,
     .field = FIELD(snapshot[0]),
     .value_name = "NAME|ID",
     .help = "the disk of this internal snapshot of A, in place of the active state"},
    {.name = "second-snapshot",
     .letter = 'L',
     .type = OPTION_STRING,
     .field = FIELD(snapshot[1]),
     .value_name = "NAME|ID",
     .help = "the same of B"},
    {.name = "strict",
     .letter = 's',
     .type = OPTION_BOOL,
     .field = FIELD(strict),
     .help = "different sizes, and data in one where the other has none, are a difference, too"},
    FLAG_FORCE_SHARE(struct compare_options),
    FLAG_TRUST_NAMES(struct compare_options),
    FLAG_KEY_FILE(struct compare_options),
    FLAG_KEY_ITERATIONS(struct compare_options),
    FLAG_LOCKING(struct compare_options),
    FLAG_JSON(struct compare_options),
    FLAG_OUTPUT(struct compare_options),
    FLAG_QUIET(struct compare_options),
    {.name = NULL},
};

const struct command compare_command = {
    .name = "compare",
    .operands_text = "A B",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "tell whether two disks hold the same bytes",
    .description =
        "Compares the disks of two images, or of raw files: what a guest would read, not\n"
        "how it is stored. Where one is longer, what it has more must read as zeros. Says\n"
        "at which offset of the disk the first difference is, and reads nothing where\n"
        "neither has data, or both show the same bytes of one file. The exit status is 0\n"
        "where they are equal, 1 where they differ, 2 where that could not be found out.\n",
    .examples = "  qcow2ctl compare disk.qcow2 copy.qcow2\n"
                "  qcow2ctl compare -s -f qcow2 -F raw disk.qcow2 /dev/vg0/disk\n"
                "  qcow2ctl compare -q -l monday disk.qcow2 disk.qcow2 || echo changed\n",
    .options_size = sizeof(struct compare_options),
    .flags = compare_flags,
    .run = run_compare,
};
