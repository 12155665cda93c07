/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/snapshots.h"

#include "disk/references.h"
#include "disk/writer_internal.h"
#include "meta/snapshot_write.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int sync_now(struct writer *writer)
{
    return barrier_wait(writer->barrier, barrier_epoch(writer->barrier));
}

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

/* --- The table ------------------------------------------------------------------------------- */

static void for_each_cluster(struct writer *writer, uint64_t offset, uint64_t length, bool know)
{
    uint64_t end = offset + length;

    for (; offset < end; offset += writer_cluster_size(writer)) {
        if (know) {
            (void)gate_know(writer->gate, GATE_TABLE_SNAPSHOTS, offset);
        } else {
            gate_forget(writer->gate, GATE_TABLE_SNAPSHOTS, offset);
        }
    }
}

/* Writes whole clusters to a place of their own; *place of it. */
static int place_table(struct writer *writer, const void *bytes, uint64_t length,
                       struct allocation *place)
{
    uint64_t clusters = max_u64(1, div_round_up(length, writer_cluster_size(writer)));
    uint8_t *raw = calloc(clusters, writer_cluster_size(writer));
    int result = raw == NULL ? -ENOMEM : writer_prepare_allocation(writer);

    if (result == 0) {
        result = allocator_take_exactly(writer->allocator, clusters, place);
    }
    if (result == 0) {
        memcpy(raw, bytes, length);
        result = gate_write(writer->gate, GATE_OTHER, place->host_offset, raw,
                            clusters << writer->header->cluster_bits);
        if (result < 0) {
            allocator_return(writer->allocator, place->host_offset, clusters);
        }
    }
    free(raw);
    return result;
}

/*
 * R3: writes fields of the header, and waits until they are stable. Where that fails `before`, what
 * they were, is written again; and where that cannot be done either nobody knows what the header
 * says: then *begun stays true, nothing is freed that one or the other may name, and the writer
 * changes nothing any more.
 */
static int switch_fields(struct writer *writer, enum header_field field, const uint8_t *fields,
                         const uint8_t *before, size_t length, bool *begun)
{
    int result = gate_write(writer->gate, GATE_HEADER, field, fields, length);

    *begun = true;
    if (result == 0) {
        result = sync_now(writer);
    }
    if (result < 0) {
        *begun = gate_write(writer->gate, GATE_HEADER, field, before, length) < 0 ||
                 sync_now(writer) < 0;
        if (*begun) {
            writer->refused = true;
            allocator_stop(writer->allocator);
        }
    }
    return result;
}

#define TABLE_FIELDS (HEADER_V2_LENGTH - HEADER_NB_SNAPSHOTS)

static void encode_table(uint8_t fields[TABLE_FIELDS], uint64_t host_offset, uint32_t count)
{
    store_be32(fields, count);
    store_be64(fields + (HEADER_SNAPSHOTS_OFFSET - HEADER_NB_SNAPSHOTS), host_offset);
}

static int switch_table(struct writer *writer, uint64_t host_offset, uint32_t count, bool *begun)
{
    struct header *header = writer->image->header;
    uint8_t fields[TABLE_FIELDS], before[TABLE_FIELDS];
    int result;

    encode_table(fields, host_offset, count);
    encode_table(before, header->snapshots_offset, header->snapshot_count);
    result = switch_fields(writer, HEADER_NB_SNAPSHOTS, fields, before, sizeof(fields), begun);
    if (result == 0) {
        header->snapshots_offset = host_offset;
        header->snapshot_count = count;
    }
    return result;
}

/* What the table is in memory, before the header names it. */
static int read_table(struct writer *writer, uint64_t host_offset, uint32_t count,
                      struct snapshot_table **table, struct error *error)
{
    struct image *image = writer->image;
    struct header header = *image->header;
    struct store_info info;
    int result = store_info(image->file, &info);

    header.snapshots_offset = host_offset;
    header.snapshot_count = count;
    return result < 0
               ? result
               : snapshot_table_read(image->file, &header, info.size, image->path, table, error);
}

