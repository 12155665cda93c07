/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/command.h"

#include "admin/salvage.h"
#include "ctl/box.h"
#include "ctl/interrupt.h"
#include "ctl/open.h"
#include "ctl/salvage_map.h"
#include "ctl/told_traces.h"
#include "disk/view.h"
#include "util/checked.h"
#include "util/json.h"
#include "util/printable.h"
#include "util/progress.h"
#include "util/size.h"
#include "util/zeros.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE  ((size_t)1 << 20) /* bytes of one read, and of one that failed: */
#define SECTOR ((size_t)512)

struct salvage_flags {
    struct common_flags common;
    struct option_number cluster_size, virtual_size, l1_offset;
    char *map;
};

struct copying {
    struct ctl *ctl;
    const struct image *image;
    struct view *view;
    const char *target;
    int fd;
    struct salvage_map map;
    char *buffer;
    struct progress progress;
    uint64_t size;
    uint64_t reached; /* up to where it is copied */
    uint64_t lost;    /* bytes */
    uint64_t cluster_size;
    uint64_t file_size; /* of the image as it is, bytes */
};

static void note(struct copying *copying, uint64_t offset, uint64_t length, bool lost)
{
    salvage_map_note(&copying->map, offset, lost);
    copying->lost += lost ? length : 0;
}

/* --- Copying --------------------------------------------------------------------------- */

static int write_piece(struct copying *copying, uint64_t offset, const char *bytes, size_t length)
{
    size_t done = 0;

    while (done < length && !is_all_zeros(bytes, length)) {
        ssize_t written = pwrite(copying->fd, bytes + done, length - done, (off_t)(offset + done));

        if (written < 0 && errno != EINTR) {
            return error_set(&copying->ctl->error, errno, "%s: cannot be written: %s",
                             copying->target, strerror(errno));
        }
        done += written > 0 ? (size_t)written : 0;
    }
    return 0;
}

/*
 * How much is lost with a byte where its tables say nothing, or what cannot be: the cluster, or all
 * that a table maps, where that is lost; 0: they say something.
 */
static uint64_t lost_with_tables(const struct copying *copying, uint64_t offset)
{
    const struct header *header = copying->image->header;
    uint64_t size = header->cluster_size;
    struct mapping_fault fault;
    struct view_extent found;

    if (view_lookup_exact(copying->view, offset, 1, &found, &fault) == 0) {
        return 0;
    }
    if (found.image == copying->image && fault.host_offset >= SALVAGE_LOST &&
        fault.host_offset - SALVAGE_LOST < size) {
        size <<= header->l2_bits;
    }
    return size - offset % size;
}

/* Whether the host has nothing there: the file was cut off. */
static bool is_outside(const struct copying *copying, const struct image *image,
                       uint64_t host_offset)
{
    struct store_info info;

    if (image == copying->image && !image->header->external_data_file) {
        return host_offset >= copying->file_size; /* tables that were made lie behind that */
    }
    return store_info(image->data_file, &info) == 0 && host_offset >= info.size;
}

/*
 * How much is lost with a sector that cannot be read, of `rest` bytes from there on: all that was
 * cut off, and of what is compressed the cluster.
 */
static size_t lost_with(const struct copying *copying, uint64_t offset, size_t rest)
{
    uint64_t size = copying->cluster_size, lost = SECTOR;
    struct mapping_fault fault;
    struct view_extent found;

    if (view_lookup_exact(copying->view, offset, rest, &found, &fault) != 0) {
        lost = lost_with_tables(copying, offset);
    } else if (found.extent.kind == EXTENT_COMPRESSED && found.image == copying->image) {
        lost = size - offset % size;
    } else if (found.extent.kind == EXTENT_DATA &&
               is_outside(copying, found.image, found.extent.host_offset)) {
        lost = found.extent.length;
    }
    return (size_t)min_u64(lost > 0 ? lost : SECTOR, rest);
}

/* What cannot be read stays zeros. */
static int copy_sectors(struct copying *copying, uint64_t offset, size_t length)
{
    size_t part;
    int r = 0;

    for (size_t at = 0; at < length && r == 0; at += part) {
        if (interrupt_pending(NULL)) { /* a disk that fails may take long for each */
            return -EINTR;
        }
        part = (size_t)min_u64(SECTOR, length - at);
        bool lost = view_read(copying->view, offset + at, copying->buffer, part) != 0;

        part = lost ? lost_with(copying, offset + at, length - at) : part;
        note(copying, offset + at, part, lost);
        r = lost ? 0 : write_piece(copying, offset + at, copying->buffer, part);
        copying->reached = r == 0 ? offset + at + part : copying->reached;
    }
    return r;
}

