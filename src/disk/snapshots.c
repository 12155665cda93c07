/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots.h"

#include "disk/references.h"
#include "disk/snapshots_internal.h"
#include "meta/snapshot_write.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A sentence for what has none yet. */
static int failed(struct writer *writer, int result, const char *what, struct error *error)
{
    const char *path = writer->image->path;

    if (result == 0 || error->text[0] != '\0') {
        return result;
    }
    switch (result) {
    case -EUCLEAN:
        return error_set(error, EUCLEAN,
                         "%s: %s: an L1 or L2 entry names what cannot be; check the image with "
                         "qcow2ctl check",
                         path, what);
    case -EOVERFLOW:
        return error_set(error, EOVERFLOW,
                         "%s: %s: a cluster would have more references than its refcount of %u "
                         "bits can say; delete snapshots, or widen it with qcow2ctl amend -o "
                         "refcount_bits=16",
                         path, what, 1U << writer->header->refcount_order);
    case -EROFS:
        return error_set(error, EROFS,
                         "%s: %s: its refcounts are too low; repair it with "
                         "qcow2ctl check --repair=all",
                         path, what);
    default:
        return error_set(error, -result, "%s: %s: %s", path, what, strerror(-result));
    }
}

/* --- Names and ids --------------------------------------------------------------------------- */

static int check_name(struct writer *writer, const char *name, size_t except, struct error *error)
{
    const struct snapshot_table *table = writer->image->snapshots;
    const char *path = writer->image->path;

    if (name[0] == '\0') {
        return error_set(error, EINVAL, "%s: a snapshot needs a name", path);
    }
    if (strlen(name) > SNAPSHOT_NAME_BYTES_MAX) {
        return error_set(error, ENAMETOOLONG,
                         "%s: the name of a snapshot has at most 65535 bytes, this one %zu", path,
                         strlen(name));
    }
    for (size_t i = 0; i < table->count; i++) {
        if (i != except && strcmp(table->snapshots[i].name, name) == 0) {
            return error_set(error, EEXIST, "%s: has a snapshot '%s' already; choose another name",
                             path, name);
        }
    }
    return 0;
}

/* One more than the highest number among the ids, as QEMU does. */
static void next_id(const struct snapshot_table *table, char *text, size_t size)
{
    uint64_t highest = 0;

    for (size_t i = 0; i < table->count; i++) {
        uint64_t id = strtoull(table->snapshots[i].id, NULL, 10);

        highest = id == UINT64_MAX ? highest : max_u64(highest, id);
    }
    snprintf(text, size, "%" PRIu64, highest + 1);
}

static int check_no_data_file(struct writer *writer, struct error *error)
{
    return writer->header->external_data_file
               ? error_set(error, ENOTSUP,
                           "%s: has an external data file, and such an image can have no internal "
                           "snapshots; put an overlay on it instead (qcow2ctl create -b)",
                           writer->image->path)
               : 0;
}

/* --- Making ---------------------------------------------------------------------------------- */

static int add_snapshot(struct writer *writer, const char *name, const struct allocation *copy,
                        uint64_t entries, bool *begun, struct error *error)
{
    char id[32];
    struct timespec now;
    struct snapshot snapshot = {
        .id = id,
        .name = (char *)(uintptr_t)name,
        .l1_offset = copy->host_offset,
        .l1_entries = (uint32_t)entries,
        .disk_size = writer->header->virtual_size, /* of whole sectors */
        .icount = UINT64_MAX,
    };
    const struct snapshot_edit edit = {
        .added = &snapshot, .removed = SNAPSHOT_NONE, .renamed = SNAPSHOT_NONE};

    clock_gettime(CLOCK_REALTIME, &now);
    snapshot.date_sec = (uint32_t)now.tv_sec;
    snapshot.date_nsec = (uint32_t)now.tv_nsec;
    next_id(writer->image->snapshots, id, sizeof(id));
    return snapshots_edit_table(writer, &edit, begun, error);
}

/* With all requests kept out, and everything stable. */
static int make(struct writer *writer, const char *name, struct error *error)
{
    struct allocation copy;
    uint64_t entries, *l1;
    bool begun = false;
    int result = check_name(writer, name, SNAPSHOT_NONE, error);

    if (result < 0) {
        return result;
    }
    l1 = mapping_copy_l1(writer->image->active, &entries);
    result = l1 == NULL ? -ENOMEM : writer_mark_dirty(writer);
    if (result == 0) {
        result = snapshots_share(writer, l1, entries, &copy);
    }
    if (result < 0) {
        free(l1);
        return result;
    }
    result = snapshots_sync(writer); /* R2: before a COPIED bit says that it is shared */
    if (result == 0) {
        result = references_clear_copied(writer, l1, entries);
    }
    if (result == 0) {
        result = references_clear_l1(writer);
    }
    if (result == 0) {
        result = add_snapshot(writer, name, &copy, entries, &begun, error);
    }
    if (!begun) {
        snapshots_take_back(writer, l1, entries, &copy);
    } else { /* named, or maybe: R2 */
        snapshots_know(writer, copy.host_offset, copy.clusters << writer->header->cluster_bits,
                       true);
    }
    free(l1);
    return result;
}

