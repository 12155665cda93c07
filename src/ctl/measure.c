/* SPDX-License-Identifier: MIT */
/* qcow2ctl measure: how large the file of a copy will be, before it is made. */
#include "config.h"

#include "admin/create.h"
#include "ctl/box.h"
#include "ctl/command.h"
#include "ctl/create_values.h"
#include "ctl/disk.h"
#include "ctl/map_walk.h"
#include "meta/bitmap.h"
#include "meta/format.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define SECTOR UINT64_C(512)

struct measure_options {
    struct create_values values; /* first: create_values[] is of it */
    struct common_flags common;
    struct option_number format, target_format, size;
    char *snapshot;
};

struct measuring {
    struct ctl *ctl;
    const struct measure_options *options;
    const char *path; /* NULL: of an empty disk of --size */
    struct ctl_disk disk;
    uint64_t size; /* of the disk, bytes */
    struct create_plan plan;
    uint64_t required, fully_allocated; /* bytes */
    bool has_bitmaps;                   /* the copy could have those of the disk */
    uint64_t bitmaps;                   /* what they would take more, bytes */
};

/* --- What it is about ------------------------------------------------------------------- */

static int check_usage(struct measuring *measuring)
{
    const struct measure_options *options = measuring->options;
    struct error *error = &measuring->ctl->error;
    bool is_raw = options->target_format.set && options->target_format.value == IMAGE_RAW;
    struct create_values values = options->values;

    if (options->size.set == (measuring->path != NULL)) {
        return error_set(error, EINVAL,
                         "%s is to be measured? Give the name of a disk, or the size of an empty "
                         "one with --size",
                         options->size.set ? "Which" : "What");
    }
    if (options->values.size.set) {
        return error_set(error, EINVAL,
                         "-o size: the size is that of the disk; leave it out, or use --size "
                         "without the name of a disk");
    }
    values.preallocation = (struct option_number){0};
    if (is_raw && (create_values_given(&values) ||
                   options->values.preallocation.value == PREALLOCATION_METADATA)) {
        return error_set(error, EINVAL,
                         "-o says what a qcow2 image is to be, and of a raw file there are "
                         "preallocation=off, falloc and full alone; leave it out, or add -O qcow2");
    }
    return create_values_check(&options->values, "measure", error);
}

/* Opens the disk, and plans the image: what is impossible is refused as by create. */
static int prepare(struct measuring *measuring)
{
    const struct measure_options *options = measuring->options;
    const struct ctl_disk_request request = {
        .path = measuring->path,
        .format = options->format,
        .snapshot = options->snapshot,
    };
    const struct ctl_box box = {.images = {measuring->path}, .decrypts = true};
    struct create_parameters parameters = {0};
    int r = 0;

    measuring->size = options->size.value;
    if (measuring->path != NULL) {
        r = ctl_box_enter(measuring->ctl, &options->common, &box);
    }
    if (measuring->path != NULL && r == 0) {
        r = ctl_disk_open(measuring->ctl, &request, &options->common, &measuring->disk);
        if (r == 0) {
            image_may_read_ahead(measuring->disk.image);
        }
        measuring->size = r == 0 ? view_size(measuring->disk.view) : 0;
    }
    if (r != 0) {
        return r;
    }
    create_values_take(&options->values, &parameters);
    parameters.size = measuring->size;
    return create_plan_make(&parameters, measuring->path != NULL ? measuring->path : "the image",
                            &measuring->plan, &measuring->ctl->error);
}

/* --- How much that is -------------------------------------------------------------------- */

/* Clusters of refcount blocks, and of their table, that count `others` and themselves. */
static uint64_t refcount_clusters(const struct header *header, uint64_t others)
{
    uint64_t counts = (header->cluster_size * 8) >> header->refcount_order;
    uint64_t blocks = 0, table = 0, before;

    do {
        before = blocks + table;
        blocks = div_round_up(others + before, counts);
        table = div_round_up(blocks * REFCOUNT_TABLE_ENTRY_BYTES, header->cluster_size);
    } while (blocks + table != before);
    return blocks + table;
}