static int copy_piece(struct copying *copying, uint64_t offset, size_t length)
{
    if (view_read(copying->view, offset, copying->buffer, length) != 0) {
        return copy_sectors(copying, offset, length);
    }
    note(copying, offset, length, false);
    return write_piece(copying, offset, copying->buffer, length);
}

/* What can be copied, or not, in one piece from `offset` on; how much that is, in *length. */
static int copy_next(struct copying *copying, uint64_t offset, uint64_t *length)
{
    uint64_t rest = copying->size - offset;
    bool is_data = true;

    *length = 0;
    if (view_classify(copying->view, offset, rest, &is_data, length) != 0 || *length == 0) {
        *length = min_u64(lost_with_tables(copying, offset), rest);
        if (*length > 0) {
            note(copying, offset, *length, true);
            return 0;
        }
        is_data = true;
        *length = PIECE - offset % PIECE;
    }
    if (!is_data) {
        note(copying, offset, *length, false);
        return 0;
    }
    *length = min_u64(min_u64(*length, rest), PIECE);
    return copy_piece(copying, offset, (size_t)*length);
}

static int copy_all(struct copying *copying)
{
    int r = 0;

    for (uint64_t offset = 0, length; offset < copying->size && r == 0; offset += length) {
        r = interrupt_pending(NULL) ? -EINTR : copy_next(copying, offset, &length);
        if (r != 0) {
            break;
        }
        copying->reached = min_u64(offset + length, copying->size);
        progress_show(&copying->progress, copying->reached, copying->size);
    }
    return r;
}

/* --- Where to ---------------------------------------------------------------------------- */

static int refuse_target(struct ctl *ctl, const char *target, int reason)
{
    return error_set(&ctl->error, reason, "%s: cannot be made: %s; name a file that does not exist",
                     target, strerror(reason));
}

static int open_target(struct copying *copying)
{
    struct error *error = &copying->ctl->error;

    copying->fd = opener_make(copying->target);
    if (copying->fd < 0) {
        return refuse_target(copying->ctl, copying->target, -copying->fd);
    }
    if (ftruncate(copying->fd, (off_t)copying->size) != 0) {
        return error_set(error, errno, "%s: cannot have %" PRIu64 " bytes: %s", copying->target,
                         copying->size, strerror(errno));
    }
    return 0;
}

/* A piece that is there in part makes room for the map. */
static void drop_piece(const struct copying *copying)
{
    if (copying->reached < copying->size) {
        (void)!ftruncate(copying->fd, (off_t)copying->reached);
        (void)!ftruncate(copying->fd, (off_t)copying->size);
    }
}

static int sync_target(const struct copying *copying, struct error *error)
{
    return fsync(copying->fd) == 0 ? 0
                                   : error_set(error, errno, "%s: cannot be written: %s",
                                               copying->target, strerror(errno));
}

/* Nobody shall take a part of the disk for the whole of it. */
static void discard(struct copying *copying)
{
    struct error ignored;

    (void)salvage_map_close(&copying->map, 0, &ignored);
    if (copying->fd >= 0) {
        (void)!ftruncate(copying->fd, 0); /* also where it cannot be removed */
        (void)opener_remove(copying->target);
    }
    if (copying->map.path != NULL) {
        (void)opener_remove(copying->map.path);
    }
}

/* What there is of TARGET after a failure. */
enum rest {
    REST_NONE,
    REST_PART, /* the map says up to where */
    REST_ALL,
};

/* Behind what has happened. */
static int tell_rest(const struct copying *copying, enum rest rest, int r, struct error *error)
{
    const char *map = copying->map.path;
    struct error said = *error;

    if (r == -EINTR) {
        error_set(&said, EINTR, "%s: was interrupted", copying->target);
    }
    switch (rest) {
    case REST_ALL:
        return error_set(error, -r, "%s; %s is whole all the same", said.text, copying->target);
    case REST_PART:
        return error_set(error, -r,
                         "%s; it holds the disk up to byte %" PRIu64 ", as %s says, and zeros from "
                         "there on",
                         said.text, copying->reached, map);
    default:
        return map != NULL
                   ? error_set(error, -r, "%s; it is removed, and %s, too", said.text, map)
                   : error_set(error, -r, "%s; it is removed (with --map what was copied is kept)",
                               said.text);
    }
}

/* Without a map nothing would tell a part of the disk from the whole. */
static int close_target(struct copying *copying, int r)
{
    struct error *error = &copying->ctl->error, other, *later = r == 0 ? error : &other;
    enum rest rest = REST_NONE;
    int closed = 0;

    if (r != 0) {
        drop_piece(copying);
    }
    if (r == 0 || copying->map.file != NULL) {
        closed = sync_target(copying, later);
        rest = closed != 0 ? REST_NONE : r == 0 ? REST_ALL : REST_PART;
    }
    if (rest != REST_NONE) {
        closed = salvage_map_close(&copying->map, copying->reached, later);
        rest = closed != 0 && rest == REST_PART ? REST_NONE : rest;
    }
    r = r == 0 ? closed : r;
    if (rest == REST_NONE) {
        discard(copying);
    } else if (closed != 0) {
        (void)opener_remove(copying->map.path);
    }
    close(copying->fd);
    return r == 0 ? 0 : tell_rest(copying, rest, r, error);
}