/* R3, R4; `place` has the new table, or is nothing. */
static int replace_table(struct writer *writer, const struct allocation *place, uint64_t length,
                         uint32_t count, bool *begun, struct error *error)
{
    struct image *image = writer->image;
    uint64_t old = image->header->snapshots_offset, old_size = image->snapshots->size;
    bool had_table = image->header->snapshot_count > 0;
    struct snapshot_table *table;
    int result = read_table(writer, place->host_offset, count, &table, error);

    if (result < 0) {
        return result;
    }
    result = sync_now(writer); /* R2, R3 */
    if (result == 0) {
        result = switch_table(writer, place->host_offset, count, begun);
    }
    if (result < 0) {
        snapshot_table_free(table);
        return result;
    }
    snapshot_table_free(image->snapshots);
    image->snapshots = table;
    for_each_cluster(writer, place->host_offset, count > 0 ? length : 0, true);
    if (had_table) {
        for_each_cluster(writer, old, old_size, false);
        (void)allocator_drop(writer->allocator, old,
                             div_round_up(old_size, writer_cluster_size(writer)),
                             atomic_load(&writer->next_commit)); /* R4 */
    }
    return 0;
}

int writer_replace_snapshot_table(struct writer *writer, const uint8_t *bytes, size_t length,
                                  uint32_t count, bool *begun, struct error *error)
{
    struct allocation place = {0};
    int result = 0;

    *begun = false;
    if (count > 0) {
        result = place_table(writer, bytes, length, &place);
    }
    if (result < 0) {
        return result;
    }
    result = replace_table(writer, &place, length, count, begun, error);
    if (result < 0 && !*begun && count > 0) {
        allocator_return(writer->allocator, place.host_offset, place.clusters);
    }
    return result;
}

static int edit_table(struct writer *writer, const struct snapshot_edit *edit, bool *begun,
                      struct error *error)
{
    struct image *image = writer->image;
    uint32_t count =
        image->header->snapshot_count + (edit->added != NULL) - (edit->removed != SNAPSHOT_NONE);
    uint8_t *bytes;
    size_t length;
    int result = snapshot_table_edit(image->file, image->header, image->snapshots, image->path,
                                     edit, &bytes, &length, error);

    *begun = false;
    if (result == 0) {
        result = writer_replace_snapshot_table(writer, bytes, length, count, begun, error);
    }
    free(bytes);
    return result;
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

/*
 * COPIED as the counts are. Where that cannot be done for now the image stays dirty when it is
 * closed, so that who opens it next repairs it.
 */
static int correct_copied(struct writer *writer)
{
    int result = references_correct_copied(writer);

    writer->unsettled = result < 0;
    return result;
}

/* Raises all counts below the table, and makes the copy of it that names them. */
static int share(struct writer *writer, const uint64_t *l1, uint64_t entries,
                 struct allocation *copy)
{
    uint64_t made, bytes = entries * L1_ENTRY_BYTES;
    uint64_t *raw = calloc(1, bytes + 1);
    int result = raw == NULL ? -ENOMEM : writer_prepare_allocation(writer);

