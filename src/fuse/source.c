/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/source.h"

#include "admin/evidence.h"
#include "admin/overlay.h"
#include "admin/salvage.h"
#include "disk/keys.h"
#include "util/checked.h"
#include "util/memory.h"
#include "util/process.h"
#include "util/progress.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_CLUSTERS 2 /* that the check has in memory at a time, at the least */

/* What is being opened, for the functions that have a part in it. */
struct opening {
    const char *path;
    const struct mount_options *options;
    struct log *log;
    struct keys *keys;
    struct read_cache_options read_cache;
};

static const struct read_cache_options *read_cache_of(const struct opening *opening)
{
    return opening->read_cache.path != NULL ? &opening->read_cache : NULL;
}

static int open_overlay(const struct opening *opening, const struct image_options *image,
                        struct source *source, struct error *error)
{
    const struct mount_options *options = opening->options;
    const struct overlay_options overlay = {
        .image = image,
        .file = mount_overlay_file(options),
        .directory = options->overlay_dir,
        .max = options->overlay_max.value,
        .read_only = mount_is_read_only(options),
    };

    return overlay_open(opening->path, &overlay, opening->log, &source->image, error);
}

static void close_image(struct source *source)
{
    overlay_unmake(source->image);
    image_close(source->image);
    source->image = NULL;
}

/* The file of a damaged image, as it should be. */
static int open_damaged(const struct opening *opening, struct image_options *image,
                        struct source *source, struct error *error)
{
    const struct mount_options *options = opening->options;
    const struct store_file_options file = {
        .access = image->access,
        .cache = image->cache,
        .nbd_timeout = image->nbd_timeout,
        .read_cache = image->read_cache,
        .no_locks = image->no_locks,
    };
    struct progress progress;
    const struct salvage_options how = {
        .cluster_size = options->cluster_size.value,
        .virtual_size = options->virtual_size.value,
        .l1_offset = options->l1_offset.value,
        .progress = progress_show,
        .context = &progress,
    };
    struct salvage_report report;
    int r = store_file_open(opening->path, "image", &file, &image->opened, error);

    if (r == 0) {
        progress_begin(&progress, "qcow2fs", "looking for tables", NULL);
        r = salvage_open(image->opened, opening->path, &how, &image->opened, &report, error);
        progress_end(&progress);
    }
    if (r == 0) {
        struct json *json = salvage_json(&report, opening->path);

        source->salvage_json = json_text(json);
        json_free(json);
    }
    return r;
}

/* Who asks for a read cache wants one. */
static int check_read_cache(const struct opening *opening, const struct source *source,
                            struct error *error)
{
    const struct image *image = source->image;

    while (image != NULL && !image_is_on_server(image)) {
        image = image->backing;
    }
    return image != NULL || read_cache_of(opening) == NULL
               ? 0
               : error_set(error, EINVAL,
                           "%s: nothing of this image is on a server, so there is nothing to keep "
                           "in a read cache; leave out read-cache",
                           opening->path);
}

/* As what is said of backing-file: a name in place of another. */
static int check_data_file(const struct opening *opening, const struct source *source,
                           struct error *error)
{
    const struct header *header = image_named(source->image)->header;

    return opening->options->data_file == NULL || (header != NULL && header->external_data_file)
               ? 0
               : error_set(error, EINVAL,
                           "%s: has no external data file, so none can be named in its place; "
                           "leave out -o data-file=",
                           opening->path);
}

static int open_image(const struct opening *opening, enum store_access access,
                      struct source *source, struct error *error)
{
    const struct mount_options *options = opening->options;
    bool has_overlay = mount_has_overlay(options);
    struct image_options image = {
        .format = mount_format(options),
        .recognised = mount_recognises_format(options),
        .access = access,
        .cache = mount_cache_mode(options),
        .nbd_timeout = mount_nbd_timeout(options),
        .read_cache = read_cache_of(opening),
        .names = mount_names(options),
        .no_locks = options->locking.value == MOUNT_LOCKING_OFF,
        .allow_probed = options->allow_probed_backing.value,
        .data_file = options->data_file,
        .backing_file = options->backing_file,
        .at_snapshot = options->at_snapshot,
        .keys = opening->keys,
        .codec = CODEC_FASTEST,
    };
    int r = options->salvage != NULL ? open_damaged(opening, &image, source, error) : 0;

    if (r == 0) {
        r = has_overlay ? open_overlay(opening, &image, source, error)
                        : image_open(opening->path, &image, opening->log, &source->image, error);
    }
    if (r != 0) {
        return r;
    }
    r = check_data_file(opening, source, error);
    if (r != 0) {
        close_image(source);
        return r;
    }
    r = check_read_cache(opening, source, error);
    if (r == 0) {
        r = image_attach_cache(source->image, &options->cache, error);
    }
    if (r != 0) {
        source->options_do_not_fit = r == -EINVAL;
        close_image(source);
    }
    return r;
}

