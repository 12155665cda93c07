/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "verify.h"

#include "check/check.h"
#include "meta/format.h"
#include "util/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEHIND (UINT64_C(4) << 20) /* bytes: more than a workload reserves at once */

#define GROWTH (UINT64_C(96) << 10) /* bytes: by at most so much a state is made larger */

#define FOUND(verify, ...) (snprintf((verify)->text, VERIFY_TEXT, __VA_ARGS__), (verify)->text)

void verify_init(struct verify *verify, const struct base *base, const struct model *model,
                 struct stack *stack)
{
    *verify = (struct verify){
        .base = base,
        .model = model,
        .stack = stack,
        .bytes = grab(model->sectors * SECTOR + GROWTH),
        .more = grab(model->sectors * SECTOR + GROWTH),
    };
}

void verify_release(struct verify *verify)
{
    free(verify->bytes);
    free(verify->more);
}

/* --- Refcounts ----------------------------------------------------------------------------- */

struct lines {
    char text[1024];
    size_t used;
    uint64_t copied; /* that say no more than that a COPIED bit is wrong */
};

static void collect(void *context, enum check_finding finding, const char *line)
{
    struct lines *lines = context;

    lines->copied += strstr(line, "has the COPIED bit") != NULL;
    if (finding != CHECK_LEAK && lines->used < sizeof(lines->text)) {
        lines->used += (size_t)snprintf(lines->text + lines->used,
                                        sizeof(lines->text) - lines->used, "; %s", line);
    }
}

/*
 * Counts all references. `leaks`: where their number goes; with those that a
 * crash left behind the end of the file, which a longer file brings to light.
 */
static const char *check_counts(struct verify *verify, struct session *session, uint64_t *leaks,
                                const char *when)
{
    struct disk *disk = &verify->stack->disks[DISK_IMAGE];
    struct lines lines = {.used = 0};
    const struct check_options options = {.report = collect, .context = &lines};
    uint64_t size = disk->size;
    struct check_result result;
    struct error error = {0};
    int status;

    if (leaks != NULL && !disk->device) {
        disk_set_size(disk, size + BEHIND);
    }
    status = check_image(session->image->header, session->image->file, "image", &options, &result,
                         &error);
    disk_set_size(disk, size);
    if (status < 0) {
        return FOUND(verify, "%s: %s", when, error.text);
    }
    if (result.falsely_copied > 0) { /* nothing would be written to it any more */
        return FOUND(verify, "%s: COPIED bits are set of what is shared%s", when, lines.text);
    }
    /* While a snapshot is made or removed they do not agree with the counts; it does no harm. */
    if (session->image->header->version < 3 && verify->model->snapshot_count > 0) {
        verify->copied = verify->copied || lines.copied > 0;
        result.errors -= min_u64(result.errors, lines.copied);
    }
    if (result.errors > 0 || result.unreadable > 0) {
        return FOUND(verify, "%s: %llu errors%s", when, (unsigned long long)result.errors,
                     lines.text);
    }
    if (leaks != NULL) {
        *leaks = result.leaks;
    }
    return NULL;
}

/* --- Contents ------------------------------------------------------------------------------ */

static const char *check_snapshot(struct verify *verify, struct session *session, size_t index,
                                  const uint8_t *bytes, uint64_t size)
{
    const char *name = session->image->snapshots->snapshots[index].name;
    struct error error = {0};
    struct view *view;
    uint64_t found;
    int result;

    if (view_open_snapshot(session->image, index, &view, &error) < 0) {
        return FOUND(verify, "%s", error.text);
    }
    found = view_size(view);
    result = found == size ? view_read(view, 0, verify->more, size) : -1;
    view_close(view);
    return result == 0 && memcmp(verify->more, bytes, size) == 0
               ? NULL
               : FOUND(verify, "snapshot '%s' is not what it was", name);
}

static size_t find_snapshot(const struct session *session, const char *name)
{
    const struct snapshot_table *table = session->image->snapshots;
    size_t i = 0;

    while (i < table->count && strcmp(table->snapshots[i].name, name) != 0) {
        i++;
    }
    return i;
}