    if (result < 0) {
        free(raw);
        return result;
    }
    result = references_add(writer, l1, entries, &made);
    for (uint64_t i = 0; i < entries; i++) {
        store_be64((uint8_t *)&raw[i], l1[i] & ~ENTRY_COPIED);
    }
    if (result == 0) {
        result = place_table(writer, raw, bytes, copy);
    }
    if (result == 0) {
        result = allocator_write_back(writer->allocator);
        if (result < 0) {
            allocator_return(writer->allocator, copy->host_offset, copy->clusters);
        }
    }
    if (result < 0 && references_remove(writer, l1, entries, made) < 0) {
        (void)correct_copied(writer); /* what remains is a leak, and counts that are not 1 */
    }
    free(raw);
    return result;
}

/* Nothing has come to name what share() made: it goes again. */
static void take_back(struct writer *writer, const uint64_t *l1, uint64_t entries,
                      const struct allocation *copy)
{
    (void)references_remove(writer, l1, entries, UINT64_MAX);
    allocator_return(writer->allocator, copy->host_offset, copy->clusters);
    (void)correct_copied(writer);
}

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
        .disk_size = writer->image->virtual_size,
        .icount = UINT64_MAX,
    };
    const struct snapshot_edit edit = {
        .added = &snapshot, .removed = SNAPSHOT_NONE, .renamed = SNAPSHOT_NONE};

    clock_gettime(CLOCK_REALTIME, &now);
    snapshot.date_sec = (uint32_t)now.tv_sec;
    snapshot.date_nsec = (uint32_t)now.tv_nsec;
    next_id(writer->image->snapshots, id, sizeof(id));
    return edit_table(writer, &edit, begun, error);
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
        result = share(writer, l1, entries, &copy);
    }
    if (result < 0) {
        free(l1);
        return result;
    }
    result = sync_now(writer); /* R2: before an entry says by its COPIED bit that it is shared */
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
        take_back(writer, l1, entries, &copy);
    } else { /* named, or maybe: R2 */
        for_each_cluster(writer, copy.host_offset, copy.clusters << writer->header->cluster_bits,
                         true);
    }
    free(l1);
    return result;
}

/* --- Removing -------------------------------------------------------------------------------- */

/* The snapshot's L1 table, in host byte order; NULL with *result where there is none to be had. */
static uint64_t *read_l1(struct writer *writer, const struct snapshot *snapshot, int *result)
{
    uint64_t *l1 = malloc((size_t)snapshot->l1_entries * L1_ENTRY_BYTES + 1);

    *result = l1 == NULL ? -ENOMEM
                         : store_read(writer->image->file, snapshot->l1_offset, l1,
                                      (size_t)snapshot->l1_entries * L1_ENTRY_BYTES);
    if (*result < 0) {
        free(l1);
        return NULL;
    }
    for (uint32_t i = 0; i < snapshot->l1_entries; i++) {
        l1[i] = load_be64(&l1[i]);
    }
    return l1;
}

/* References, and then the table that made them. Errors leave leaks. */
static int drop_all(struct writer *writer, const uint64_t *l1, uint64_t entries, uint64_t l1_offset)
{
    uint64_t clusters = div_round_up(entries * L1_ENTRY_BYTES, writer_cluster_size(writer));
    int result = references_remove(writer, l1, entries, UINT64_MAX), last;

    allocator_return(writer->allocator, l1_offset, clusters);
    last = correct_copied(writer);
    return result == 0 ? last : result;
}

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
    l1 = read_l1(writer, &snapshot, &result);
    if (result == 0) {
        result = writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = edit_table(writer, &edit, &begun, error); /* `snapshot` has no name any more */
    }
    if (result == 0) {
        for_each_cluster(writer, snapshot.l1_offset, length, false);
        result = drop_all(writer, l1, snapshot.l1_entries, snapshot.l1_offset);
    }
    free(l1);
    return result;
}

/* --- Going back ------------------------------------------------------------------------------ */

#define L1_FIELDS (HEADER_REFCOUNT_TABLE_OFFSET - HEADER_SIZE)

static void encode_l1(const struct header *header, uint8_t fields[L1_FIELDS], uint64_t size,
                      uint64_t entries, uint64_t host_offset)
{
    store_be64(fields, size);
    store_be32(fields + (HEADER_CRYPT_METHOD - HEADER_SIZE), header->crypt_method);
    store_be32(fields + (HEADER_L1_SIZE - HEADER_SIZE), (uint32_t)entries);
    store_be64(fields + (HEADER_L1_TABLE_OFFSET - HEADER_SIZE), host_offset);
}