/* What writes to the image that is open. */
static int open_writer(const struct opening *opening, struct source *source, struct error *error)
{
    struct writer_options options;
    struct progress progress;
    int r;

    mount_writer_options(opening->options, &options);
    overlay_writer_options(source->image, &options);
    options.progress = progress_show;
    options.progress_context = &progress;
    progress_begin(&progress, "qcow2fs", "repairing the image", "L2 tables");
    r = writer_open(source->image, &options, &source->writer, error);
    progress_end(&progress);
    if (r != 0) {
        source->options_do_not_fit = r == -EINVAL;
        close_image(source);
        return r;
    }
    /* Of the check, which has whole clusters in memory, and is not done again. */
    memory_trim(CHECK_CLUSTERS * in_memory(source->image->header->cluster_size));
    return r;
}

static int open_to_write(const struct opening *opening, struct source *source, struct error *error)
{
    int r = open_image(opening, STORE_WRITE, source, error);

    return r == 0 ? open_writer(opening, source, error) : r;
}

/* Whether opening for writing fails so where reading may be possible. */
static bool only_writing_fails(int r)
{
    return r == -EACCES || r == -EPERM || r == -EROFS;
}

/* Who asks for an overlay is not served by a mount that cannot be written. */
static int open_with_overlay(const struct opening *opening, enum store_access reading,
                             struct source *source, struct error *error)
{
    int r = open_image(opening, reading, source, error);

    return r == 0 && !mount_is_read_only(opening->options) ? open_writer(opening, source, error)
                                                           : r;
}

/* With the keys that are there. */
static int open_with_keys(const struct opening *opening, struct source *source, struct error *error)
{
    const struct mount_options *options = opening->options;
    enum store_access reading = options->force_share.value ? STORE_READ_SHARED : STORE_READ;
    int r;

    if (mount_has_overlay(options)) {
        return open_with_overlay(opening, reading, source, error);
    }
    if (!mount_is_read_only(options) && options->force_share.value) {
        error_set(&source->why_read_only, EROFS, "with force-share an image is only read");
    } else if (!mount_is_read_only(options) && options->at_snapshot == NULL) {
        r = open_to_write(opening, source, &source->why_read_only);
        if (!only_writing_fails(r)) {
            *error = source->why_read_only;
            return r;
        }
    }
    return open_image(opening, reading, source, error);
}

/* What is to be shown of the image beside its disks. */
static int gather_evidence(const struct opening *opening, struct source *source,
                           struct error *error)
{
    struct progress progress;
    const struct evidence_options how = {.progress = progress_show, .context = &progress};
    int r;

    progress_begin(&progress, "qcow2fs", "looking at all tables", "L1 entries");
    r = evidence_gather(source->image, &how, &source->evidence, error);
    progress_end(&progress);
    for (int file = 0; r == 0 && file < EVIDENCE_FILES; file++) {
        uint64_t left_out = evidence_left_out(source->evidence, file);

        if (left_out > 0) {
            log_line(opening->log, LOG_LEVEL_WARNING,
                     "%s: %s.raw in evidence/ would have too many pieces: the last %" PRIu64
                     " bytes are left out",
                     opening->path, evidence_name(file), left_out);
        }
    }
    if (r != 0) {
        close_image(source);
    }
    return r;
}

int source_open(const char *path, const struct mount_options *options, struct log *log,
                struct source *source, struct error *error)
{
    struct opening opening = {.path = path, .options = options, .log = log};
    int r;

    *source = (struct source){0};
    r = mount_check_overlay(options, error);
    if (r == 0) {
        r = mount_check_compress(options, error);
    }
    if (r == 0) {
        r = mount_read_cache(options, &opening.read_cache, error);
    }
    if (r != 0) {
        source->options_do_not_fit = true;
        return r;
    }
    r = keys_open(options->key_files, keys_iterations_max(&options->key_iterations_max),
                  &opening.keys, error);
    if (r == 0) {
        r = open_with_keys(&opening, source, error);
    }
    if (r == 0 && options->evidence.value) {
        r = gather_evidence(&opening, source, error);
    }
    keys_close(opening.keys);
    return r;
}

void source_unmake(struct source *source)
{
    overlay_unmake(source->image);
}

int source_close(struct source *source, struct log *log, struct error *error)
{
    int r = source->writer != NULL ? writer_close(source->writer) : 0;

    if (r != 0) {
        if (error->code != 0) {
            log_line(log, LOG_LEVEL_ERROR, "%s", error->text);
        }
        error_set(error, -r,
                  "%s: what was written last could not be saved: %s; look at the image with "
                  "qcow2ctl check",
                  source->image->path, strerror(-r));
    }
    free(source->salvage_json);
    evidence_free(source->evidence);
    if (process_may_leave_memory()) {
        image_close_to_exit(source->image);
    } else {
        image_close(source->image);
    }
    return r;
}