/* Those of the run: which must be there, may be there, or may not. */
static const char *check_made(struct verify *verify, struct session *session, size_t *count)
{
    for (size_t i = 0; i < verify->model->snapshot_count; i++) {
        const struct model_snapshot *made = &verify->model->snapshots[i];
        size_t index = find_snapshot(session, made->name), crash = verify->moment.crash;
        bool there = index < session->image->snapshots->count;
        const char *found;

        if (!there && made->made < crash && made->dying >= crash) {
            return FOUND(verify, "snapshot '%s', which was made, is not there", made->name);
        }
        if (there && (made->born >= crash || made->removed < crash)) {
            return FOUND(verify, "snapshot '%s', which cannot be there, is", made->name);
        }
        found = there ? check_snapshot(verify, session, index, made->bytes, made->size) : NULL;
        if (found != NULL) {
            return found;
        }
        *count += there;
    }
    return NULL;
}

static const char *check_snapshots(struct verify *verify, struct session *session)
{
    const struct base *base = verify->base;
    size_t count = base->snapshot_count, i;
    const char *found = check_made(verify, session, &count);

    if (found != NULL) {
        return found;
    }
    if (session->image->snapshots->count != count) {
        return FOUND(verify, "there are %zu snapshots", session->image->snapshots->count);
    }
    for (i = 0; i < base->snapshot_count && found == NULL; i++) {
        found = check_snapshot(verify, session, i, base->snapshots[i], base->snapshot_sizes[i]);
    }
    return found;
}

static const char *check_bitmaps(struct verify *verify, struct session *session)
{
    const char *found = NULL;
    char *text;

    if (!verify->base->workload->bitmaps) {
        return NULL;
    }
    text = bitmaps_describe(session->image);
    if (text == NULL) {
        return FOUND(verify, "the bitmaps cannot be read");
    }
    if (!bitmap_states_allow(&verify->model->bitmaps, verify->moment.crash, text)) {
        found = FOUND(verify, "the bitmaps are neither what was nor what was to be: %s", text);
    }
    free(text);
    return found;
}

/* R6: one that claims to be true has all that was ever changed. */
static const char *check_recorded(struct verify *verify, const struct session *session)
{
    const struct base *base = verify->base;
    struct recorded recorded = {.before = base->disk,
                                .before_size = base->size,
                                .now = verify->bytes,
                                .now_size = verify->size,
                                .least_size = model_least_size(verify->model, base->size)};
    char text[256];
    size_t claim;
    const char *found;

    if (!base->workload->bitmap) {
        return NULL;
    }
    found = bitmaps_check(session->image, &recorded, &claim, text, sizeof(text));
    if (found != NULL) {
        return FOUND(verify, "%s", found);
    }
    return verify->ended && claim != 3 ? FOUND(verify, "closed, with %zu bitmaps in order", claim)
                                       : NULL;
}

/* R6: an image that still has the bits is the one from before. */
static const char *check_autoclear(struct verify *verify, struct session *session)
{
    const struct disk *now = &verify->stack->disks[DISK_IMAGE];
    const struct disk *before = &verify->base->stack.disks[DISK_IMAGE];

    if ((session->image->header->autoclear_features & verify->base->autoclear) != 0 &&
        (now->size < before->size || memcmp(now->data, before->data, before->size) != 0)) {
        return FOUND(verify, "something was changed while an autoclear bit stood (R6)");
    }
    return NULL;
}

static const char *check_contents(struct verify *verify, struct session *session)
{
    uint64_t size = view_size(session->view);
    const char *found;

    if (size > verify->model->sectors * SECTOR) {
        return FOUND(verify, "the disk has %llu bytes", (unsigned long long)size);
    }
    if (view_read(session->view, 0, verify->bytes, size) < 0) {
        return FOUND(verify, "the disk cannot be read: %s", session->last_line);
    }
    found =
        model_check(verify->model, &verify->moment, verify->bytes, size, verify->text, VERIFY_TEXT);
    if (found == NULL) {
        found = check_snapshots(verify, session);
    }
    if (found == NULL) {
        found = check_bitmaps(verify, session);
    }
    if (found == NULL) {
        verify->size = size;
        found = check_recorded(verify, session);
    }
    return found != NULL ? found : check_autoclear(verify, session);
}

