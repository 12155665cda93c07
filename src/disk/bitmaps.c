/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/bitmaps.h"

#include "disk/bitmaps_internal.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GRANULARITY_DEFAULT_MIN UINT64_C(4096)
#define GRANULARITY_DEFAULT_MAX UINT64_C(65536)

/* --- What is done --------------------------------------------------------------------------- */

static const struct bitmap *find(const struct bitmap_change *change)
{
    const struct bitmap *bitmap = bitmap_find(change->directory, change->name);

    if (bitmap == NULL) {
        error_set(change->error, ENOENT, "%s: has no bitmap '%s'; qcow2ctl info lists them",
                  change->writer->image->path, change->name);
    }
    return bitmap;
}

static int read_table(const struct bitmap_change *change, const struct bitmap *bitmap, bool goes,
                      uint64_t **table)
{
    const struct image *image = change->writer->image;

    return bitmap_table_read(image->file, image->header, image->path, bitmap, goes, table,
                             change->error);
}

struct bitmap_request {
    uint64_t granularity;
    bool enabled;
    struct image *source;
    const char *from;
    bool is_new;
};

static int check_new(const struct bitmap_change *change, uint64_t granularity)
{
    const struct header *header = change->writer->header;
    const char *path = change->writer->image->path;
    uint64_t bytes = bitmap_table_entries(header, granularity) * header->cluster_size;

    if (change->name[0] == '\0' || strlen(change->name) > BITMAP_NAME_MAX) {
        return error_set(change->error, EINVAL,
                         "%s: the name of a bitmap has 1 to %d bytes, this one %zu", path,
                         BITMAP_NAME_MAX, strlen(change->name));
    }
    if (bitmap_find(change->directory, change->name) != NULL) {
        return error_set(change->error, EEXIST,
                         "%s: has a bitmap '%s' already; choose another name", path, change->name);
    }
    if (granularity < BITMAP_GRANULARITY_MIN || granularity > BITMAP_GRANULARITY_MAX ||
        (granularity & (granularity - 1)) != 0) {
        return error_set(change->error, EINVAL,
                         "%s: the granularity of a bitmap is a power of two from 512 to 2G, not "
                         "%" PRIu64,
                         path, granularity);
    }
    if (bytes == 0) {
        return error_set(change->error, EINVAL, "%s: an empty disk can have no bitmap", path);
    }
    if (bytes > BITMAP_SIZE_MAX) {
        return error_set(change->error, EFBIG,
                         "%s: a bitmap of this disk with a bit for each %" PRIu64
                         " bytes would take more than 512 MiB; choose a larger granularity",
                         path, granularity);
    }
    if (change->directory->count >= BITMAPS_MAX) {
        return error_set(change->error, EMLINK, "%s: has %d bitmaps, as many as there can be", path,
                         BITMAPS_MAX);
    }
    return 0;
}

/* A new one, of a granularity that check_new() has found to be one; its bits are those of `from` of
   the request's source, or none. */
static int add(struct bitmap_change *change, const struct bitmap_request *request,
               struct bitmap *made, const struct bitmap *from)
{
    const struct bitmap_edit edit = {.new = made};
    uint64_t *table = NULL;
    int result = 0;

    made->name = (char *)(uintptr_t)change->name;
    made->type = BITMAP_TYPE_DIRTY_TRACKING;
    made->table_entries = (uint32_t)bitmap_table_entries(change->writer->header, made->granularity);
    if (from != NULL) {
        table = calloc(made->table_entries, sizeof(*table));
        result = table == NULL ? -ENOMEM : bitmap_merge(change, made, table, request->source, from);
    }
    if (result == 0) {
        result = bitmap_place_table(change, table, made);
    }
    free(table);
    return result < 0 ? result : bitmap_apply(change, &edit, 1);
}

static int do_add(struct bitmap_change *change, const struct bitmap_request *request)
{
    struct bitmap made = {
        .granularity =
            request->granularity != 0
                ? request->granularity
                : min_u64(max_u64(GRANULARITY_DEFAULT_MIN, change->writer->header->cluster_size),
                          GRANULARITY_DEFAULT_MAX),
        .flags = BITMAP_FLAG_AUTO,
    };
    int result = check_new(change, made.granularity);

    return result < 0 ? result : add(change, request, &made, NULL);
}