/* The header names the L1 table, and the size of the disk. */
static int switch_l1(struct writer *writer, uint64_t size, uint64_t entries, uint64_t host_offset,
                     bool *begun)
{
    struct header *header = writer->image->header;
    uint8_t fields[L1_FIELDS], before[L1_FIELDS];
    int result;

    encode_l1(header, fields, size, entries, host_offset);
    encode_l1(header, before, header->virtual_size, header->l1_entries, header->l1_offset);
    result = switch_fields(writer, HEADER_SIZE, fields, before, sizeof(fields), begun);
    if (result == 0) {
        header->virtual_size = size;
        header->l1_offset = host_offset; /* before the length: see struct header */
        header->l1_entries = (uint32_t)entries;
        atomic_store(&writer->image->virtual_size, size);
    }
    return result;
}

/* The L2 tables that the gate holds for those of the active state. */
static void know_tables(struct writer *writer, const uint64_t *l1, uint64_t entries, bool know)
{
    for (uint64_t i = 0; i < entries; i++) {
        if (l1_entry_table(l1[i]) == 0) {
            continue;
        }
        if (know) {
            (void)gate_know(writer->gate, GATE_TABLE_L2, l1_entry_table(l1[i]));
        } else {
            gate_forget(writer->gate, GATE_TABLE_L2, l1_entry_table(l1[i]));
        }
    }
}

static int go_back(struct writer *writer, const struct snapshot *snapshot, uint64_t *l1,
                   const uint64_t *old, uint64_t old_entries, struct error *error)
{
    const struct header *header = writer->header;
    uint64_t old_offset = header->l1_offset, entries = snapshot->l1_entries;
    uint64_t disk_size = snapshot->disk_size;
    struct allocation copy;
    bool begun;
    int result = share(writer, l1, entries, &copy), last;

    if (result < 0) {
        return result;
    }
    result = references_clear_copied(writer, l1, entries);
    if (result == 0) {
        result = sync_now(writer); /* R2, R3 */
    }
    if (result < 0) {
        take_back(writer, l1, entries, &copy);
        return result;
    }
    result = switch_l1(writer, disk_size, entries, copy.host_offset, &begun);
    if (result < 0) {
        if (!begun) {
            take_back(writer, l1, entries, &copy);
        }
        return result;
    }
    result = mapping_reload(writer->image->active, writer->image->path, error);
    if (result < 0) { /* what is in memory is another disk than what is on the disk */
        writer->refused = true;
        allocator_stop(writer->allocator);
        return result;
    }
    know_tables(writer, old, old_entries, false);
    know_tables(writer, l1, entries, true);
    last = drop_all(writer, old, old_entries, old_offset);
    return result == 0 ? last : result;
}

static int apply(struct writer *writer, size_t index, struct error *error)
{
    const struct snapshot *snapshot = &writer->image->snapshots->snapshots[index];
    uint64_t *l1, *old = NULL, old_entries;
    int result = snapshot_validate(writer->header, snapshot, writer->image->path, error);

    if (result < 0) {
        return result;
    }
    l1 = read_l1(writer, snapshot, &result);
    if (result == 0) {
        old = mapping_copy_l1(writer->image->active, &old_entries);
        result = old == NULL ? -ENOMEM : writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = go_back(writer, snapshot, l1, old, old_entries, error);
    }
    free(old);
    free(l1);
    return result;
}

static int empty(struct writer *writer, struct error *error)
{
    const struct snapshot nothing = {
        .l1_entries = writer->header->l1_entries,
        .disk_size = writer->image->virtual_size,
    };
    uint64_t *l1 = calloc((size_t)nothing.l1_entries + 1, L1_ENTRY_BYTES);
    uint64_t *old = NULL, old_entries;
    int result = l1 == NULL ? -ENOMEM : 0;

    if (result == 0) {
        old = mapping_copy_l1(writer->image->active, &old_entries);
        result = old == NULL ? -ENOMEM : writer_mark_dirty(writer);
    }
    if (result == 0) {
        result = go_back(writer, &nothing, l1, old, old_entries, error);
    }
    free(old);
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

    return result < 0 ? result : edit_table(writer, &edit, &begun, error);
}

static int do_apply(struct writer *writer, const struct request *request, struct error *error)
{
    return apply(writer, request->index, error);
}

static int do_empty(struct writer *writer, const struct request *request, struct error *error)
{
    (void)request;
    return empty(writer, error);
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
