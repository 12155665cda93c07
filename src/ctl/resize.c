/* SPDX-License-Identifier: MIT */
/* qcow2ctl resize: another size of the disk. */
#include "config.h"

#include "admin/create.h"
#include "ctl/open.h"
#include "ctl/resize.h"
#include "disk/view.h"
#include "meta/format.h"
#include "meta/snapshot_write.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"
#include "util/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR UINT64_C(512)
#define STEP   (UINT64_C(64) << 20) /* bytes that are preallocated at once */

struct resize_options {
    struct common_flags common;
    struct option_bool shrink;
    struct option_number preallocation; /* enum preallocation */
};

/* --- What SIZE means ----------------------------------------------------------------------- */

struct wanted_size {
    char sign; /* '+', '-', or 0 for the size itself */
    uint64_t bytes;
};

static int parse_size(struct ctl *ctl, const char *text, struct wanted_size *wanted)
{
    const char *digits = text;
    int r;

    *wanted = (struct wanted_size){0};
    if (*digits == '+' || *digits == '-') {
        wanted->sign = *digits++;
    }
    r = size_parse(digits, &wanted->bytes);
    if (r == -ERANGE) {
        return error_set(&ctl->error, EINVAL,
                         "the size '%s' is more than 2^63 - 1 bytes, the most that a disk can have",
                         text);
    }
    if (r < 0) {
        return error_set(&ctl->error, EINVAL,
                         "'%s' is not a size; write a number of bytes, or one with a suffix (k, M, "
                         "G, T), with + or - before it for a difference",
                         text);
    }
    return 0;
}

/* The most that the L1 table of 32 MiB maps. */
static uint64_t size_limit(const struct header *header)
{
    uint64_t entries = HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES;
    uint64_t limit = round_down(INT64_MAX, SECTOR), mapped;

    if (checked_mul(entries, UINT64_C(1) << header_l1_entry_bits(header), &mapped)) {
        limit = min_u64(limit, mapped);
    }
    return limit;
}

static int new_size(struct ctl *ctl, const struct image *image, const struct wanted_size *wanted,
                    uint64_t *size)
{
    uint64_t old = image->virtual_size;
    bool fits = true;

    *size = wanted->bytes;
    if (wanted->sign == '+') {
        fits = checked_add(old, wanted->bytes, size);
    } else if (wanted->sign == '-') {
        *size = wanted->bytes < old ? old - wanted->bytes : 0;
    }
    return fits ? resize_check_size(image, *size, &ctl->error)
                : resize_check_size(image, UINT64_MAX, &ctl->error);
}

int resize_check_size(const struct image *image, uint64_t size, struct error *error)
{
    uint64_t limit = size_limit(image->header);
    char text[SIZE_TEXT_MAX];

    if (size == 0) {
        return error_set(error, EINVAL,
                         "%s: the disk of %" PRIu64 " bytes would have none left; a disk has at "
                         "least 512 bytes",
                         image->path, (uint64_t)image->virtual_size);
    }
    if (size > limit) {
        return error_set(error, EFBIG,
                         "%s: with its clusters of %" PRIu64 " bytes the disk can have at most %s "
                         "(%" PRIu64 " bytes); for more, make a new image with a larger "
                         "cluster_size",
                         image->path, image->header->cluster_size, size_format(limit, text), limit);
    }
    if (size % SECTOR != 0) {
        return error_set(error, EINVAL,
                         "%s: %" PRIu64 " bytes is no multiple of 512: a disk has whole sectors; "
                         "%" PRIu64 " would be possible",
                         image->path, size, min_u64(round_down(size, SECTOR) + SECTOR, limit));
    }
    return 0;
}

/* --- What is refused ------------------------------------------------------------------------ */

