/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/command.h"

#include "admin/audit.h"
#include "admin/info.h"
#include "admin/inspect.h"
#include "ctl/box.h"
#include "ctl/info_text.h"
#include "ctl/open.h"
#include "ctl/told_traces.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct info_options {
    struct common_flags common;
    struct option_bool backing_chain;
    struct option_bool fragmentation;
    struct option_bool audit;
};

/* What one run has gathered. */
struct gathered {
    struct inspection *inspection;
    struct audit *audit;
    struct info_fragmentation fragmentation;
    struct info_extras extras;
};

/* --- What takes long ----------------------------------------------------------------- */

static void begin_phase(void *context, const char *what, const char *unit)
{
    struct progress *progress = context;

    progress_end(progress);
    progress_begin(progress, "qcow2ctl", what, unit);
}

/* Pieces of data in the image file; 0 where the host cannot tell. */
static uint64_t count_host_extents(const struct inspection *inspection)
{
    uint64_t offset = 0, count = 0, length;
    bool is_data, was_data = false;

    while (offset < inspection->info.size &&
           store_extent(inspection->file, offset, inspection->info.size - offset, &is_data,
                        &length) == 0 &&
           length > 0) {
        count += is_data && !was_data;
        was_data = is_data;
        offset += length;
    }
    return count;
}

static int count_clusters(struct ctl *ctl, struct gathered *gathered, struct progress *progress)
{
    struct inspection *inspection = gathered->inspection;
    const struct check_options options = {.progress = progress_show, .context = progress};
    const char *obstacle = inspect_obstacle(inspection);

    if (obstacle != NULL) {
        return error_set(&ctl->error, EINVAL, "%s: its clusters cannot be counted: %s",
                         inspection->path, obstacle);
    }
    begin_phase(progress, "counting clusters", "L1 entries");
    return check_image(inspection->header, inspection->file, inspection->path, &options,
                       &gathered->fragmentation.clusters, &ctl->error);
}

static int run_audit(struct ctl *ctl, struct gathered *gathered, struct progress *progress)
{
    const struct audit_options options = {
        .phase = begin_phase,
        .progress = progress_show,
        .context = progress,
    };

    if (audit_image(gathered->inspection, &options, &gathered->audit) < 0) {
        return error_set(&ctl->error, ENOMEM, "%s: out of memory", gathered->inspection->path);
    }
    gathered->extras.audit = gathered->audit;
    gathered->fragmentation.clusters = gathered->audit->clusters;
    return 0;
}

/* The audit counts the clusters as well. */
static int gather(struct ctl *ctl, struct gathered *gathered)
{
    const struct info_options *options = ctl->options;
    struct progress progress = {0};
    bool counted = false;
    int result = 0;

    if (options->audit.value) {
        ctl_tell_inspected_traces(ctl, gathered->inspection);
        result = run_audit(ctl, gathered, &progress);
        counted = result == 0 && gathered->audit->counted;
    } else if (options->fragmentation.value) {
        result = count_clusters(ctl, gathered, &progress);
        counted = result == 0;
    }
    progress_end(&progress);
    if (counted) {
        gathered->fragmentation.host_extents = count_host_extents(gathered->inspection);
        gathered->extras.fragmentation = &gathered->fragmentation;
    }
    return result;
}

/* --- What is printed ----------------------------------------------------------------- */

static int print_json(struct ctl *ctl, const struct gathered *gathered)
{
    const struct info_options *options = ctl->options;
    struct json *json = options->backing_chain.value
                            ? info_json_list(gathered->inspection, &gathered->extras)
                            : info_json(gathered->inspection, &gathered->extras);
    int result = ctl_print_json(ctl, json);

    json_free(json);
    return result;
}

static void print_text(const struct ctl *ctl, const struct gathered *gathered)
{
    const struct info_options *options = ctl->options;
    const struct inspection *image = gathered->inspection;

    info_text(image, &gathered->extras, !options->backing_chain.value, stdout);
    while (options->backing_chain.value && (image = image->backing) != NULL) {
        putchar('\n');
        info_text(image, NULL, false, stdout);
    }
}