/* --- The command ---------------------------------------------------------------------------- */

static int open_image(struct ctl *ctl, struct salvage_report *report, struct image **image)
{
    const struct salvage_flags *flags = ctl->options;
    const struct store_file_options file = {
        .access = flags->common.force_share.value ? STORE_READ_SHARED : STORE_READ,
        .no_locks = ctl_no_locks(&flags->common),
    };
    struct progress progress;
    const struct salvage_options how = {
        .cluster_size = flags->cluster_size.value,
        .virtual_size = flags->virtual_size.value,
        .l1_offset = flags->l1_offset.value,
        .progress = progress_show,
        .context = &progress,
    };
    const struct cache_options cache = {
        .l2_size = {.value = CACHE_L2_DEFAULT_MIN, .set = true},
    };
    struct image_options options = {
        .access = file.access,
        .names = ctl_names(&flags->common),
        .no_locks = file.no_locks,
        .codec = CODEC_FASTEST,
    };
    int r;

    options.keys = ctl_keys(ctl, &flags->common);
    if (options.keys == NULL) {
        return -EINVAL;
    }
    r = store_file_open(ctl->operands[0], "image", &file, &options.opened, &ctl->error);
    if (r == 0) {
        progress_begin(&progress, "qcow2ctl", "looking for tables", NULL);
        r = salvage_open(options.opened, ctl->operands[0], &how, &options.opened, report,
                         &ctl->error);
        progress_end(&progress);
    }
    if (r == 0) {
        r = image_open(ctl->operands[0], &options, ctl->log, image, &ctl->error);
    }
    if (r == 0) {
        r = image_attach_cache(*image, &cache, &ctl->error);
    }
    return r;
}

static int tell(const struct copying *copying, const struct salvage_report *report)
{
    const struct salvage_flags *flags = copying->ctl->options;
    char text[SIZE_TEXT_MAX], lost[SIZE_TEXT_MAX];

    if (flags->common.quiet.value) {
        return 0;
    }
    if (command_prints_json(&flags->common)) {
        struct json *json = salvage_json(report, copying->ctl->operands[0]);
        int r = ctl_print_json(copying->ctl, json);

        json_free(json);
        return r;
    }
    for (size_t i = 0; i < report->count; i++) {
        const struct salvage_fact *fact = &report->facts[i];

        printable_line(stdout, "%-8s  %-18s %" PRIu64 "%s%s%s",
                       salvage_certainty_name(fact->certainty), fact->what, fact->count,
                       fact->how != NULL ? " (" : "", fact->how != NULL ? fact->how : "",
                       fact->how != NULL ? ")" : "");
    }
    printable_line(stdout, "%s of %s copied, %s lost",
                   size_format(copying->size - copying->lost, text), copying->target,
                   size_format(copying->lost, lost));
    return 0;
}

static int copy_to_target(struct copying *copying)
{
    int r = salvage_map_open(&copying->map, &copying->ctl->error);

    if (r != 0) {
        return r;
    }
    r = open_target(copying);
    if (copying->fd < 0) {
        discard(copying);
        return r;
    }
    if (r == 0) {
        salvage_map_begin(&copying->map, copying->size);
        progress_begin(&copying->progress, "qcow2ctl", "copying", NULL);
        r = copy_all(copying);
        progress_end(&copying->progress);
    }
    return close_target(copying, r);
}

/* A signal that has waited ends the process here, when all is told. */
static void let_signals_through(struct ctl *ctl, int r, const sigset_t *before)
{
    if (r == -EINTR) {
        log_line(ctl->log, LOG_LEVEL_ERROR, "%s", ctl->error.text);
    }
    interrupt_end(before, r);
}

static int copy_out(struct copying *copying, const struct salvage_report *report)
{
    sigset_t before;
    int r;

    copying->buffer = malloc(PIECE);
    if (copying->buffer == NULL) {
        return error_set(&copying->ctl->error, ENOMEM, "out of memory");
    }
    interrupt_hold(&before);
    r = copy_to_target(copying);
    let_signals_through(copying->ctl, r, &before);
    if (r == 0) {
        ctl_done(copying->ctl, copying->target, "is made");
        r = tell(copying, report);
    }
    if (r == 0 && copying->lost > 0) {
        r = error_set(&copying->ctl->error, EIO,
                      "%s: %" PRIu64 " bytes of its disk cannot be read; they are zeros in %s",
                      copying->ctl->operands[0], copying->lost, copying->target);
    }
    free(copying->buffer);
    return r;
}