/* --- Removing -------------------------------------------------------------------------------- */

static int remove_snapshot(struct writer *writer, size_t index, struct error *error)
{
    const struct snapshot snapshot = writer->image->snapshots->snapshots[index];
    const struct snapshot_edit edit = {.removed = index, .renamed = SNAPSHOT_NONE};
    uint64_t length = (uint64_t)snapshot.l1_entries * L1_ENTRY_BYTES, *l1;
    bool begun = false;
    int result = snapshot_validate(writer->header, &snapshot, writer->image->path, error);

    if (result < 0) {
        return result;
    }
    l1 = snapshots_read_l1(writer, &snapshot, &result);
    if (result == 0) {
        result = writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = snapshots_edit_table(writer, &edit, &begun, error); /* it has no name any more */
    }
    if (result == 0) {
        snapshots_know(writer, snapshot.l1_offset, length, false);
        result = snapshots_give_up(writer, l1, snapshot.l1_entries, snapshot.l1_offset);
    }
    free(l1);
    return result;
}

/* --- From outside ---------------------------------------------------------------------------- */

/* What was done is on the disk, and the image says that it is in order. */
static int finish(struct writer *writer, int result)
{
    int last = commit_flush(writer->commit);

    if (last == 0 && !writer->refused) { /* else nobody knows which tables the header names */
        last = writer_mark_clean(writer);
    }
    return result == 0 ? last : result;
}

struct request {
    size_t index;     /* of the snapshot; not of a new one */
    const char *name; /* of a new one, or a new one */
};

static int do_make(struct writer *writer, const struct request *request, struct error *error)
{
    return make(writer, request->name, error);
}

static int do_remove(struct writer *writer, const struct request *request, struct error *error)
{
    return remove_snapshot(writer, request->index, error);
}

static int do_rename(struct writer *writer, const struct request *request, struct error *error)
{
    const struct snapshot_edit edit = {
        .removed = SNAPSHOT_NONE,
        .renamed = request->index,
        .name = request->name,
    };
    bool begun;
    int result = check_name(writer, request->name, request->index, error);

    return result < 0 ? result : snapshots_edit_table(writer, &edit, &begun, error);
}

static int do_apply(struct writer *writer, const struct request *request, struct error *error)
{
    return snapshots_go_back(writer, request->index, error);
}

static int do_empty(struct writer *writer, const struct request *request, struct error *error)
{
    (void)request;
    return snapshots_go_to_nothing(writer, error);
}

/* Does it with all other requests kept out. */
static int alone(struct writer *writer, const struct request *request,
                 int (*how)(struct writer *, const struct request *, struct error *),
                 const char *failure, struct error *error)
{
    int result;

    error->text[0] = '\0';
    result = check_no_data_file(writer, error);
    if (result < 0) {
        return result;
    }
    result = writer_pause(writer);
    if (result == 0) {
        result = writer_clear_late(writer);
    }
    if (result == 0) {
        result = finish(writer, how(writer, request, error));
    }
    writer_resume(writer);
    return failed(writer, result, failure, error);
}

int writer_snapshot_make(struct writer *writer, const char *name, struct error *error)
{
    return alone(writer, &(struct request){.name = name}, do_make, "the snapshot cannot be made",
                 error);
}

int writer_snapshot_remove(struct writer *writer, size_t index, struct error *error)
{
    return alone(writer, &(struct request){.index = index}, do_remove,
                 "the snapshot cannot be removed", error);
}

int writer_snapshot_rename(struct writer *writer, size_t index, const char *name,
                           struct error *error)
{
    return alone(writer, &(struct request){.index = index, .name = name}, do_rename,
                 "the snapshot cannot be renamed", error);
}

int writer_snapshot_apply(struct writer *writer, size_t index, struct error *error)
{
    return alone(writer, &(struct request){.index = index}, do_apply,
                 "the disk cannot be taken back to the snapshot", error);
}

int writer_empty(struct writer *writer, struct error *error)
{
    return alone(writer, &(struct request){0}, do_empty, "it cannot be emptied", error);
}
