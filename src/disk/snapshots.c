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
        return error_set(error, EROFS, "%s: %s: %s", path, what,
                         writer_is_refused(writer) ? atomic_load(&writer->refused)
                                                   : strerror(EROFS));
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

static int check_no_data_file(struct writer *writer, struct error *error)
{
    return writer->header->external_data_file
               ? error_set(error, ENOTSUP,
                           "%s: has an external data file, and such an image can have no internal "
                           "snapshots; put an overlay on it instead (qcow2ctl create -b)",
                           writer->image->path)
               : 0;
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
        result = snapshots_give_up(writer, l1, snapshot.l1_entries, snapshot.l1_offset, true);
    }
    free(l1);
    return result;
}

/* --- From outside ---------------------------------------------------------------------------- */

/* What was done is on the disk, and the image says that it is in order. */
static int finish(struct writer *writer, int result)
{
    int last = commit_flush(writer->commit);

    if (last == 0 && writer->unsettled && !atomic_load(&writer->corrupt)) {
        last = writer_settle(writer);
        last = last == 0 ? snapshots_sync(writer) : last;
    }
    if (last == 0) {
        last = writer_mark_clean(writer, false);
    }
    return result == 0 ? last : result;
}

struct request {
    size_t index;     /* of the snapshot; not of a new one */
    const char *name; /* of a new one, or a new one */
};

static int do_make(struct writer *writer, const struct request *request, struct error *error)
{
    int result = check_name(writer, request->name, SNAPSHOT_NONE, error);

    return result < 0 ? result : snapshots_make_now(writer, request->name, error);
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