/* --- qemu-img
 * ------------------------------------------------------------------------------------- */

static const char *ask_qemu(struct verify *verify, bool leaks)
{
    const struct stack *stack = verify->stack;
    const char *const check[] = {"qemu-img", "check", "-f", "qcow2", stack->path, NULL};
    char raw[1024];
    uint64_t raw_size;
    uint8_t *bytes;
    int status;
    bool same;

    write_file(stack->path, stack->disks[DISK_IMAGE].data, stack->disks[DISK_IMAGE].size);
    if (stack->has_data_file) {
        write_file(stack->data_path, stack->disks[DISK_DATA].data, stack->disks[DISK_DATA].size);
    }
    status = run_program(check);
    if (status != 0 && !(status == 3 && leaks)) {
        return FOUND(verify, "qemu-img check ended with status %d", status);
    }
    if (stack->is_encrypted) { /* it has no key */
        return NULL;
    }
    snprintf(raw, sizeof(raw), "%s.out", stack->path);
    status = run_program((const char *const[]){"qemu-img", "convert", "-f", "qcow2", "-O", "raw",
                                               stack->path, raw, NULL});
    if (status != 0) {
        return FOUND(verify, "qemu-img convert ended with status %d", status);
    }
    bytes = read_file(raw, &raw_size);
    same = raw_size == verify->size && memcmp(bytes, verify->bytes, raw_size) == 0;
    free(bytes);
    return same ? NULL : FOUND(verify, "qemu-img reads something else than we do");
}

/* --- Going on ------------------------------------------------------------------------------ */

/* Makes the disk larger; what it gains are zeros. */
static const char *grow(struct verify *verify, struct session *session, struct chance *chance)
{
    const struct image *image = session->image;
    uint64_t gain = chance_below(chance, GROWTH / SECTOR + 1) * SECTOR;
    int result;

    if (chance_below(chance, 2) == 0 ||
        (image->header->version < 3 && image->snapshots->count > 0)) {
        return NULL;
    }
    result = writer_resize(session->writer, verify->size + gain, NULL);
    if (result < 0) {
        return FOUND(verify, "made larger after the crash: %s; %s", strerror(-result),
                     session->last_line);
    }
    memset(verify->bytes + verify->size, 0, gain);
    verify->size += gain;
    return NULL;
}

/* Writes here and there, in `bytes` too. What could not be done is told. */
static const char *write_more(struct verify *verify, struct session *session)
{
    struct chance chance = chance_from(verify->seed, 3, verify->moment.crash);
    const char *found = grow(verify, session, &chance);
    uint64_t sectors = verify->size / SECTOR;
    unsigned i;

    for (i = 0; i < 8 && sectors > 0 && found == NULL; i++) {
        uint64_t first = chance_below(&chance, sectors);
        uint64_t count = min_u64(1 + chance_below(&chance, 12), sectors - first);
        uint8_t *bytes = verify->bytes + first * SECTOR;
        int result;

        if (chance_below(&chance, 4) == 0) {
            memset(bytes, 0, count * SECTOR);
            result = writer_zero(session->writer, first * SECTOR, count * SECTOR, i % 2 == 0, NULL);
        } else {
            memset(bytes, (int)(chance_below(&chance, 255) + 1), count * SECTOR);
            result = writer_write(session->writer, first * SECTOR, bytes, count * SECTOR);
        }
        if (result == 0 && i % 3 == 2) {
            result = writer_flush(session->writer);
        }
        if (result < 0) {
            return FOUND(verify, "written to after the crash: %s; %s", strerror(-result),
                         session->last_line);
        }
    }
    return found;
}

/* Opens the state to write, with what that repairs, and `more` to write. */
static const char *write_to(struct verify *verify, bool more)
{
    const struct session_options options = {
        .writable = true,
        .writer = {.check = WRITER_CHECK_OFF, /* a count that is too low shall do what it can */
                   .discard = verify->base->workload->discard,
                   .compress = verify->base->workload->compresses ? "" : NULL},
    };
    struct session session;
    struct error error = {0};
    const char *found = NULL;
    int result;

    if (session_open(&session, verify->stack, &options, &error) < 0) {
        return FOUND(verify, "opened for writing: %s", error.text);
    }
    if (more) {
        found = write_more(verify, &session);
    }
    result = session_close(&session);
    if (found == NULL && result < 0) {
        found = FOUND(verify, "closing failed: %s", strerror(-result));
    }
    return found;
}

