/* SPDX-License-Identifier: MIT */
/* What must be true of an image after a run, and of what a crash would have left of it. */
#include "config.h"

#include "run.h"

#include "check/check.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- Counts ----------------------------------------------------------------------------------- */

struct lines {
    char text[1024];
    size_t used;
};

static void collect(void *context, enum check_finding finding, const char *line)
{
    struct lines *lines = context;

    (void)finding;
    if (lines->used < sizeof(lines->text)) {
        lines->used += (size_t)snprintf(lines->text + lines->used,
                                        sizeof(lines->text) - lines->used, "; %s", line);
    }
}

static void check_counts(struct run *run, const char *when, bool leaks)
{
    struct lines lines = {.used = 0};
    const struct check_options options = {.report = collect, .context = &lines};
    struct check_result result;
    struct error error = {0};

    if (check_image(run->image->header, run->image->file, "image", &options, &result, &error) < 0) {
        run_wrong(run, "%s it cannot be checked: %s", when, error.text);
    } else if (result.errors > 0 || result.unreadable > 0 || (!leaks && result.leaks > 0)) {
        run_wrong(run, "%s it has %llu errors and %llu leaks%s", when,
                  (unsigned long long)result.errors, (unsigned long long)result.leaks, lines.text);
    }
}

/* --- Contents --------------------------------------------------------------------------------- */

/* What the disk shows; zeros behind its end. NULL after an error, which is told. */
static uint64_t *read_disk(struct run *run, const char *when)
{
    uint64_t grains = run->history.grains;
    uint64_t *values = grab(grains * sizeof(*values));
    uint8_t *bytes = grab(grains * GRAIN);
    int result = 0;

    if (view_size(run->view) > grains * GRAIN) {
        run_wrong(run, "%s the disk has %llu bytes", when,
                  (unsigned long long)view_size(run->view));
    }
    result = view_read(run->view, 0, bytes, grains * GRAIN);
    if (result < 0) {
        run_wrong(run, "%s the disk cannot be read: %s; %s", when, strerror(-result),
                  run->last_line);
    }
    for (uint64_t grain = 0; grain < grains && result == 0; grain++) {
        if (!grain_value(bytes + grain * GRAIN, &values[grain])) {
            run_wrong(run, "%s the disk shows a torn sector at %llu", when,
                      (unsigned long long)(grain * GRAIN));
            break;
        }
    }
    free(bytes);
    return values;
}

static void check_snapshots(struct run *run, const char *when)
{
    const struct template *template = run->plan.template;

    for (size_t i = 0; i < template->kind->snapshots; i++) {
        const struct file_bytes *is = &template->snapshots[i];
        uint8_t *bytes = grab(is->size);

        if (view_read(run->snapshots[i], 0, bytes, is->size) < 0 ||
            memcmp(bytes, is->bytes, is->size) != 0) {
            run_wrong(run, "%s snapshot %zu is not what it was", when, i);
        }
        free(bytes);
    }
}

/* A raw data file is the disk; qemu-img makes it a whole number of clusters. */
static void check_data_file(struct run *run, const char *when, const struct host *data)
{
    uint64_t size = view_size(run->view), same = 0;
    uint8_t *bytes;

    if (!run->plan.template->kind->raw_data_file) {
        return;
    }
    bytes = grab(size);
    if (host_size(data) < size || view_read(run->view, 0, bytes, size) < 0) {
        run_wrong(run, "%s the data file of %llu bytes is not the disk of %llu bytes", when,
                  (unsigned long long)host_size(data), (unsigned long long)size);
        size = 0;
    }
    while (same < size && bytes[same] == host_bytes(data)[same]) {
        same++;
    }
    if (same < size) {
        run_wrong(run, "%s the data file has %#x at %llu, where the disk shows %#x", when,
                  host_bytes(data)[same], (unsigned long long)same, bytes[same]);
    }
    free(bytes);
}

/* --- qemu-img ----------------------------------------------------------------------------------
 */

static void ask_qemu(struct run *run, const char *when, struct host *const *hosts)
{
    const struct template *template = run->plan.template;
    int status;

    write_file(template->path, host_bytes(hosts[0]), host_size(hosts[0]));
    if (hosts[1] != NULL) {
        write_file(template->data_path, host_bytes(hosts[1]), host_size(hosts[1]));
    }
    status = run_program(
        (const char *const[]){"qemu-img", "check", "-f", "qcow2", template->path, NULL});
    if (status != 0) {
        run_wrong(run, "%s qemu-img check ended with status %d", when, status);
    }
}

/* --- After a run -------------------------------------------------------------------------------
 */

/* Opens it to write, which repairs what is marked dirty, and closes it. */
static bool repair(struct run *run, struct host *const *hosts)
{
    const struct writer_options options = {
        .discard = run->plan.discard,
        .check = WRITER_CHECK_OFF, /* what was left is compared afterwards */
    };
    struct error error = {0};

    if (!run_open(run, hosts, &options, &error)) {
        run_wrong(run, "it cannot be opened to be repaired: %s", error.text);
        return false;
    }
    if (run_close(run) < 0) {
        run_wrong(run, "it cannot be closed after a repair: %s", run->last_line);
        return false;
    }
    return true;
}