/* What a damaged one names is not believed: nothing of that is freed. */
static int do_remove(struct bitmap_change *change, const struct bitmap_request *request)
{
    const struct bitmap *bitmap = find(change);
    const struct bitmap_edit edit = {.old = bitmap};
    const struct image *image = change->writer->image;
    uint64_t *table = NULL;
    bool damaged;
    int result;

    (void)request;
    if (bitmap == NULL) {
        return -ENOENT;
    }
    result = read_table(change, bitmap, true, &table);
    damaged = result == -EINVAL;
    if (result == 0 || damaged) {
        *change->error = (struct error){0};
        result = bitmap_apply(change, &edit, 1);
    }
    if (result == 0 && damaged) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: bitmap '%s' was damaged, so the space that it took stays taken; qcow2ctl "
                 "check --repair=leaks gives it back",
                 image->path, bitmap->name);
    } else if (result == 0) {
        bitmap_drop_table(change->writer, bitmap, table, NULL, 0);
    }
    free(table);
    return result;
}

/* It gets the bits that `table` names, in place of those of `old`; both are freed. */
static int exchange(struct bitmap_change *change, const struct bitmap *bitmap, uint64_t *old,
                    uint64_t *table)
{
    struct bitmap changed = *bitmap;
    const struct bitmap_edit edit = {.old = bitmap, .new = &changed};
    int result = bitmap_place_table(change, table, &changed);

    if (result == 0) {
        result = bitmap_apply(change, &edit, 1);
    }
    if (result == 0) {
        bitmap_drop_table(change->writer, bitmap, old, table,
                          table != NULL ? changed.table_entries : 0);
    }
    free(table);
    free(old);
    return result;
}

static int do_clear(struct bitmap_change *change, const struct bitmap_request *request)
{
    const struct bitmap *bitmap = find(change);
    uint64_t *old;
    int result = bitmap == NULL ? -ENOENT : read_table(change, bitmap, false, &old);

    (void)request;
    return result < 0 ? result : exchange(change, bitmap, old, NULL);
}

static int do_enable(struct bitmap_change *change, const struct bitmap_request *request)
{
    const struct bitmap *bitmap = find(change);
    struct bitmap changed;
    const struct bitmap_edit edit = {.old = bitmap, .new = &changed};
    uint64_t *table;
    int result = bitmap == NULL ? -ENOENT : read_table(change, bitmap, false, &table);

    if (result < 0) {
        return result;
    }
    free(table); /* it can be used */
    changed = *bitmap;
    changed.flags &= ~BITMAP_FLAG_AUTO;
    changed.flags |= request->enabled ? BITMAP_FLAG_AUTO : 0;
    return changed.flags == bitmap->flags ? 0 : bitmap_apply(change, &edit, 1);
}

/* The other bitmap, and whether the two can be merged. */
static int find_source(const struct bitmap_change *change, const struct bitmap_request *request,
                       const struct bitmap_directory *directory, const struct bitmap **bitmap)
{
    const struct header *theirs = request->source->header;
    const char *path = request->source->path;

    *bitmap = bitmap_find(directory, request->from);
    if (*bitmap == NULL) {
        return error_set(change->error, ENOENT, "%s: has no bitmap '%s'; qcow2ctl info lists them",
                         path, request->from);
    }
    if (theirs->virtual_size != change->writer->header->virtual_size) {
        return error_set(change->error, EINVAL,
                         "%s: has a disk of %" PRIu64 " bytes, and that of %s has %" PRIu64
                         ": bitmaps of different sizes cannot be merged",
                         path, theirs->virtual_size, change->writer->image->path,
                         change->writer->header->virtual_size);
    }
    return 0;
}

static int merge_from(struct bitmap_change *change, const struct bitmap_request *request,
                      const struct bitmap_directory *directory)
{
    const struct bitmap *bitmap = find(change), *from;
    uint64_t *old = NULL, *table = NULL;
    int result = bitmap == NULL ? -ENOENT : find_source(change, request, directory, &from);

    if (result == 0) {
        result = read_table(change, bitmap, false, &old);
    }
    if (result == 0) {
        result = read_table(change, bitmap, false, &table);
    }
    if (result == 0) {
        result = bitmap_merge(change, bitmap, table, request->source, from);
    }
    if (result < 0) {
        free(old);
        free(table);
        return result;
    }
    return exchange(change, bitmap, old, table);
}