/* After that: the disk must show `bytes`. */
static const char *look_again(struct verify *verify, uint64_t most_leaks, const char *when)
{
    const struct session_options options = {.writable = false};
    struct session session;
    struct error error = {0};
    uint64_t leaks = 0;
    const char *found;

    if (session_open(&session, verify->stack, &options, &error) < 0) {
        return FOUND(verify, "%s: %s", when, error.text);
    }
    found = check_counts(verify, &session, &leaks, when);
    if (found == NULL && leaks > most_leaks) {
        found = FOUND(verify, "%s: %llu leaks, of which %llu are from the crash", when,
                      (unsigned long long)leaks, (unsigned long long)most_leaks);
    }
    if (found == NULL && (view_size(session.view) != verify->size ||
                          view_read(session.view, 0, verify->more, verify->size) < 0 ||
                          memcmp(verify->more, verify->bytes, verify->size) != 0)) {
        found = FOUND(verify, "%s: the disk shows something else", when);
    }
    if (found == NULL) {
        found = check_recorded(verify, &session);
    }
    if (found == NULL) {
        found = check_snapshots(verify, &session);
    }
    session_close(&session);
    return found;
}

/* --- All of it ----------------------------------------------------------------------------- */

/* What is found without writing. */
static const char *look(struct verify *verify, bool *dirty, uint64_t *leaks)
{
    const struct session_options options = {.writable = false};
    struct session session;
    struct error error = {0};
    const char *found;

    if (session_open(&session, verify->stack, &options, &error) < 0) {
        return FOUND(verify, "opened: %s", error.text);
    }
    verify->copied = false;
    *dirty = (session.image->header->incompatible_features & INCOMPATIBLE_DIRTY) != 0;
    verify->size = view_size(session.view);
    *leaks = 0;
    found = check_contents(verify, &session);
    if (found == NULL && !*dirty) {
        found = check_counts(verify, &session, NULL, "checked");
    }
    if (found == NULL && !*dirty && verify->go_on) {
        found = check_counts(verify, &session, leaks, "checked");
    }
    session_close(&session);
    return found;
}

static const char *write_and_look(struct verify *verify, bool dirty, uint64_t leaks)
{
    const char *found = NULL;

    if (dirty) {
        found = write_to(verify, false);
        if (found == NULL) {
            found = look_again(verify, 0, "after the repair");
        }
    }
    if (found == NULL && verify->ask_qemu && !verify->copied) {
        found = ask_qemu(verify, !dirty);
    }
    if (found == NULL && verify->go_on) {
        found = write_to(verify, true);
        if (found == NULL) {
            found = look_again(verify, leaks, "after going on");
        }
    }
    return found;
}

const char *verify_state(struct verify *verify)
{
    struct disk *disks = verify->stack->disks;
    uint64_t leaks;
    const char *found;
    bool dirty;
    unsigned i;

    found = look(verify, &dirty, &leaks);
    if (found != NULL || !(dirty || verify->go_on || verify->ask_qemu)) {
        return found;
    }
    for (i = 0; i < DISKS; i++) {
        disk_checkpoint(&disks[i]);
    }
    found = write_and_look(verify, dirty, leaks);
    for (i = 0; i < DISKS; i++) {
        disk_undo(&disks[i]);
    }
    return found;
}

const char *verify_end(struct verify *verify, const struct run *run)
{
    uint64_t leaks;
    const char *found;
    bool dirty;

    stack_copy(verify->stack, &run->stack);
    verify->moment = (struct moment){.crash = run->log.count, .flushed = run->log.count};
    verify->go_on = true;
    verify->ended = true;
    found = look(verify, &dirty, &leaks);
    verify->ended = false;
    if (found == NULL && dirty) {
        found = FOUND(verify, "closed, but marked dirty (R5)");
    }
    if (found == NULL && leaks > 0) {
        found = FOUND(verify, "closed, with %llu leaks", (unsigned long long)leaks);
    }
    return found != NULL ? found : verify_state(verify);
}