/* What the disk has behind its new end, as a part of a sentence. */
static int describe_loss(struct ctl *ctl, struct image *image, uint64_t size, char *text,
                         size_t length)
{
    struct view *view;
    uint64_t first;
    int r = view_open_active(image, &view);

    if (r == 0) {
        r = view_seek(view, size, true, NULL, &first);
        view_close(view);
    }
    if (r == 0) {
        snprintf(text, length, "there is data from byte %" PRIu64 " on", first);
    } else if (r == -ENXIO) {
        snprintf(text, length, "no data lies there");
        r = 0;
    } else {
        error_set(&ctl->error, -r, "%s: what lies behind byte %" PRIu64 " cannot be read: %s",
                  image->path, size, strerror(-r));
    }
    return r;
}

int resize_check_shrink(struct ctl *ctl, struct image *image, uint64_t size, const char *remedy)
{
    char loss[96];
    int r = describe_loss(ctl, image, size, loss, sizeof(loss));

    if (r < 0) {
        return r;
    }
    return error_set(&ctl->error, EINVAL,
                     "%s: the disk of %" PRIu64 " bytes would lose all from byte %" PRIu64
                     " on (%s); %s",
                     image->path, (uint64_t)image->virtual_size, size, loss, remedy);
}

/* What is no matter of the numbers alone. */
static int check_change(struct ctl *ctl, struct image *image, uint64_t size)
{
    const struct resize_options *options = ctl->options;
    uint64_t old = image->virtual_size;

    if (size == old) {
        return 0;
    }
    if (image->header->version < 3 && image->snapshots->count > 0) {
        return error_set(&ctl->error, ENOTSUP,
                         "%s: has snapshots and compat=0.10, where they do not record how large "
                         "the disk was; first qcow2ctl amend -o compat=1.1",
                         image->path);
    }
    if (!snapshot_table_has_sizes(image->snapshots) && image->header->version > 2) {
        return error_set(&ctl->error, ENOTSUP, "%s: " SNAPSHOTS_WITHOUT_SIZES, image->path);
    }
    if (size < old && options->preallocation.value != PREALLOCATION_OFF) {
        return error_set(&ctl->error, EINVAL,
                         "%s: only what a disk gains can be preallocated, and %" PRIu64
                         " bytes are fewer than it has; leave out --preallocation",
                         image->path, size);
    }
    if (size < old && !options->shrink.value) {
        return resize_check_shrink(ctl, image, size, "add --shrink if that is what is wanted");
    }
    return 0;
}

/* --- Doing it ----------------------------------------------------------------------------------
 */

int resize_failed(struct ctl *ctl, const struct image *image, uint64_t size, int r)
{
    return error_set(&ctl->error, -r, "%s: the disk could not be given %" PRIu64 " bytes: %s",
                     image->path, size, strerror(-r));
}

/* Makes what is between two sizes as --preallocation says. */
static int preallocate(struct writer *writer, enum preallocation how, uint64_t from, uint64_t to)
{
    struct progress progress;
    uint64_t at = from;
    int r = 0;

    progress_begin(&progress, "qcow2ctl", "preallocating", NULL);
    while (at < to && r == 0) {
        uint64_t length = min_u64(STEP, to - at);

        r = writer_preallocate_sparse(writer, at, length, NULL);
        if (r == 0 && how != PREALLOCATION_METADATA) {
            r = writer_reserve(writer, at, length, how == PREALLOCATION_FULL);
        }
        at += length;
        progress_show(&progress, at - from, to - from);
    }
    progress_end(&progress);
    return r == 0 ? writer_flush(writer) : r;
}

static int resize(struct ctl *ctl, struct image *image, struct writer *writer, uint64_t size)
{
    const struct resize_options *options = ctl->options;
    enum preallocation how = (enum preallocation)options->preallocation.value;
    uint64_t old = image->virtual_size;
    int r;

    r = writer_resize(writer, size, NULL);
    if (r == 0 && size > old && how != PREALLOCATION_OFF) {
        r = preallocate(writer, how, old, size);
        if (r < 0) {
            (void)writer_resize(writer, old, NULL); /* it gained nothing but zeros */
        }
    }
    return r < 0 ? resize_failed(ctl, image, size, r) : 0;
}

