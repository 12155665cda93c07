/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "run.h"

#include "disk/bitmaps.h"
#include "disk/snapshots.h"
#include "meta/format.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_SIZE (UINT64_C(8) << 20)

/* --- Opening ------------------------------------------------------------------------------- */

static struct session_options options_of(const struct workload *workload)
{
    return (struct session_options){
        .writer = {.check = WRITER_CHECK_OFF, /* a count that is too low shall do what it can */
                   .tables_at_once = 1,
                   .discard = workload->discard,
                   .keeps_bitmaps = workload->bitmaps,
                   .write_through = workload->write_through,
                   .compress = workload->compresses ? "" : NULL,
                   .growable = workload->growable},
        .writable = true,
        .tiny_caches = workload->tiny_caches,
    };
}

static void failed(struct run *run, int result, const char *what)
{
    if (result == 0) {
        return;
    }
    if (!run->may_fail) {
        die("%s: %s failed: %s; %s", run->base->workload->name, what, strerror(-result),
            run->session.last_line);
    }
    if (run->first_error == 0) {
        run->first_error = result;
        run->first_failed = what;
        run->failed_at = run->log.count;
    }
}

static void open_run(struct run *run)
{
    struct error error = {0};
    int result = session_open(&run->session, &run->stack, &run->options, &error);

    if (result < 0 && !run->may_fail) {
        die("%s: %s", run->base->workload->name, error.text);
    }
    failed(run, result, "opening");
    run->open = result == 0;
    if (run->open && run->first_error != 0) {
        model_keep_size(&run->model, run_size(run));
    }
}

void run_close(struct run *run)
{
    struct model_request request = model_flush(&run->model);
    int result;

    if (run->open) {
        result = session_close(&run->session);
        run->open = false;
        model_done(&run->model, &request, result);
        if (result < 0) {
            model_lose(&run->model);
        }
        failed(run, result, "closing");
        run->flush_lied =
            run->flush_lied || (result == 0 && run->faults.hit_sync && !run->faults.silent);
    }
}

void run_reopen(struct run *run)
{
    run_close(run);
    /* A host on which a sync has failed is not to be trusted with more. */
    if (!run->faults.hit_sync) {
        open_run(run);
    }
}

/* --- Requests ------------------------------------------------------------------------------ */

void run_write(struct run *run, uint64_t offset, uint64_t length)
{
    uint8_t *data;
    struct model_request request;
    int result;

    if (!run->open || length == 0) {
        return;
    }
    data = grab(length);
    request = model_write(&run->model, offset, length, data);
    result = writer_write(run->session.writer, offset, data, length);
    model_done(&run->model, &request, result);
    failed(run, result, "writing");
    free(data);
}

void run_append(struct run *run, uint64_t length)
{
    struct model_request growth, request;
    uint64_t end = run_size(run);
    uint8_t *data;
    int result;

    if (!run->open) {
        return;
    }
    data = grab(length);
    growth = model_resize(&run->model, end, end + length);
    request = model_write(&run->model, end, length, data);
    result = writer_write(run->session.writer, end, data, length);
    model_done(&run->model, &growth, result);
    model_done(&run->model, &request, result);
    if (result < 0) {
        model_keep_size(&run->model, run_size(run));
    }
    failed(run, result, "writing behind the end");
    free(data);
}

void run_zero(struct run *run, uint64_t offset, uint64_t length, bool unmap)
{
    struct model_request request;
    int result;

    if (!run->open || length == 0) {
        return;
    }
    request = model_write(&run->model, offset, length, NULL);
    result = writer_zero(run->session.writer, offset, length, unmap, NULL);
    model_done(&run->model, &request, result);
    failed(run, result, "zeroing");
}

void run_preallocate(struct run *run, uint64_t offset, uint64_t length, bool sparse)
{
    struct writer *writer = run->session.writer;

    if (run->open) {
        failed(run,
               sparse ? writer_preallocate_sparse(writer, offset, length, NULL)
                      : writer_preallocate(writer, offset, length, NULL),
               "preallocating");
    }
}

void run_resize(struct run *run, uint64_t size)
{
    struct model_request request;
    int result;

    if (!run->open) {
        return;
    }
    request = model_resize(&run->model, run_size(run), size);
    result = writer_resize(run->session.writer, size, NULL);
    model_done(&run->model, &request, result);
    if (result < 0) { /* the next flush is of a disk of the size that it has */
        model_keep_size(&run->model, run_size(run));
    }
    failed(run, result, "resizing");
}