/* The first problem stands for all; the others were printed. */
static void tell_problem(struct ctl *ctl, const struct inspection *inspection)
{
    size_t count = inspect_problem_count(inspection);

    if (count > 1) {
        error_set(&ctl->error, EINVAL, "%s (and %zu more, listed under problems)",
                  inspect_problem(inspection), count - 1);
    } else if (count > 0) {
        error_set(&ctl->error, EINVAL, "%s", inspect_problem(inspection));
    }
}

static int show(struct ctl *ctl, struct gathered *gathered)
{
    const struct info_options *options = ctl->options;
    int result = gather(ctl, gathered);

    if (result < 0 && result != -EINVAL) {
        return CTL_FAILED;
    }
    if (options->common.output.value == CTL_OUTPUT_JSON && !options->common.quiet.value) {
        result = print_json(ctl, gathered) < 0 ? -EIO : result;
    } else if (!options->common.quiet.value) {
        print_text(ctl, gathered);
    }
    if (result == 0 && !options->audit.value) {
        tell_problem(ctl, gathered->inspection);
    }
    return result < 0 || ctl->error.code != 0 ? CTL_FAILED : CTL_OK;
}

static int run_info(struct ctl *ctl)
{
    const struct info_options *options = ctl->options;
    const struct inspect_options how = {
        .access = options->common.force_share.value ? STORE_READ_SHARED : STORE_READ,
        .names = ctl_names(&options->common),
    };
    const struct ctl_box box = {.images = {ctl->operands[0]}};
    struct gathered gathered = {0};
    int status;

    if (options->common.output.value == CTL_OUTPUT_JSON && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }
    if (ctl_box_enter(ctl, &options->common, &box) < 0 ||
        inspect_open(ctl->operands[0], &how, &gathered.inspection, &ctl->error) < 0) {
        return CTL_FAILED;
    }
    status = show(ctl, &gathered);
    audit_free(gathered.audit);
    inspect_close(gathered.inspection);
    return status;
}

/* --- The command --------------------------------------------------------------------- */

static const struct option_spec info_flags[] = {
    {.name = "backing-chain",
     .type = OPTION_BOOL,
     .field = offsetof(struct info_options, backing_chain),
     .help = "tell of each image of the chain what is told of the first; as JSON, an array"},
    {.name = "fragmentation",
     .type = OPTION_BOOL,
     .field = offsetof(struct info_options, fragmentation),
     .help = "count the clusters that are allocated, compressed and fragmented; reads all L2 "
             "tables and refcounts"},
    {.name = "audit",
     .type = OPTION_BOOL,
     .field = offsetof(struct info_options, audit),
     .help = "list what an examiner should know, graded note, warning or danger; reads all L2 "
             "tables and refcounts, and whatever no table refers to"},
    FLAG_JSON(struct info_options),
    FLAG_OUTPUT(struct info_options),
    FLAG_FORMAT(struct info_options),
    FLAG_QUIET(struct info_options),
    FLAG_FORCE_SHARE(struct info_options),
    FLAG_TRUST_NAMES(struct info_options),
    FLAG_FOLLOW(struct info_options),
    FLAG_SANDBOX(struct info_options),
    {.name = NULL},
};

const struct command info_command = {
    .name = "info",
    .operands_text = "IMAGE",
    .min_operands = 1,
    .max_operands = 1,
    .summary = "describe an image and its backing chain, or audit it",
    .description =
        "Tells what qemu-img info tells of an image, and more: header extensions,\n"
        "features, snapshots, bitmaps, the cache sizes that cover the whole disk, the\n"
        "backing chain.\n\n"
        "An image that cannot be opened (its header is damaged, a file is missing, a\n"
        "feature is unknown, it is encrypted) is described as far as it can be\n"
        "understood; then a sentence says what is wrong, and the exit status is 1. With\n"
        "--audit that is one of the findings, and the exit status is 0 when the audit\n"
        "came to its end.\n",
    .examples = "  qcow2ctl info disk.qcow2\n"
                "  qcow2ctl info --json --backing-chain disk.qcow2\n"
                "  qcow2ctl info --audit evidence.qcow2\n",
    .options_size = sizeof(struct info_options),
    .flags = info_flags,
    .run = run_info,
};