static int report_json(struct ctl *ctl, uint64_t old, uint64_t size)
{
    struct json *object = json_new_object();
    int r;

    json_put_text(object, "filename", ctl->operands[0]);
    json_put_text(object, "format", "qcow2");
    json_put_number(object, "virtual-size", size);
    json_put_number(object, "previous-virtual-size", old);
    r = ctl_print_json(ctl, object);
    json_free(object);
    return r;
}

static int report(struct ctl *ctl, uint64_t old, uint64_t size)
{
    const struct resize_options *options = ctl->options;
    char text[SIZE_TEXT_MAX];

    ctl_done(ctl, ctl->operands[0], "is resized");
    if (options->common.quiet.value) {
        return 0;
    }
    if (command_prints_json(&options->common)) {
        return report_json(ctl, old, size);
    }
    printable_line(stdout,
                   "Image resized. The disk has %s (%" PRIu64 " bytes), before %" PRIu64 " bytes.",
                   size_format(size, text), size, old);
    return 0;
}

static int run_resize(struct ctl *ctl)
{
    const struct resize_options *options = ctl->options;
    struct wanted_size wanted;
    struct image *image;
    struct writer *writer;
    uint64_t size, old;
    int r;

    if (command_prints_json(&options->common) && json_require(&ctl->error) < 0) {
        return CTL_FAILED;
    }

    if (parse_size(ctl, ctl->operands[1], &wanted) < 0) {
        return CTL_USAGE;
    }
    r = ctl_open_writer(ctl, ctl->operands[0], &options->common, &image, &writer);
    if (r < 0) {
        return CTL_FAILED;
    }
    old = image->virtual_size;
    r = new_size(ctl, image, &wanted, &size);
    if (r == 0) {
        r = check_change(ctl, image, size);
    }
    if (r == 0) {
        r = resize(ctl, image, writer, size);
    }
    r = ctl_close_writer(ctl, image, writer, r);
    if (r < 0) {
        return CTL_FAILED;
    }
    return report(ctl, old, size) < 0 ? CTL_FAILED : CTL_OK;
}

static const struct option_spec resize_flags[] = {
    FLAG_FORMAT(struct resize_options),
    FLAG_JSON(struct resize_options),
    FLAG_OUTPUT(struct resize_options),
    FLAG_QUIET(struct resize_options),
    {
        .name = "shrink",
        .type = OPTION_BOOL,
        .field = offsetof(struct resize_options, shrink),
        .help = "allow the disk to become smaller; all behind its new end is lost",
    },
    {
        .name = "preallocation",
        .type = OPTION_CHOICE,
        .field = offsetof(struct resize_options, preallocation),
        .choices = "off metadata falloc full",
        .value_name = "MODE",
        .default_text = "off",
        .help = "what is made of what the disk gains: off, nothing; metadata, each cluster gets "
                "its place in the file; falloc, and the host reserves the space; full, and zeros "
                "are written there",
    },
    FLAG_TRUST_NAMES(struct resize_options),
    FLAG_FOLLOW(struct resize_options),
    FLAG_KEY_FILE(struct resize_options),
    FLAG_KEY_ITERATIONS(struct resize_options),
    FLAG_LOCKING(struct resize_options),
    {.name = NULL},
};

const struct command resize_command = {
    .name = "resize",
    .operands_text = "IMAGE [+|-]SIZE",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "make the disk larger or smaller",
    .description = "Makes the disk SIZE bytes large, or larger (+SIZE) or smaller (-SIZE) by as\n"
                   "much. SIZE may have a suffix: k, M, G, T, P, E. What the disk gains reads as\n"
                   "zeros, also where a backing file is longer. What is behind the new end of a\n"
                   "smaller disk is lost: make its partitions and file systems smaller first.\n"
                   "Snapshots keep the size that they have.\n"
                   "\n"
                   "Killed at any moment, the disk has its old size or the new one; the command\n"
                   "can be given again.\n",
    .examples = "  qcow2ctl resize disk.qcow2 +10G\n"
                "  qcow2ctl resize --preallocation=falloc disk.qcow2 40G\n"
                "  qcow2ctl resize --shrink disk.qcow2 5G\n",
    .options_size = sizeof(struct resize_options),
    .flags = resize_flags,
    .run = run_resize,
};