void run_flush(struct run *run)
{
    struct model_request request;
    bool lie;
    int result;

    if (!run->open) {
        return;
    }
    lie = run->faults.hit_sync && !run->faults.silent;
    request = model_flush(&run->model);
    result = writer_flush(run->session.writer);
    model_done(&run->model, &request, result);
    failed(run, result, "flushing");
    if (run->base->workload->fills && run_below(run, 2) == 0) {
        writer_fill(run->session.writer); /* a thread would, sooner or later */
    }
    if (lie && result == 0) {
        run->flush_lied = true;
    }
}

/* --- Bitmaps ------------------------------------------------------------------------------- */

/* From an image that is not the one under test: nothing of it is recorded, and its host never
 * fails. */
static int copy_bitmap(struct run *run, const char *name, struct error *error)
{
    const struct session_options options = {.writable = false};
    struct session session = {0};
    struct stack stack;
    int result;

    stack_init(&stack, run->base->stack.path);
    stack_copy(&stack, &run->base->stack);
    if (session_open(&session, &stack, &options, error) < 0) {
        die("%s: %s", run->base->workload->name, error->text);
    }
    result = writer_bitmap_copy(run->session.writer, name, session.image, error);
    session_close(&session);
    stack_release(&stack);
    return result;
}

void run_bitmap(struct run *run, enum run_bitmap_change change, const char *name, uint64_t argument,
                const char *from)
{
    struct session *session = &run->session;
    struct error error = {0};
    size_t begun;
    int result = 0;

    if (!run->open) {
        return;
    }
    begun = crash_log_mark(&run->log, "bitmaps");
    switch (change) {
    case RUN_BITMAP_ADD:
        result = writer_bitmap_add(session->writer, name, argument, &error);
        break;
    case RUN_BITMAP_REMOVE:
        result = writer_bitmap_remove(session->writer, name, &error);
        break;
    case RUN_BITMAP_CLEAR:
        result = writer_bitmap_clear(session->writer, name, &error);
        break;
    case RUN_BITMAP_ENABLE:
        result = writer_bitmap_enable(session->writer, name, argument != 0, &error);
        break;
    case RUN_BITMAP_MERGE:
        result = writer_bitmap_merge(session->writer, name, session->image, from, &error);
        break;
    case RUN_BITMAP_COPY:
        result = copy_bitmap(run, name, &error);
        break;
    }
    bitmap_states_add(&run->model.bitmaps, result == 0 ? bitmaps_describe(session->image) : NULL,
                      begun, crash_log_mark(&run->log, result == 0 ? "done" : "failed"));
    failed(run, result, "changing a bitmap");
}

/* --- Snapshots ----------------------------------------------------------------------------- */

void run_snapshot(struct run *run)
{
    struct error error = {0};
    uint64_t size = run_size(run);
    uint8_t *bytes;
    size_t index;
    int result;

    if (!run->open || run->model.snapshot_count == MODEL_SNAPSHOTS) {
        return;
    }
    bytes = grab(size);
    if (view_read(run->session.view, 0, bytes, size) < 0) {
        free(bytes); /* the host fails just now */
        return;
    }
    index = model_snapshot(&run->model, bytes, size);
    result = writer_snapshot_make(run->session.writer, run->model.snapshots[index].name, &error);
    model_snapshot_made(&run->model, index, result);
    failed(run, result, "making a snapshot");
}

/* The index in the image of the model's snapshot; SIZE_MAX where it has none such. */
static size_t find_snapshot(const struct run *run, size_t index)
{
    const struct snapshot_table *table = run->session.image->snapshots;

    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->snapshots[i].name, run->model.snapshots[index].name) == 0) {
            return i;
        }
    }
    return SIZE_MAX;
}

void run_remove_snapshot(struct run *run)
{
    for (size_t i = 0; i < run->model.snapshot_count && run->open; i++) {
        size_t found = find_snapshot(run, i);
        struct error error = {0};
        int result;

        if (found == SIZE_MAX) {
            continue;
        }
        model_snapshot_dies(&run->model, i);
        result = writer_snapshot_remove(run->session.writer, found, &error);
        model_snapshot_removed(&run->model, i, result);
        failed(run, result, "removing a snapshot");
        return;
    }
}

void run_go_back(struct run *run)
{
    for (size_t i = run->model.snapshot_count; i > 0 && run->open; i--) {
        const struct model_snapshot *snapshot = &run->model.snapshots[i - 1];
        size_t found = find_snapshot(run, i - 1);
        struct error error = {0};
        struct model_request request;
        int result;

        if (found == SIZE_MAX) {
            continue;
        }
        request = model_replace(&run->model, snapshot->bytes, snapshot->size);
        result = writer_snapshot_apply(run->session.writer, found, &error);
        model_done(&run->model, &request, result);
        failed(run, result, "going back to a snapshot");
        return;
    }
}