static int copy_from(struct bitmap_change *change, const struct bitmap_request *request,
                     const struct bitmap_directory *directory)
{
    const struct bitmap *from;
    struct bitmap made = {0};
    int result = find_source(change, request, directory, &from);

    if (result == 0) {
        made.granularity = from->granularity;
        made.flags = from->flags & BITMAP_FLAG_AUTO;
        result = check_new(change, made.granularity);
    }
    return result < 0 ? result : add(change, request, &made, from);
}

/* Merges, or copies where there is to be a new one. */
static int do_from(struct bitmap_change *change, const struct bitmap_request *request)
{
    struct image *source = request->source;
    struct bitmap_directory *directory;
    int result = bitmap_directory_read(source->file, source->header, source->path, &directory,
                                       change->error);

    if (result == 0) {
        result = request->is_new ? copy_from(change, request, directory)
                                 : merge_from(change, request, directory);
        bitmap_directory_free(directory);
    }
    return result;
}

/* --- From outside ---------------------------------------------------------------------------- */

typedef int how_fn(struct bitmap_change *change, const struct bitmap_request *request);

static int do_it(struct bitmap_change *change, const struct bitmap_request *request, how_fn *how)
{
    struct writer *writer = change->writer;
    const struct image *image = writer->image;
    int result = bitmap_directory_read(image->file, image->header, image->path, &change->directory,
                                       change->error);

    if (result == -EINVAL) {
        char text[sizeof(change->error->text)];

        snprintf(text, sizeof(text), "%s", change->error->text);
        return error_set(change->error, EINVAL,
                         "%.400s; none of its bitmaps can be used, and qcow2ctl check --repair=all "
                         "gives them up",
                         text);
    }
    if (result < 0) {
        return result;
    }
    return bitmap_finish(change, how(change, request));
}

static int check_image(struct writer *writer, struct error *error)
{
    const char *path = writer->image->path;

    if (writer->header->version < 3) {
        return error_set(error, ENOTSUP,
                         "%s: is of version 2, which has no bitmaps; qcow2ctl amend -o compat=1.1 "
                         "makes it version 3",
                         path);
    }
    return 0;
}

/* Does it with all other requests kept out. */
static int alone(struct writer *writer, const char *name, const struct bitmap_request *request,
                 how_fn *how, const char *failure, struct error *error)
{
    struct bitmap_change change = {.writer = writer, .name = name, .error = error};
    int result;

    error->text[0] = '\0';
    result = check_image(writer, error);
    if (result < 0) {
        return result;
    }
    result = writer_pause(writer);
    if (result == 0) {
        result = tracking_suspend(writer);
    }
    if (result == 0) {
        result = do_it(&change, request, how);
    }
    writer_resume(writer);
    if (result < 0 && error->text[0] == '\0') {
        error_set(error, -result, "%s: %s: %s", writer->image->path, failure, strerror(-result));
    }
    return result;
}

int writer_bitmap_add(struct writer *writer, const char *name, uint64_t granularity,
                      struct error *error)
{
    return alone(writer, name, &(struct bitmap_request){.granularity = granularity}, do_add,
                 "the bitmap cannot be made", error);
}

int writer_bitmap_copy(struct writer *writer, const char *name, struct image *source,
                       struct error *error)
{
    const struct bitmap_request request = {.source = source, .from = name, .is_new = true};

    return alone(writer, name, &request, do_from, "the bitmap cannot be copied", error);
}

int writer_bitmap_remove(struct writer *writer, const char *name, struct error *error)
{
    return alone(writer, name, &(struct bitmap_request){0}, do_remove,
                 "the bitmap cannot be removed", error);
}

int writer_bitmap_clear(struct writer *writer, const char *name, struct error *error)
{
    return alone(writer, name, &(struct bitmap_request){0}, do_clear,
                 "the bitmap cannot be cleared", error);
}

int writer_bitmap_enable(struct writer *writer, const char *name, bool enabled, struct error *error)
{
    return alone(writer, name, &(struct bitmap_request){.enabled = enabled}, do_enable,
                 "the bitmap cannot be switched", error);
}

int writer_bitmap_merge(struct writer *writer, const char *name, struct image *source,
                        const char *from, struct error *error)
{
    return alone(writer, name, &(struct bitmap_request){.source = source, .from = from}, do_from,
                 "the bitmaps cannot be merged", error);
}