/* With all tables, of a disk with a place for each cluster; in bytes. */
static uint64_t measure_all(const struct header *header, uint64_t clusters)
{
    uint64_t l2 = div_round_up(clusters * header->l2_entry_bytes, header->cluster_size);
    uint64_t l1 = div_round_up(l2 * L1_ENTRY_BYTES, header->cluster_size);
    uint64_t crypt = div_round_up(header->crypt_header_length, header->cluster_size);
    uint64_t total = 1 + l2 + l1 + crypt + clusters;

    return (total + refcount_clusters(header, total)) << header->cluster_bits;
}

/* Bytes of the clusters that the data of the disk is in. */
static int measure_data(struct measuring *measuring, uint64_t *bytes)
{
    uint64_t cluster_size = measuring->plan.header.cluster_size, behind = 0;
    struct map_extent extent;
    struct progress progress;
    struct map_walk *walk;
    int r = map_walk_open(measuring->disk.view, measuring->disk.image, 0, measuring->size, &walk);

    *bytes = 0;
    if (r != 0) {
        return error_set(&measuring->ctl->error, -r, "%s: out of memory", measuring->path);
    }
    progress_begin(&progress, "qcow2ctl", "measuring the disk", NULL);
    while ((r = map_walk_next(walk, &extent, &measuring->ctl->error)) > 0) {
        uint64_t end = extent.start + extent.length;

        progress_show(&progress, end, measuring->size);
        if (extent.data && !extent.zero && end > behind) {
            uint64_t start = max_u64(round_down(extent.start, cluster_size), behind);

            behind = div_round_up(end, cluster_size) * cluster_size;
            *bytes += behind - start;
        }
    }
    progress_end(&progress);
    map_walk_close(walk);
    return r;
}

static int measure_image(struct measuring *measuring)
{
    const struct create_values *values = &measuring->options->values;
    const struct header *header = &measuring->plan.header;
    uint64_t clusters = div_round_up(header->virtual_size, header->cluster_size);
    uint64_t whole = clusters << header->cluster_bits, data = 0;
    int r = 0;

    if (values->preallocation.value == PREALLOCATION_FALLOC ||
        values->preallocation.value == PREALLOCATION_FULL || values->backing_file != NULL) {
        data = measuring->path != NULL || values->backing_file == NULL ? whole : 0;
    } else if (measuring->path != NULL) {
        r = measure_data(measuring, &data);
    }
    measuring->fully_allocated = measure_all(header, clusters);
    measuring->required = measuring->fully_allocated - whole + data;
    return r;
}

/* The persistent bitmaps of a disk, as large as they can be, in clusters of the copy. */
static int measure_bitmaps(struct measuring *measuring)
{
    const struct header *copy = &measuring->plan.header;
    const struct image *image = measuring->disk.image;
    struct bitmap_directory *directory;
    uint64_t clusters = 0, names = 0;
    int r;

    if (image == NULL || image->header == NULL || image->header->version < 3 || copy->version < 3) {
        return 0;
    }
    r = bitmap_directory_read(image->file, image->header, measuring->path, &directory,
                              &measuring->ctl->error);
    for (size_t i = 0; r == 0 && i < directory->count; i++) {
        const struct bitmap *bitmap = &directory->bitmaps[i];
        uint64_t entries = bitmap_table_entries(copy, bitmap->granularity);

        if ((bitmap->flags & BITMAP_FLAG_IN_USE) == 0) {
            clusters +=
                entries + div_round_up(entries * BITMAP_TABLE_ENTRY_BYTES, copy->cluster_size);
            names += div_round_up(BITMAP_FIXED_LENGTH + strlen(bitmap->name), 8) * 8;
        }
    }
    if (r == 0) {
        bitmap_directory_free(directory);
        measuring->has_bitmaps = true;
        clusters += div_round_up(names, copy->cluster_size);
        measuring->bitmaps = clusters << copy->cluster_bits;
    }
    return r;
}

static int measure(struct measuring *measuring)
{
    const struct option_number *format = &measuring->options->target_format;
    int r;

    if (format->set && format->value == IMAGE_RAW) {
        measuring->required = div_round_up(measuring->size, SECTOR) * SECTOR;
        measuring->fully_allocated = measuring->required;
        return 0;
    }
    r = measure_image(measuring);
    return r == 0 ? measure_bitmaps(measuring) : r;
}