uint64_t run_size(const struct run *run)
{
    /* After a resize that failed, the model's is only a guess. */
    return run->open ? view_size(run->session.view) : 0;
}

uint64_t run_below(struct run *run, uint64_t limit)
{
    return chance_below(&run->chance, limit);
}

/* --- A run
 * ---------------------------------------------------------------------------------------- */

static void start(struct run *run, const struct base *base)
{
    unsigned i;

    *run = (struct run){
        .base = base,
        .options = options_of(base->workload),
        .chance = chance_from(base->seed, hash_name(base->workload->name), 1),
    };
    stack_init(&run->stack, base->stack.path);
    stack_copy(&run->stack, &base->stack);
    crash_log_init(&run->log);
    model_init(&run->model, &run->log, base->disk, base->size, base->workload->most);
    run->model.generation = base->generation;
    if (base->bitmaps != NULL) {
        bitmap_states_add(&run->model.bitmaps, strdup(base->bitmaps), 0, 0);
    }
    for (i = 0; i < DISKS; i++) {
        run->stack.disks[i].log = &run->log;
    }
}

void run_workload(struct run *run, const struct base *base, const struct fault_plan *faults)
{
    unsigned i;

    start(run, base);
    if (faults != NULL) {
        run->faults = *faults;
        run->may_fail = true;
        for (i = 0; i < DISKS; i++) {
            run->stack.disks[i].faults = &run->faults;
        }
    }
    open_run(run);
    base->workload->script(run);
    run_close(run);
    for (i = 0; i < DISKS; i++) {
        run->stack.disks[i].log = NULL;
        run->stack.disks[i].faults = NULL;
    }
}

void run_release(struct run *run)
{
    model_release(&run->model);
    crash_log_release(&run->log);
    stack_release(&run->stack);
}

/* --- The base
 * ------------------------------------------------------------------------------------- */

static uint8_t *read_view(struct view *view, uint64_t *size)
{
    uint8_t *bytes;

    *size = view_size(view);
    bytes = grab(*size);
    if (view_read(view, 0, bytes, *size) < 0) {
        die("the base image cannot be read");
    }
    return bytes;
}

static void look(struct base *base)
{
    const struct session_options options = {.writable = false};
    struct session session;
    struct error error = {0};
    size_t i;

    if (session_open(&session, &base->stack, &options, &error) < 0) {
        die("%s: the base image: %s", base->workload->name, error.text);
    }
    free(base->disk);
    base->disk = read_view(session.view, &base->size);
    base->autoclear = session.image->header->autoclear_features &
                      ~(AUTOCLEAR_RAW_EXTERNAL_DATA | AUTOCLEAR_BITMAPS);
    if (base->workload->bitmaps) {
        base->bitmaps = bitmaps_describe(session.image);
    }
    base->snapshot_count = session.image->snapshots->count;
    for (i = 0; i < base->snapshot_count; i++) {
        struct view *view;

        if (view_open_snapshot(session.image, i, &view, &error) < 0) {
            die("%s: the base image: %s", base->workload->name, error.text);
        }
        free(base->snapshots[i]);
        base->snapshots[i] = read_view(view, &base->snapshot_sizes[i]);
        view_close(view);
    }
    session_close(&session);
}

/* Does what is not recorded; with `crashed`, the image is left as it is in the midst of it. */
static void change_base(struct base *base, void (*script)(struct run *), bool crashed)
{
    struct run run;

    if (script == NULL) {
        return;
    }
    look(base);
    start(&run, base);
    open_run(&run);
    script(&run);
    if (crashed) {
        run_flush(&run);
        stack_copy(&base->stack, &run.stack);
        run_close(&run);
    } else {
        run_close(&run);
        stack_copy(&base->stack, &run.stack);
    }
    base->generation = run.model.generation;
    run_release(&run);
}

static void load(struct base *base)
{
    uint64_t size;
    uint8_t *bytes = read_file(base->stack.path, &size);
    struct disk *image = &base->stack.disks[DISK_IMAGE];

    disk_set_size(image, 0);
    disk_set_size(image, size);
    memcpy(image->data, bytes, size);
    free(bytes);
    image->fills = base->workload->fills;
    if (base->workload->device) {
        disk_set_size(image, DEVICE_SIZE);
        memset(image->data + size, 0x5a, DEVICE_SIZE - size);
        image->device = true;
    }
    if (base->stack.has_data_file) {
        bytes = read_file(base->stack.data_path, &size);
        disk_set_size(&base->stack.disks[DISK_DATA], size);
        memcpy(base->stack.disks[DISK_DATA].data, bytes, size);
        free(bytes);
    }
}

