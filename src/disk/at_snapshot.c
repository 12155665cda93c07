/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/at_snapshot.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ambiguous(const char *path, const char *wanted, const char *why, struct error *error)
{
    return error_set(error, EINVAL, "%s: '%s' %s; qcow2ctl snapshot -l lists them", path, wanted,
                     why);
}

int snapshot_choose(const struct snapshot_table *table, const char *path, const char *wanted,
                    bool strict, size_t *index, struct error *error)
{
    size_t by_id = SIZE_MAX, by_name = SIZE_MAX, named = 0;

    for (size_t i = 0; i < table->count; i++) {
        if (by_id == SIZE_MAX && strcmp(table->snapshots[i].id, wanted) == 0) {
            by_id = i;
        }
        if (strcmp(table->snapshots[i].name, wanted) == 0) {
            by_name = i;
            named++;
        }
    }
    if (by_id == SIZE_MAX && named == 0) {
        return error_set(error, ENOENT,
                         "%s: it has no snapshot '%s' among its %zu; qcow2ctl snapshot -l lists "
                         "them",
                         path, wanted, table->count);
    }
    if (by_id == SIZE_MAX && named > 1) {
        return ambiguous(path, wanted,
                         "is the name of several of its snapshots; give the ID of one", error);
    }
    if (strict && by_id != SIZE_MAX && named > 0 && (named > 1 || by_id != by_name)) {
        return ambiguous(
            path, wanted,
            "is the ID of one snapshot and the name of another; rename that, by its ID", error);
    }
    *index = by_id != SIZE_MAX ? by_id : by_name;
    return 0;
}

int snapshot_mapping_open(const struct image *image, const struct snapshot *snapshot,
                          bool cached_l1, struct mapping **mapping, struct error *error)
{
    struct mapping_source source = {
        .header = image->header,
        .file = image->file,
        .data_file = image->data_file,
        .owner = image->number,
        .cached_l1 = cached_l1,
        /* Of a snapshot, too, what is left is shown; of nothing its name would be a lie. */
        .partial_l1 = range_within(snapshot->l1_offset, L1_ENTRY_BYTES, image->file_size),
    };
    char *name;
    int result;

    if (asprintf(&name, "%s: snapshot '%s'", image->path, snapshot->name) < 0) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    result = mapping_open(&source, name, snapshot->l1_offset, snapshot->l1_entries, mapping, error);
    if (result == 0 && mapping_l1_missing(*mapping) > 0) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s was cut off: %" PRIu64 " of the %" PRIu32 " entries of its L1 table lie past "
                 "the end of the file, and what they map cannot be read",
                 name, mapping_l1_missing(*mapping), snapshot->l1_entries);
    }
    if (result == 0 && image->active != NULL) {
        mapping_share_look(*mapping, image->active);
    }
    free(name);
    return result;
}

int image_set_snapshot(struct image *image, const char *wanted, struct error *error)
{
    const struct snapshot *snapshot;
    size_t index;
    int result = snapshot_choose(image->snapshots, image->path, wanted, false, &index, error);

    if (result < 0) {
        return result;
    }
    snapshot = &image->snapshots->snapshots[index];
    result = snapshot_validate(image->header, snapshot, image->path, error);
    if (result == 0) {
        result = snapshot_mapping_open(image, snapshot, false, &image->active, error);
    }
    if (result == 0) {
        image->at_snapshot = snapshot;
        image->virtual_size = snapshot->disk_size;
    }
    return result;
}