static int run_salvage(struct ctl *ctl)
{
    const struct salvage_flags *flags = ctl->options;
    struct copying copying = {
        .ctl = ctl, .target = ctl->operands[1], .map = {.path = flags->map}, .fd = -1};
    const struct ctl_box box = {
        .images = {ctl->operands[0]},
        /* A name that it becomes is what lets it be removed again. */
        .makes = {{.path = ctl->operands[1], .becomes = ctl->operands[1]},
                  {.path = flags->map, .becomes = flags->map}},
        .decrypts = true,
    };
    struct salvage_report report;
    struct image *image = NULL;
    int r = command_prints_json(&flags->common) ? json_require(&ctl->error) : 0;

    if (r == 0 && flags->map != NULL && strcmp(flags->map, copying.target) == 0) {
        r = error_set(&ctl->error, EINVAL,
                      "%s: cannot be both the copy of the disk and the map; name another file with "
                      "--map",
                      copying.target);
    }
    if (r == 0 && access(copying.target, F_OK) == 0) { /* sooner than there is a map of nothing */
        r = refuse_target(ctl, copying.target, EEXIST);
    }
    if (r == 0) {
        r = ctl_box_enter(ctl, &flags->common, &box);
    }
    if (r == 0) {
        r = open_image(ctl, &report, &image);
    }
    if (r == 0) {
        r = view_open_active(image, &copying.view);
    }
    if (r == 0) {
        ctl_tell_traces(ctl, image);
        copying.image = image;
        copying.size = view_size(copying.view);
        copying.cluster_size = image->header->cluster_size;
        copying.file_size = report.file_size;
        r = copy_out(&copying, &report);
    }
    view_close(copying.view);
    image_close(image);
    return r == 0 ? CTL_OK : CTL_FAILED;
}

#define FIELD(name) offsetof(struct salvage_flags, name)

static const struct option_spec salvage_flags[] = {
    {.name = "map",
     .type = OPTION_STRING,
     .field = FIELD(map),
     .value_name = "FILE",
     .help = "make a map of what was read and what was not, as ddrescue writes it"},
    {.name = "cluster-size",
     .type = OPTION_SIZE,
     .field = FIELD(cluster_size),
     .min = 512,
     .max = UINT64_C(2) << 20,
     .value_name = "SIZE",
     .help = "the cluster size, in place of what the header says or the tables look like"},
    {.name = "virtual-size",
     .type = OPTION_SIZE,
     .field = FIELD(virtual_size),
     .min = 1,
     .max = INT64_MAX,
     .value_name = "SIZE",
     .help = "the size of the disk, likewise"},
    {.name = "l1-offset",
     .type = OPTION_SIZE,
     .field = FIELD(l1_offset),
     .min = 512,
     .max = INT64_MAX,
     .value_name = "OFFSET",
     .help = "where in the file the L1 table is, likewise"},
    FLAG_FORCE_SHARE(struct salvage_flags),
    FLAG_TRUST_NAMES(struct salvage_flags),
    FLAG_FOLLOW(struct salvage_flags),
    FLAG_KEY_FILE(struct salvage_flags),
    FLAG_KEY_ITERATIONS(struct salvage_flags),
    FLAG_LOCKING(struct salvage_flags),
    FLAG_SANDBOX(struct salvage_flags),
    {.name = "json",
     .type = OPTION_PRESET,
     .field = FIELD(common.output),
     .min = CTL_OUTPUT_JSON,
     .help = "print JSON: what is certain, deduced and missing"},
    FLAG_OUTPUT(struct salvage_flags),
    FLAG_QUIET(struct salvage_flags),
    {.name = NULL},
};

const struct command salvage_command = {
    .name = "salvage",
    .operands_text = "IMAGE TARGET",
    .min_operands = 2,
    .max_operands = 2,
    .summary = "copy what can be had of the disk of a damaged image to a raw file",
    .description =
        "What the header, the L1 table and L2 tables no longer say is found as well as it\n"
        "can be: by copies that snapshots have, by tables that are recognised by their\n"
        "contents, and by the clusters that are left between those of their neighbours.\n"
        "What is certain, deduced and missing is printed. TARGET is a new file; what\n"
        "cannot be read is zeros in it, and then the exit status is 1. One that is not\n"
        "copied to its end, for want of room or by a signal, is removed; but with --map,\n"
        "which says up to where it is the disk. IMAGE is only read.\n",
    .examples = "  qcow2ctl salvage damaged.qcow2 disk.raw\n"
                "  qcow2ctl salvage --map=disk.map --cluster-size=64k damaged.qcow2 disk.raw\n",
    .options_size = sizeof(struct salvage_flags),
    .flags = salvage_flags,
    .run = run_salvage,
};