static void save(const struct base *base)
{
    const struct disk *image = &base->stack.disks[DISK_IMAGE];

    write_file(base->stack.path, image->data, image->size);
}

static void must_run(const char *const *arguments)
{
    int status = run_program(arguments);

    if (status != 0) {
        die("%s %s ended with status %d", arguments[0], arguments[1], status);
    }
}

/* A raw disk of `size` bytes with something in it here and there, that deflates. */
static void fill_raw(struct base *base, const char *path, uint64_t size)
{
    struct chance chance = chance_from(base->seed, hash_name("raw"), size);
    uint8_t *bytes = grab(size);
    uint64_t at;

    for (at = 0; at + SECTOR <= size; at += SECTOR) {
        if (chance_below(&chance, 3) > 0) {
            snprintf((char *)bytes + at, SECTOR, "behind, sector %llu ",
                     (unsigned long long)(at / SECTOR));
            memset(bytes + at + 64, (int)(at / SECTOR % 251) + 1, SECTOR - 64);
        }
    }
    write_file(path, bytes, size);
    if (base->workload->backing) {
        disk_set_size(&base->stack.backing, size);
        memcpy(base->stack.backing.data, bytes, size);
        base->stack.has_backing = true;
    }
    free(bytes);
}

static void create(struct base *base)
{
    const struct workload *workload = base->workload;
    char options[1024], size[32], raw[1024];

    snprintf(raw, sizeof(raw), "%s.raw", base->stack.path);
    snprintf(size, sizeof(size), "%llu", (unsigned long long)workload->size);
    snprintf(options, sizeof(options), "%s%s%s", workload->create,
             workload->data_file ? ",data_file=" : "",
             workload->data_file ? base->stack.data_path : "");
    base->stack.has_data_file = workload->data_file;
    base->stack.is_encrypted = workload->encrypted;
    if (workload->backing || workload->compressed) {
        fill_raw(base, raw, workload->size / 4 * 3 / SECTOR * SECTOR);
    }
    if (workload->compressed) {
        must_run((const char *const[]){"qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
                                       "-o", options, raw, base->stack.path, NULL});
        must_run((const char *const[]){"qemu-img", "resize", "-q", base->stack.path, size, NULL});
    } else if (workload->backing) {
        must_run((const char *const[]){"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                                       raw, "-o", options, base->stack.path, size, NULL});
    } else {
        must_run((const char *const[]){"qemu-img", "create", "-q", "-f", "qcow2", "-o", options,
                                       base->stack.path, size, NULL});
    }
    if (workload->bitmap) {
        must_run((const char *const[]){"qemu-img", "bitmap", "--add", "-g", "512", base->stack.path,
                                       "fine", NULL});
        must_run((const char *const[]){"qemu-img", "bitmap", "--add", "-g", "4096",
                                       base->stack.path, "coarse", NULL});
        must_run((const char *const[]){"qemu-img", "bitmap", "--add", "--disable", "-g", "512",
                                       base->stack.path, "still", NULL});
    }
}

void base_make(struct base *base, const struct workload *workload, uint64_t seed,
               const char *directory)
{
    char path[1024];
    unsigned i;

    *base = (struct base){.workload = workload, .seed = seed};
    snprintf(path, sizeof(path), "%s/%s.qcow2", directory, workload->name);
    stack_init(&base->stack, path);
    create(base);
    load(base);
    change_base(base, workload->prepare, false);
    for (i = 0; i < workload->snapshots; i++) {
        save(base);
        must_run((const char *const[]){"qemu-img", "snapshot", "-c", i == 0 ? "one" : "two", path,
                                       NULL});
        load(base);
        change_base(base, workload->change, workload->crashed);
    }
    if (workload->bitmaps) {
        save(base);
        must_run((const char *const[]){"qemu-img", "bitmap", "--add", "-g", "1024", path, "first",
                                       NULL});
        must_run((const char *const[]){"qemu-io", "-f", "qcow2", "-c", "write 5k 9k", "-c",
                                       "write 40k 1k", path, NULL});
        load(base);
    }
    if (workload->snapshots == 0) {
        change_base(base, workload->change, workload->crashed);
    }
    look(base);
}

void base_release(struct base *base)
{
    size_t i;

    for (i = 0; i < RUN_SNAPSHOTS; i++) {
        free(base->snapshots[i]);
    }
    free(base->bitmaps);
    free(base->disk);
    stack_release(&base->stack);
}