static bool is_dirty(const struct run *run)
{
    return (run->image->header->incompatible_features & INCOMPATIBLE_DIRTY) != 0;
}

/* `unsure`: what failed may have left leaks, or counts that only a repair puts in order. */
static void verify_counts(struct run *run, const char *when, bool unsure)
{
    if (!is_dirty(run)) {
        check_counts(run, when, unsure);
    } else if (!unsure) {
        run_wrong(run, "%s it is marked dirty (R5)", when);
    }
}

static void verify_contents(struct run *run, struct checker *checker, const char *when)
{
    uint64_t *values = read_disk(run, when);

    if (!atomic_load(&run->wrong) && !history_check_end(checker, values, run->out)) {
        atomic_store(&run->wrong, true);
    }
    check_snapshots(run, when);
    snapshots_check(run, checker, NEVER, when);
    bitmaps_check_end(run, values, when);
    check_data_file(run, when, run->hosts[1]);
    free(values);
}

/* A directory of bitmaps that could not be read: nobody knows what they have, so that is leaked. */
static bool gave_bitmaps_up(const struct run *run)
{
    return run->plan.template->kind->bitmaps && atomic_load(&run->trouble.failed) > 0 &&
           (run->image->header->autoclear_features & AUTOCLEAR_BITMAPS) == 0;
}

static void verify_end(struct run *run, struct checker *checker)
{
    const char *when = "after it was closed,";
    bool sync_failed = atomic_load(&run->trouble.failed_syncs) > 0;
    bool unsure = sync_failed || atomic_load(&run->change_failed);
    struct error error = {0};
    bool dirty;

    if (!run_open(run, run->hosts, NULL, &error)) {
        return run_wrong(run, "%s it cannot be opened: %s", when, error.text);
    }
    dirty = is_dirty(run);
    unsure |= gave_bitmaps_up(run);
    verify_counts(run, when, unsure);
    if (sync_failed) { /* the file may be behind what the disk showed (R7) */
        uint64_t *values = read_disk(run, when);

        check_snapshots(run, when);
        bitmaps_check_crash(run, values, NEVER, when);
        free(values);
    } else {
        verify_contents(run, checker, when);
    }
    (void)run_close(run);
    if (dirty && !sync_failed && !atomic_load(&run->wrong) && repair(run, run->hosts)) {
        run->change_failed = false;
        return verify_end(run, checker);
    }
    if (run->options->qemu && !unsure && !atomic_load(&run->wrong)) {
        ask_qemu(run, when, run->hosts);
    }
}

/* --- After a crash -----------------------------------------------------------------------------
 */

static bool look_at_crash(struct run *run, struct checker *checker, const struct crash *crash,
                          const char *when, bool leaks, bool *dirty)
{
    struct error error = {0};
    uint64_t *values;

    if (!run_open(run, crash->hosts, NULL, &error)) {
        run_wrong(run, "%s it cannot be opened: %s", when, error.text);
        return false;
    }
    *dirty = is_dirty(run);
    if (!*dirty) {
        check_counts(run, when, leaks);
    }
    values = read_disk(run, when);
    snapshots_check(run, checker, crash->moment, when);
    if (!atomic_load(&run->wrong) &&
        !history_check_crash(checker, values, crash->moment, run->out)) {
        atomic_store(&run->wrong, true);
    }
    check_snapshots(run, when);
    bitmaps_check_crash(run, values, crash->moment, when);
    (void)run_close(run);
    free(values);
    return !atomic_load(&run->wrong);
}

static void verify_crash(struct run *run, struct checker *checker, const struct crash *crash)
{
    bool dirty;

    if (look_at_crash(run, checker, crash, "after a crash", true, &dirty) && dirty &&
        repair(run, crash->hosts)) {
        (void)look_at_crash(run, checker, crash, "after a crash and a repair", false, &dirty);
        if (dirty) {
            run_wrong(run, "after a crash and a repair it is marked dirty");
        }
    }
}

bool run_verify(struct run *run)
{
    struct checker *checker;

    if (atomic_load(&run->wrong)) {
        return false;
    }
    checker = checker_create(&run->history);
    if (!history_check_reads(checker, run->out)) {
        atomic_store(&run->wrong, true);
    }
    snapshots_check_reads(run, checker);
    bitmaps_check_looks(run);
    if (!atomic_load(&run->wrong)) {
        verify_end(run, checker);
    }
    for (size_t i = 0; i < run->crash_count && !atomic_load(&run->wrong); i++) {
        verify_crash(run, checker, &run->crashes[i]);
    }
    checker_destroy(checker);
    return !atomic_load(&run->wrong);
}
