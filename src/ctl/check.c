/* SPDX-License-Identifier: MIT */
/*
 * qcow2ctl check: what check/check.h finds and repairs, and the summary that
 * qemu-img check gives. Of the image only its own file is opened: what is behind
 * it, or holds its data, has no part in it.
 */
#include "config.h"

#include "check/check.h"
#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/open.h"
#include "meta/format.h"
#include "store/file.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FINDINGS_MAX 100 /* kept, to be printed at the end */

enum check_status {
    CHECK_STATUS_CLEAN = 0,
    CHECK_STATUS_FAILED = 1,
    CHECK_STATUS_ERRORS = 2,
    CHECK_STATUS_LEAKS = 3,
};

/* The choices of --repair, in this order. */
enum check_repair {
    CHECK_REPAIR_LEAKS,
    CHECK_REPAIR_ALL,
};

struct check_flags {
    struct common_flags common;
    struct option_number repair;
    struct option_bool verbose;
};

struct finding {
    enum check_finding kind;
    char *line;
};

struct checker {
    struct ctl *ctl;
    const struct check_flags *flags;
    const char *path;
    struct store *file;
    struct header *header;     /* of the last check */
    struct check_result found; /* the last check's */
    uint64_t fixed_errors, fixed_leaks;
    uint64_t key_errors; /* of found.errors: of the encryption header */
    bool human, stream;  /* stream: findings are printed as they come */

    struct finding findings[FINDINGS_MAX];
    uint64_t finding_count; /* also those that were not kept */
};

/* --- Findings ---------------------------------------------------------------------- */

static const char *kind_name(enum check_finding kind)
{
    switch (kind) {
    case CHECK_LEAK:
        return "leak";
    case CHECK_ERROR:
        return "error";
    case CHECK_NOTE:
        return "note";
    default:
        return "unreadable";
    }
}

static void keep_finding(void *context, enum check_finding kind, const char *line)
{
    struct checker *checker = context;
    uint64_t index = checker->finding_count++;

    if (checker->stream) {
        printable_line(stdout, "%s: %s", kind_name(kind), line);
    } else if (index < FINDINGS_MAX) {
        checker->findings[index] = (struct finding){kind, strdup(line)};
    }
}

static size_t kept_findings(const struct checker *checker)
{
    return checker->finding_count < FINDINGS_MAX ? (size_t)checker->finding_count : FINDINGS_MAX;
}

static void print_findings(const struct checker *checker)
{
    size_t kept = kept_findings(checker), i;

    if (!checker->human || checker->stream) {
        return;
    }
    for (i = 0; i < kept; i++) {
        const char *line = checker->findings[i].line;

        printable_line(stdout, "%s: %s", kind_name(checker->findings[i].kind),
                       line == NULL ? "" : line);
    }
    if (checker->finding_count > kept) {
        printable_line(stdout, "... and %" PRIu64 " more, which --verbose prints",
                       checker->finding_count - kept);
    }
}

static void drop_findings(struct checker *checker)
{
    size_t kept = checker->stream ? 0 : kept_findings(checker), i;

    for (i = 0; i < kept; i++) {
        free(checker->findings[i].line);
    }
    checker->finding_count = 0;
}

/* --- Checking ---------------------------------------------------------------------- */

/* The progress that the check tells, and its findings, have one context. */
struct telling {
    struct checker *checker;
    struct progress progress;
};

static void tell_finding(void *context, enum check_finding kind, const char *line)
{
    struct telling *telling = context;

    keep_finding(telling->checker, kind, line);
}

static void tell_progress(void *context, uint64_t done, uint64_t total)
{
    struct telling *telling = context;

    if (!telling->checker->stream) {
        progress_show(&telling->progress, done, total);
    }
}

static int read_header(struct checker *checker)
{
    struct error *error = &checker->ctl->error;
    struct store_info info;
    int result = store_info(checker->file, &info);

    header_free(checker->header);
    checker->header = NULL;
    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found out: %s", checker->path,
                         strerror(-result));
    }
    return check_read_header(checker->file, info.size, checker->path, &checker->header, error);
}

