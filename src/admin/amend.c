/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/amend_internal.h"

#include "check/check.h"
#include "disk/snapshots.h"
#include "meta/header_replace.h"
#include "meta/snapshot_write.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- What shall be ------------------------------------------------------------------------ */

static uint32_t target_version(const struct header *header, const struct amend_change *change)
{
    return change->version != 0 ? change->version : header->version;
}

static uint32_t target_order(const struct header *header, const struct amend_change *change)
{
    return change->refcount_bits != 0 ? (uint32_t)__builtin_ctzll(change->refcount_bits)
                                      : header->refcount_order;
}

static bool changes_backing(const struct amend_change *change)
{
    return change->backing_file != NULL || change->backing_format != NULL;
}

static bool is_upgrade(const struct image *image, const struct amend_change *change)
{
    return image->header->version < target_version(image->header, change);
}

static bool is_downgrade(const struct image *image, const struct amend_change *change)
{
    return image->header->version > target_version(image->header, change);
}

static bool changes_size(const struct image *image, const struct amend_change *change)
{
    return change->size.set && change->size.value != image->virtual_size;
}

static bool changes_width(const struct image *image, const struct amend_change *change)
{
    return target_order(image->header, change) != image->header->refcount_order;
}

/* NULL and "" are both no name. */
static bool same_name(const char *a, const char *b)
{
    return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

static char *chosen_name(const char *changed, char *kept)
{
    if (changed == NULL) {
        return kept;
    }
    return *changed != '\0' ? (char *)(uintptr_t)changed : NULL;
}

struct header amend_changed_header(const struct header *header, const struct amend_change *change)
{
    struct header changed = *header;

    if (change->lazy_refcounts.set) {
        changed.compatible_features &= ~COMPATIBLE_LAZY_REFCOUNTS;
        changed.compatible_features |= change->lazy_refcounts.value ? COMPATIBLE_LAZY_REFCOUNTS : 0;
    }
    if (change->data_file_raw.set && !change->data_file_raw.value) {
        changed.autoclear_features &= ~AUTOCLEAR_RAW_EXTERNAL_DATA;
    }
    changed.backing_file = chosen_name(change->backing_file, header->backing_file);
    changed.backing_format = chosen_name(change->backing_format, header->backing_format);
    if (changed.backing_file == NULL) {
        changed.backing_format = NULL;
    }
    changed.data_file = chosen_name(change->data_file, header->data_file);
    return changed;
}

/* The same in another version. */
static void set_version(struct header *header, uint32_t version)
{
    if (version == header->version) {
        return;
    }
    header->version = version;
    if (version == 2) { /* it has no place for them; what they say is true no more, or never was */
        header->incompatible_features = 0;
        header->compatible_features = 0;
        header->autoclear_features = 0;
        header->header_length = HEADER_V2_LENGTH;
    } else {
        header->header_length = HEADER_FULL_LENGTH;
    }
}

/* All of it, as change_header() is to write it. */
static struct header final_header(const struct header *header, const struct amend_change *change)
{
    struct header changed = amend_changed_header(header, change);

    changed.refcount_order = target_order(header, change);
    set_version(&changed, target_version(header, change));
    return changed;
}

/* --- What cannot be --------------------------------------------------------------------------- */

static int refuse(const struct image *image, struct error *error, const char *sentence)
{
    return error_set(error, EINVAL, "%s: %s", image->path, sentence);
}

/* What version 2 cannot say, and no step of ours can change. */
static int check_downgrade(const struct image *image, struct error *error)
{
    const struct header *header = image->header;

    if (header->extended_l2) {
        return refuse(image, error,
                      "has extended L2 entries, which compat=0.10 does not know; make a new image "
                      "with qcow2ctl create and copy the disk to it");
    }
    if (header->external_data_file) {
        return refuse(image, error,
                      "keeps its data in an external data file, which compat=0.10 does not know; "
                      "make a new image without one and copy the disk to it");
    }
    if (header->compression_type != 0) {
        return refuse(image, error,
                      "is compressed with zstd, which compat=0.10 does not know; make a new image "
                      "with compression_type=zlib and copy the disk to it");
    }
    if (header->crypt_method != CRYPT_NONE) { /* its zeros would be data, which wants the key */
        return refuse(image, error,
                      "is encrypted, and is left at compat=1.1; make a new image and copy the disk "
                      "to it");
    }
    if (header->bitmap_count > 0) {
        return error_set(error, EINVAL,
                         "%s: has %" PRIu32 " persistent bitmaps, which compat=0.10 could not "
                         "keep valid; remove them first (qcow2ctl bitmap --remove)",
                         image->path, header->bitmap_count);
    }
    return 0;
}

static int check_version(const struct image *image, const struct amend_change *change,
                         struct error *error)
{
    const struct header *header = image->header;

    if (target_version(header, change) > 2) {
        return 0;
    }
    if (change->lazy_refcounts.set && change->lazy_refcounts.value) {
        return refuse(image, error,
                      "lazy refcounts need compatibility level 1.1; add compat=1.1, or leave out "
                      "lazy_refcounts=on");
    }
    if (target_order(header, change) != REFCOUNT_ORDER_V2) {
        return error_set(error, EINVAL,
                         "%s: refcounts of %u bits need compatibility level 1.1, in 0.10 all have "
                         "16; use refcount_bits=16, or compat=1.1",
                         image->path, 1U << target_order(header, change));
    }
    return is_downgrade(image, change) ? check_downgrade(image, error) : 0;
}

static int check_refcount_bits(const struct image *image, const struct amend_change *change,
                               struct error *error)
{
    uint64_t bits = change->refcount_bits;

    if (bits == 0 || (is_power_of_two(bits) && bits <= UINT64_C(1) << REFCOUNT_ORDER_MAX)) {
        return 0;
    }
    return error_set(error, EINVAL,
                     "%s: refcount_bits=%" PRIu64 " is not possible: refcounts have 1, 2, 4, 8, "
                     "16, 32 or 64 bits",
                     image->path, bits);
}

static int check_data_file(const struct image *image, const struct amend_change *change,
                           struct error *error)
{
    const struct header *header = image->header;
    bool raw = (header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;

    if (change->data_file != NULL && !header->external_data_file) {
        return refuse(image, error,
                      "keeps its data in itself; for an external data file make a new image with "
                      "qcow2ctl create -o data_file=PATH and copy the disk to it");
    }
    if (change->data_file != NULL && *change->data_file == '\0') {
        return refuse(image, error,
                      "its data is in an external data file, whose name it must record; give "
                      "data_file=PATH");
    }
    if (change->data_file_raw.set && change->data_file_raw.value && !raw) {
        return refuse(image, error,
                      "data_file_raw=on cannot be set afterwards: the data file may hold what the "
                      "disk does not show; make a new image with data_file_raw=on and copy the "
                      "disk to it");
    }
    return 0;
}

static int check_backing(const struct image *image, const struct amend_change *change,
                         struct error *error)
{
    const struct header *header = image->header;
    const char *file = chosen_name(change->backing_file, header->backing_file);
    const char *format = change->backing_format != NULL ? change->backing_format : "";

    if (!changes_backing(change)) {
        return 0;
    }
    if (file == NULL && *format != '\0') {
        return error_set(error, EINVAL,
                         "%s: backing_fmt=%s comes without a backing file; add backing_file=PATH",
                         image->path, format);
    }
    if (change->backing_file != NULL && file != NULL && change->backing_format == NULL) {
        return error_set(error, EINVAL,
                         "%s: backing_file=%s comes without its format; add backing_fmt=qcow2 or "
                         "backing_fmt=raw",
                         image->path, file);
    }
    if (file != NULL && change->backing_file != NULL &&
        (header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0) {
        return refuse(image, error,
                      "its raw data file is all of the disk, so that nothing of a backing file "
                      "can show; leave out backing_file, or first amend data_file_raw=off");
    }
    if (changes_size(image, change) || is_downgrade(image, change)) {
        return refuse(image, error,
                      "which clusters must hold zeros, for another size or for compat=0.10, "
                      "depends on the backing file; amend that by itself");
    }
    return 0;
}

static int check_size(const struct image *image, const struct amend_change *change,
                      struct error *error)
{
    bool old = image->header->version < 3 && !is_upgrade(image, change);

    if (!changes_size(image, change) || image->snapshots->count == 0) {
        return 0;
    }
    if (old) {
        return refuse(image, error,
                      "has snapshots and compat=0.10, where they do not record how large the disk "
                      "was; add compat=1.1");
    }
    if (image->header->version > 2 && !snapshot_table_has_sizes(image->snapshots)) {
        return refuse(image, error, SNAPSHOTS_WITHOUT_SIZES);
    }
    return 0;
}

/* Whether the header has room for it. */
static int check_header(const struct image *image, const struct amend_change *change,
                        struct error *error)
{
    struct header changed = final_header(image->header, change);
    struct header_rest rest;
    uint8_t *bytes;
    size_t length;
    int result = header_rest_read(image->file, image->header, image->path, &rest, error);

    if (result < 0) {
        return result;
    }
    result = header_encode(&changed, &rest, image->path, &bytes, &length, error);
    if (result == 0) {
        free(bytes);
    }
    header_rest_free(&rest);
    return result;
}

static int (*const checks[])(const struct image *image, const struct amend_change *change,
                             struct error *error) = {
    check_refcount_bits, check_version, check_data_file, check_backing, check_size, check_header,
};

int amend_check(const struct image *image, const struct amend_change *change, struct error *error)
{
    int result = 0;

    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && result == 0; i++) {
        result = checks[i](image, change, error);
    }
    return result;
}

/* --- What the steps share --------------------------------------------------------------------- */

int amend_failed(const struct amend *amend, int result, const char *what)
{
    return error_set(amend->error, -result,
                     "%s: amending stopped while %s: %s; what was done so far is no damage, and "
                     "the command can be given again",
                     amend->image->path, what, strerror(-result));
}

void amend_begin(const struct amend *amend, const char *what, const char *unit)
{
    if (amend->options->begin != NULL) {
        amend->options->begin(amend->options->context, what, unit);
    }
}

void amend_progress(const struct amend *amend, uint64_t done, uint64_t total)
{
    if (amend->options->progress != NULL) {
        amend->options->progress(amend->options->context, done, total);
    }
}

static void forward_progress(void *context, uint64_t done, uint64_t total)
{
    amend_progress(context, done, total);
}

/*
 * Counts are kept strictly: nothing here may need the dirty bit, which version 2 has not. Where
 * they are too low nothing may be allocated or freed, so `check` looks for that, but where that was
 * done already, or a header alone is changed.
 */
static int open_writer(struct amend *amend, enum writer_check check)
{
    const struct writer_options options = {
        .discard = true,
        .check = check,
        .refuse_at_once = true,
        .lazy_refcounts = {.set = true, .value = false},
        .progress = forward_progress,
        .progress_context = amend,
    };

    if ((amend->image->header->incompatible_features & INCOMPATIBLE_DIRTY) != 0) {
        amend_begin(amend, "repairing the image", "L2 tables");
    }
    return writer_open(amend->image, &options, &amend->writer, amend->error);
}

/* Ends it after a step that ended with `result`. */
static int close_writer(struct amend *amend, int result)
{
    int closed = writer_close(amend->writer);

    amend->writer = NULL;
    return result == 0 && closed < 0 ? amend_failed(amend, closed, "saving the image") : result;
}

/*
 * What the steps rely on: no refcount is lower than the references are, no table is anything else.
 * Higher it may be (a leak): so no step may take it for their number.
 */
static int check_sound(struct amend *amend)
{
    struct image *image = amend->image;
    const struct check_options options = {.progress = forward_progress, .context = amend};
    struct check_result found;
    int result;

    amend_begin(amend, "checking the image", "L2 tables");
    result = check_image(image->header, image->file, image->path, &options, &found, amend->error);
    if (result == 0 && !check_is_clean(&found)) {
        return error_set(amend->error, EUCLEAN,
                         "%s: is damaged (%" PRIu64 " errors), too much for this change; repair "
                         "it first with qcow2ctl check --repair=all",
                         image->path, max_u64(found.errors + found.unreadable, found.overlaps));
    }
    return result;
}

/* Writes the header, stably, with the present strings of `changed`. */
static int write_header(struct amend *amend, const struct header *changed)
{
    struct image *image = amend->image;
    struct header_rest rest;
    struct gate *gate;
    int result;

    result = header_rest_read(image->file, image->header, image->path, &rest, amend->error);
    if (result < 0) {
        return result;
    }
    result = gate_create(image->header, image->file, &gate); /* no writer is open, which has one */
    if (result < 0) {
        error_set(amend->error, ENOMEM, "%s: out of memory", image->path);
    } else {
        result = header_replace(gate, image->file, changed, &rest, image->path, amend->error);
        gate_destroy(gate);
    }
    header_rest_free(&rest);
    return result;
}

/* --- The steps -------------------------------------------------------------------------------- */

static int upgrade_snapshots(struct amend *amend)
{
    struct image *image = amend->image;
    const struct header *header = image->header;
    uint8_t *bytes;
    size_t length;
    bool begun;
    int result;

    result = snapshot_table_upgrade(image->file, header, image->snapshots, image->path, &bytes,
                                    &length, amend->error);
    if (result < 0 || bytes == NULL) {
        return result;
    }
    result = writer_replace_snapshot_table(amend->writer, bytes, length, header->snapshot_count,
                                           &begun, amend->error);
    free(bytes);
    if (result < 0) {
        return amend_failed(amend, result, "giving its snapshots what compat=1.1 asks for");
    }
    return 0;
}

/* The first step: it repairs a dirty image, and refuses a damaged one. */
static int prepare(struct amend *amend)
{
    const struct amend_change *change = amend->change;
    struct image *image = amend->image;
    bool snapshots = is_upgrade(image, change) && !snapshot_table_has_sizes(image->snapshots);
    bool all_counts = snapshots || is_downgrade(image, change);
    bool some_counts = !all_counts && changes_size(image, change);
    int result = open_writer(amend, some_counts ? WRITER_CHECK_AUTO : WRITER_CHECK_OFF);

    if (result < 0) {
        return result;
    }
    if (all_counts) {
        result = check_sound(amend);
    }
    if (result == 0 && snapshots) {
        result = upgrade_snapshots(amend);
    }
    return close_writer(amend, result);
}

/* The header of version 3 alone, for steps that version 2 has no words for. */
static int upgrade_first(struct amend *amend)
{
    struct header *header = amend->image->header;
    struct header changed = *header;
    int result;

    if (!is_upgrade(amend->image, amend->change) || !(changes_width(amend->image, amend->change) ||
                                                      changes_size(amend->image, amend->change))) {
        return 0;
    }
    set_version(&changed, 3);
    result = write_header(amend, &changed);
    if (result == 0) {
        *header = changed;
    }
    return result;
}

static int change_width(struct amend *amend)
{
    struct image *image = amend->image;
    const struct check_options options = {.progress = forward_progress, .context = amend};

    if (!changes_width(image, amend->change)) {
        return 0;
    }
    amend_begin(amend, "counting references", "L2 tables");
    return check_change_width(image->header, image->file, image->path,
                              target_order(image->header, amend->change), &options, amend->error);
}

/* The size, and what compat=0.10 cannot say. */
static int change_disk(struct amend *amend)
{
    const struct amend_change *change = amend->change;
    bool down = is_downgrade(amend->image, change);
    int result;

    if (!changes_size(amend->image, change) && !down) {
        return 0;
    }
    result = open_writer(amend, WRITER_CHECK_AUTO);
    if (result < 0) {
        return result;
    }
    if (changes_size(amend->image, change)) {
        result = writer_resize(amend->writer, change->size.value, NULL);
        if (result < 0) {
            amend_failed(amend, result, "giving the disk another size");
        }
    }
    if (result == 0 && down) {
        result = amend_expand_zeros(amend);
    }
    return close_writer(amend, result);
}

static int change_header(struct amend *amend)
{
    const struct header *header = amend->image->header;
    struct header changed = final_header(header, amend->change);

    if (changed.version == header->version &&
        changed.compatible_features == header->compatible_features &&
        changed.autoclear_features == header->autoclear_features &&
        same_name(changed.backing_file, header->backing_file) &&
        same_name(changed.backing_format, header->backing_format) &&
        same_name(changed.data_file, header->data_file)) {
        return 0;
    }
    /* R6: what an unknown bit promises may not be true any more. */
    changed.autoclear_features &= AUTOCLEAR_KNOWN;
    return write_header(amend, &changed);
}

void amend_tell_of_bitmaps(const struct image *image, const struct amend_change *change)
{
    const struct header *header = image->header;
    struct header changed = amend_changed_header(header, change);

    if (header->bitmap_count > 0 && (!same_name(changed.backing_file, header->backing_file) ||
                                     !same_name(changed.backing_format, header->backing_format))) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: its persistent bitmaps (%" PRIu32 ") stay as they are; where the new backing "
                 "file shows something else than the old one they do not record it, and are to be "
                 "removed",
                 image->path, header->bitmap_count);
    }
}

static int (*const steps[])(struct amend *amend) = {
    prepare, upgrade_first, change_width, change_disk, change_header,
};

int amend_apply(struct image *image, const struct amend_change *change,
                const struct amend_options *options, struct error *error)
{
    struct amend amend = {
        .image = image,
        .change = change,
        .options = options,
        .error = error,
    };
    int result = 0;

    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && result == 0; i++) {
        result = steps[i](&amend);
    }
    return result;
}