/* --- The command ---------------------------------------------------------------------------- */

static int print_json(struct measuring *measuring)
{
    struct json *object = json_new_object();
    int r;

    json_put_number(object, "required", measuring->required);
    json_put_number(object, "fully-allocated", measuring->fully_allocated);
    if (measuring->has_bitmaps) {
        json_put_number(object, "bitmaps", measuring->bitmaps);
    }
    r = ctl_print_json(measuring->ctl, object);
    json_free(object);
    return r;
}

static int report(struct measuring *measuring)
{
    if (command_prints_json(&measuring->options->common)) {
        return print_json(measuring);
    }
    printable_line(stdout, "required size: %" PRIu64, measuring->required);
    printable_line(stdout, "fully allocated size: %" PRIu64, measuring->fully_allocated);
    if (measuring->has_bitmaps) {
        printable_line(stdout, "bitmaps size: %" PRIu64, measuring->bitmaps);
    }
    return 0;
}

static int run_measure(struct ctl *ctl)
{
    struct measuring measuring = {
        .ctl = ctl,
        .options = ctl->options,
        .path = ctl->operand_count > 0 ? ctl->operands[0] : NULL,
    };
    int r = check_usage(&measuring), status = CTL_USAGE;

    if (r == 0) {
        status = CTL_FAILED;
        r = command_prints_json(&measuring.options->common) ? json_require(&ctl->error) : 0;
    }
    if (r == 0) {
        r = prepare(&measuring);
    }
    if (r == 0) {
        r = measure(&measuring);
    }
    if (r == 0) {
        r = report(&measuring);
    }
    create_plan_release(&measuring.plan);
    ctl_disk_close(&measuring.disk);
    return r == 0 ? CTL_OK : status;
}

#define FIELD(member) offsetof(struct measure_options, member)

static const struct option_spec measure_flags[] = {
    {.name = "format",
     .letter = 'f',
     .type = OPTION_CHOICE,
     .field = FIELD(format),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "what it looks like",
     .help = "the format of DISK: qcow2 or raw"},
    {.name = "target-format",
     .letter = 'O',
     .type = OPTION_CHOICE,
     .field = FIELD(target_format),
     .choices = CTL_DISK_FORMATS,
     .value_name = "FMT",
     .default_text = "qcow2",
     .help = "the format of the copy: qcow2 or raw"},
    {.name = "size",
     .type = OPTION_SIZE,
     .field = FIELD(size),
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "measure an empty disk of this size, in place of DISK"},
    {.name = "snapshot",
     .letter = 'l',
     .type = OPTION_STRING,
     .field = FIELD(snapshot),
     .value_name = "NAME|ID",
     .help = "measure the disk of this internal snapshot, in place of the active state"},
    FLAG_FORCE_SHARE(struct measure_options),
    FLAG_TRUST_NAMES(struct measure_options),
    FLAG_FOLLOW(struct measure_options),
    FLAG_KEY_FILE(struct measure_options),
    FLAG_KEY_ITERATIONS(struct measure_options),
    FLAG_LOCKING(struct measure_options),
    FLAG_SANDBOX(struct measure_options),
    FLAG_JSON(struct measure_options),
    FLAG_OUTPUT(struct measure_options),
    {.name = NULL},
};

const struct command measure_command = {
    .name = "measure",
    .operands_text = "[DISK]",
    .min_operands = 0,
    .max_operands = 1,
    .summary = "tell how large the file of a copy will be",
    .description =
        "Tells how many bytes a copy of a disk needs, and how many when every byte of the\n"
        "disk has been written: for the size of a volume, or to know whether it fits. The\n"
        "first is an upper bound: zeros that were written, and what -c of convert saves,\n"
        "are not known without reading all.\n",
    .examples = "  qcow2ctl measure disk.qcow2\n"
                "  qcow2ctl measure -O qcow2 -o cluster_size=1M --json disk.raw\n"
                "  qcow2ctl measure --size=100G\n",
    .options_size = sizeof(struct measure_options),
    .flags = measure_flags,
    .values = create_values,
    .run = run_measure,
};