/* One pass over the image, which repairs what it is told to. */
static int check_once(struct checker *checker, bool leaks, bool errors, const char *what)
{
    struct telling telling = {.checker = checker};
    const struct check_options options = {
        .repair_leaks = leaks,
        .repair_errors = errors,
        .give_up_bitmaps = errors,
        .report = tell_finding,
        .progress = tell_progress,
        .context = &telling,
    };
    int result = read_header(checker);

    if (result < 0) {
        return result;
    }
    progress_begin(&telling.progress, "qcow2ctl", what, "L2 tables");
    result = check_image(checker->header, checker->file, checker->path, &options, &checker->found,
                         &checker->ctl->error);
    progress_end(&telling.progress);
    return result;
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_repaired(struct checker *checker)
{
    ctl_done(checker->ctl, checker->path, "is repaired");
    if (!checker->human) {
        return;
    }
    printable_line(
        stdout, "%s: repaired: %" PRIu64 " error%s, %" PRIu64 " leaked cluster%s; checking again",
        checker->path, checker->fixed_errors, plural(checker->fixed_errors), checker->fixed_leaks,
        plural(checker->fixed_leaks));
    if (!checker->stream) {
        fflush(stdout);
    }
}

/* Only the file itself tells what a repair has made of it. */
static int verify_repair(struct checker *checker)
{
    checker->fixed_errors = checker->found.fixed_errors;
    checker->fixed_leaks = checker->found.fixed_leaks;
    if (checker->fixed_errors + checker->fixed_leaks == 0) {
        return 0;
    }
    print_findings(checker);
    print_repaired(checker);
    if (checker->human) {
        drop_findings(checker);
    }
    return check_once(checker, false, false, "checking the repaired image");
}

/* As QEMU, whatever was to be repaired: an image without errors is neither dirty nor corrupt. */
static int clear_bits(struct checker *checker)
{
    struct error *error = &checker->ctl->error;
    int result;

    if (!check_is_clean(&checker->found)) {
        return 0;
    }
    result = check_clear_dirty(checker->header, checker->file, checker->path, error);
    return result < 0 ? result
                      : check_clear_corrupt(checker->header, checker->file, checker->path, error);
}

/* Whatever is wrong there keeps nobody from writing to the image: last, when the bits are clear. */
static void check_keys(struct checker *checker)
{
    struct telling telling = {.checker = checker};
    const struct check_options options = {.report = tell_finding, .context = &telling};
    uint64_t unreadable;

    check_encryption(checker->header, checker->file, checker->path, &options, &checker->key_errors,
                     &unreadable);
    checker->found.errors += checker->key_errors;
    checker->found.unreadable += unreadable;
}

static int check(struct checker *checker)
{
    const struct option_number *repair = &checker->flags->repair;
    bool errors = repair->set && repair->value == CHECK_REPAIR_ALL;
    int result = check_once(checker, repair->set, errors,
                            repair->set ? "checking and repairing" : "checking");

    if (result == 0 && repair->set) {
        result = verify_repair(checker);
    }
    if (result == 0 && repair->set) {
        result = clear_bits(checker);
    }
    if (result == 0) {
        check_keys(checker);
    }
    return result;
}

/* --- The result -------------------------------------------------------------------- */

static void put_unless_zero(struct json *object, const char *key, uint64_t number)
{
    if (number != 0) {
        json_put_number(object, key, number);
    }
}

static struct json *findings_json(const struct checker *checker)
{
    struct json *array = json_new_array();
    size_t kept = kept_findings(checker), i;

    for (i = 0; i < kept; i++) {
        struct json *finding = json_new_object();

        json_put_text(finding, "kind", kind_name(checker->findings[i].kind));
        json_put_text(finding, "text", checker->findings[i].line);
        json_add(array, finding);
    }
    return array;
}

/* The keys of qemu-img check, of which it leaves out the same; and the findings. */
static int print_json(const struct checker *checker)
{
    const struct check_result *found = &checker->found;
    struct json *object = json_new_object();
    int result;

    json_put_text(object, "filename", checker->path);
    json_put_text(object, "format", "qcow2");
    json_put_number(object, "check-errors", found->unreadable);
    put_unless_zero(object, "image-end-offset", found->image_end_offset);
    put_unless_zero(object, "corruptions", found->errors);
    put_unless_zero(object, "leaks", found->leaks);
    put_unless_zero(object, "corruptions-fixed", checker->fixed_errors);
    put_unless_zero(object, "leaks-fixed", checker->fixed_leaks);
    put_unless_zero(object, "total-clusters", found->total_clusters);
    put_unless_zero(object, "allocated-clusters", found->allocated_clusters);
    put_unless_zero(object, "fragmented-clusters", found->fragmented_clusters);
    put_unless_zero(object, "compressed-clusters", found->compressed_clusters);
    if (checker->finding_count > 0) {
        json_put(object, "findings", findings_json(checker));
        put_unless_zero(object, "findings-omitted",
                        checker->finding_count - kept_findings(checker));
    }
    result = ctl_print_json(checker->ctl, object);
    json_free(object);
    return result;
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static void print_statistics(const struct check_result *found)
{
    if (found->total_clusters > 0 && found->allocated_clusters > 0) {
        printable_line(stdout,
                       "%" PRIu64 " of %" PRIu64 " clusters allocated (%.2f %%), %.2f %% of them "
                       "fragmented, %.2f %% compressed",
                       found->allocated_clusters, found->total_clusters,
                       percent(found->allocated_clusters, found->total_clusters),
                       percent(found->fragmented_clusters, found->allocated_clusters),
                       percent(found->compressed_clusters, found->allocated_clusters));
    }
    printable_line(stdout, "What is in use ends at %" PRIu64 " bytes of the file",
                   found->image_end_offset);
}

/* What the numbers do not say. */
static void print_notes(const struct checker *checker)
{
    const struct header *header = checker->header;

    if ((header->incompatible_features & INCOMPATIBLE_DIRTY) != 0) {
        printable_line(stdout,
                       "It is marked dirty: it was not closed properly, and a repair is due");
    }
    if ((header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0) {
        printable_line(stdout,
                       "It is marked corrupt: no program writes to it before it is repaired");
    }
    if (header->external_data_file) {
        printable_line(stdout, "Its data is in an external data file, which was not looked at");
    }
    if (checker->found.overlaps > 0) {
        printable_line(stdout,
                       "Copy what can be read: of %" PRIu64
                       " cluster%s in use twice it cannot be told "
                       "what is right",
                       checker->found.overlaps, plural(checker->found.overlaps));
    }
}

static void print_remedy(const struct checker *checker)
{
    const struct check_result *found = &checker->found;

    if (checker->key_errors > 0) {
        printable_line(stdout, "No repair mends an encryption header; make new slots with qcow2ctl "
                               "amend -o encrypt.state=active, and copy the disk with qcow2ctl "
                               "convert while a key opens it");
    }
    if (found->errors > checker->key_errors && checker->flags->repair.set &&
        checker->flags->repair.value == CHECK_REPAIR_ALL) {
        printable_line(stdout,
                       "What is left cannot be repaired; copy what can be read to a new image");
    } else if (found->errors > checker->key_errors) {
        printable_line(
            stdout, "Do not write to it; qcow2ctl check --repair=all repairs what can be repaired");
    } else if (found->leaks > 0) {
        printable_line(
            stdout, "Leaks cost space, and do no harm; qcow2ctl check --repair=leaks frees them");
    }
}

static void print_summary(const struct checker *checker)
{
    const struct check_result *found = &checker->found;

    print_findings(checker);
    if (found->errors + found->leaks + found->unreadable == 0) {
        printable_line(stdout, "%s: in order", checker->path);
    } else {
        printable_line(stdout, "%s: %" PRIu64 " error%s, %" PRIu64 " leaked cluster%s",
                       checker->path, found->errors, plural(found->errors), found->leaks,
                       plural(found->leaks));
    }
    print_notes(checker);
    print_remedy(checker);
    print_statistics(found);
}

static int print_result(const struct checker *checker)
{
    if (checker->flags->common.output.value == CTL_OUTPUT_JSON) {
        return print_json(checker);
    }
    if (checker->human) {
        print_summary(checker);
    }
    return 0;
}

static int exit_status(struct checker *checker)
{
    const struct check_result *found = &checker->found;

    if (found->unreadable > 0) {
        error_set(&checker->ctl->error, EIO,
                  "%s: the check is not complete: %" PRIu64 " table%s could not be read; look at "
                  "the host's disk, or copy the image to another",
                  checker->path, found->unreadable, plural(found->unreadable));
        return CHECK_STATUS_FAILED;
    }
    if (found->errors > 0) {
        return CHECK_STATUS_ERRORS;
    }
    return found->leaks > 0 ? CHECK_STATUS_LEAKS : CHECK_STATUS_CLEAN;
}

/* --- The command ------------------------------------------------------------------- */

static int open_file(struct checker *checker)
{
    const struct check_flags *flags = checker->flags;
    struct store_file_options options = {
        .access = STORE_READ,
        .cache = STORE_CACHE_WRITEBACK,
        .no_locks = ctl_no_locks(&flags->common),
    };
    const struct ctl_box box = {.images = {checker->path}};

    if (flags->repair.set && flags->common.sandbox.value == CTL_SANDBOX_STRICT) {
        return error_set(&checker->ctl->error, EINVAL,
                         "%s: --repair writes, which is not done in a box; leave out "
                         "--sandbox=strict",
                         checker->path);
    }
    if (flags->repair.set) {
        options.access = STORE_WRITE;
    } else if (flags->common.force_share.value) {
        options.access = STORE_READ_SHARED;
    }
    if (!flags->repair.set && ctl_box_enter(checker->ctl, &flags->common, &box) < 0) {
        return -checker->ctl->error.code;
    }
    return store_file_open(checker->path, "image", &options, &checker->file, &checker->ctl->error);
}

static int check_and_print(struct checker *checker)
{
    int status = CHECK_STATUS_FAILED;

    if (open_file(checker) < 0) {
        return CHECK_STATUS_FAILED;
    }
    store_may_start_threads(checker->file);
    if (check(checker) == 0 && print_result(checker) == 0) {
        status = exit_status(checker);
    } else {
        print_findings(checker); /* up to where it failed */
    }
    drop_findings(checker);
    header_free(checker->header);
    store_close(checker->file);
    return status;
}

static int run_check(struct ctl *ctl)
{
    const struct check_flags *flags = ctl->options;
    bool json = flags->common.output.value == CTL_OUTPUT_JSON;
    struct checker *checker;
    int status;

    if (flags->repair.set && flags->common.force_share.value) {
        error_set(&ctl->error, EINVAL,
                  "--repair and --force-share do not go together: nothing is repaired while "
                  "another program writes");
        return CTL_USAGE;
    }
    if (json && json_require(&ctl->error) < 0) {
        return CHECK_STATUS_FAILED;
    }
    checker = calloc(1, sizeof(*checker));
    if (checker == NULL) {
        error_set(&ctl->error, ENOMEM, "out of memory while starting");
        return CHECK_STATUS_FAILED;
    }
    checker->ctl = ctl;
    checker->flags = flags;
    checker->path = ctl->operands[0];
    checker->human = !json && !flags->common.quiet.value;
    checker->stream = checker->human && flags->verbose.value;
    status = check_and_print(checker);
    free(checker);
    return status;
}

static const struct option_spec check_flags[] = {
    FLAG_FORMAT(struct check_flags),
    {.name = "repair",
     .letter = 'r',
     .type = OPTION_CHOICE,
     .field = offsetof(struct check_flags, repair),
     .choices = "leaks all",
     .value_name = "WHAT",
     .help = "repair it: leaks frees clusters that nothing refers to; all also corrects errors"},
    FLAG_FORCE_SHARE(struct check_flags),
    FLAG_NBDKIT(struct check_flags),
    FLAG_LOCKING(struct check_flags),
    FLAG_SANDBOX(struct check_flags),
    FLAG_OUTPUT(struct check_flags),
    FLAG_JSON(struct check_flags),
    {.name = "verbose",
     .type = OPTION_BOOL,
     .field = offsetof(struct check_flags, verbose),
     .help = "print every finding, not only the first 100"},
    FLAG_QUIET(struct check_flags),
    {.name = NULL},
};

const struct command check_command = {
    .name = "check",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "find, and repair, what is wrong with an image",
    .description =
        "Counts all that an image refers to (tables, snapshots, bitmaps, data), compares\n"
        "that with its refcounts and COPIED bits, and says what is wrong. Backing files\n"
        "and an external data file need not be there.\n"
        "\n"
        "A repair changes refcounts and COPIED bits, makes destroyed refcount tables and\n"
        "incomplete snapshot tables anew, and leaves the data as it is. It can be cut off\n"
        "at any moment and begun again. Afterwards the image is checked once more, and\n"
        "where no error is left its dirty and corrupt marks are taken away.\n"
        "\n"
        "Of an encrypted image the LUKS header is looked at, without a key: slots in use\n"
        "that cannot be, or overlap each other, the header or the payload, are errors;\n"
        "fewer than 1000 iterations are a note. No repair changes any of that.\n"
        "\n"
        "A full image of 64 TiB takes about 150 MiB of memory, one of 1 TiB about 5 MiB.\n"
        "\n"
        "Exit status, as of qemu-img check: 0 in order, 1 the check failed, 2 errors, 3\n"
        "leaks alone; 64 when the command line is wrong.\n"
        "\n",
    .examples = "  qcow2ctl check disk.qcow2\n"
                "  qcow2ctl check --repair=all disk.qcow2\n"
                "  qcow2ctl check --json disk.qcow2\n",
    .options_size = sizeof(struct check_flags),
    .flags = check_flags,
    .run = run_check,
};
