/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "store/patched.h"
#include "util/json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void salvage_tell(struct salvage_work *work, enum salvage_certainty certainty, const char *what,
                  uint64_t count, const char *how)
{
    struct salvage_report *report = work->report;
    const struct salvage_fact fact = {certainty, what, count, how};
    bool is_count = strstr(what, "-entries") != NULL;

    for (size_t i = 0; i < report->count && !is_count; i++) {
        if (strcmp(report->facts[i].what, what) == 0) { /* better known by now */
            report->facts[i] = fact;
            return;
        }
    }
    if (report->count < SALVAGE_FACTS_MAX && (!is_count || count > 0)) {
        report->facts[report->count++] = fact;
    }
}

int salvage_no_memory(struct salvage_work *work)
{
    return error_set(work->error, ENOMEM, "%s: out of memory for salvaging it", work->path);
}

const char *salvage_certainty_name(enum salvage_certainty certainty)
{
    static const char *const names[] = {
        [SALVAGE_CERTAIN] = "certain",
        [SALVAGE_DEDUCED] = "deduced",
        [SALVAGE_MISSING] = "missing",
    };

    return names[certainty];
}

/* What was given, before anything is known. */
static int check_options(struct salvage_work *work)
{
    const struct salvage_options *options = work->options;

    if ((options->cluster_size & (options->cluster_size - 1)) != 0) {
        return error_set(work->error, EINVAL,
                         "%s: a cluster size of %" PRIu64 " bytes cannot be, it is a power of two",
                         work->path, options->cluster_size);
    }
    if (options->l1_offset >= work->file_size && options->l1_offset != 0) {
        return error_set(work->error, EINVAL,
                         "%s: there is no L1 table at offset %" PRIu64 ", the file has %" PRIu64
                         " bytes",
                         work->path, options->l1_offset, work->file_size);
    }
    return 0;
}

/* What was given, once the cluster size is known. */
static int check_geometry(struct salvage_work *work)
{
    const struct salvage_options *options = work->options;
    uint64_t size = work->header.cluster_size;

    if (options->l1_offset % size != 0) {
        return error_set(work->error, EINVAL,
                         "%s: there is no L1 table at offset %" PRIu64
                         ", where no cluster of %" PRIu64 " bytes begins",
                         work->path, options->l1_offset, size);
    }
    if (header_l1_entries_for(&work->header, options->virtual_size) >
        HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES) {
        return error_set(work->error, EINVAL,
                         "%s: a disk of %" PRIu64 " bytes is too large for clusters of %" PRIu64
                         " bytes",
                         work->path, options->virtual_size, size);
    }
    return 0;
}

static int work_through(struct salvage_work *work)
{
    struct store_info info;
    int result = store_info(work->file, &info);

    if (result < 0) {
        return error_set(work->error, -result, "%s: %s", work->path, strerror(-result));
    }
    work->file_size = work->report->file_size = info.size;
    result = check_options(work);
    if (result == 0) {
        result = salvage_begin_header(work);
    }
    if (result == 0) {
        result = salvage_open_entries(work);
    }
    if (result == 0) {
        result = salvage_find_l1(work);
    }
    if (result == 0) {
        result = check_geometry(work); /* the cluster size may be known no sooner */
    }
    if (result == 0) {
        result = store_patch(work->file, work->header.cluster_size, &work->patched) < 0
                     ? salvage_no_memory(work)
                     : 0;
    }
    if (result == 0) {
        result = salvage_finish_header(work);
    }
    return result == 0 ? salvage_repair_entries(work) : result;
}

int salvage_open(struct store *file, const char *path, const struct salvage_options *options,
                 struct store **store, struct salvage_report *report, struct error *error)
{
    struct salvage_work work = {
        .file = file, .path = path, .options = options, .report = report, .error = error};
    int result;

    *report = (struct salvage_report){.count = 0};
    result = work_through(&work);
    salvage_close_entries(&work);
    snapshot_table_free(work.snapshots);
    free(work.first);
    free(work.l1);
    free(work.bad);
    free(work.orphans);
    if (result < 0) {
        store_close(work.patched != NULL ? work.patched : file);
        return result;
    }
    *store = work.patched;
    return 0;
}

struct json *salvage_json(const struct salvage_report *report, const char *path)
{
    struct json *object = json_new_object(), *list = json_new_array();

    json_put_text(object, "file", path);
    for (size_t i = 0; i < report->count; i++) {
        const struct salvage_fact *fact = &report->facts[i];
        struct json *item = json_new_object();

        json_put_text(item, "what", fact->what);
        json_put_text(item, "certainty", salvage_certainty_name(fact->certainty));
        json_put_number(item, strstr(fact->what, "-entries") != NULL ? "count" : "value",
                        fact->count);
        if (fact->how != NULL) {
            json_put_text(item, "how", fact->how);
        }
        json_add(list, item);
    }
    json_put(object, "facts", list);
    return object;
}
