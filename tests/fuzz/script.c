/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "script.h"

#include "builder.h"
#include "disk/view.h"
#include "disk/writer.h"
#include "exercise.h"
#include "guard.h"
#include "meta/format.h"
#include "subject.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW      (UINT64_C(192) << 10) /* bytes of the disk that are written and compared */
#define MAPPED_MOST (UINT64_C(64) << 20)  /* bytes */
#define BLOCK       512
#define STEPS_MOST  48

/* What the window of the disk shows, as far as that is known. */
struct model {
    uint64_t begin; /* guest offset */
    uint64_t disk_size;
    uint8_t bytes[WINDOW];
    bool known[WINDOW];
};

struct script {
    struct program *program;
    struct writer_options options;
    struct subject subject;
    struct writer *writer;
    struct view *view;
    struct model *model;
    bool sound;    /* the image was in order when writing began: all must be as it should */
    bool may_leak; /* changed, a request was refused, or it has bitmaps, which R6 gives up */
    uint64_t snapshots;
    uint64_t leaks;
    unsigned checks;
};

/* --- The model -----------------------------------------------------------------------------------
 */

/* The part of a guest range that is in the window: *at is its index; its length. */
static uint64_t clip(const struct model *model, uint64_t guest_offset, uint64_t length,
                     uint64_t *at)
{
    uint64_t end = guest_offset + length, first = max_u64(guest_offset, model->begin);
    uint64_t last = min_u64(end, model->begin + WINDOW);

    *at = first - model->begin;
    return first < last ? last - first : 0;
}

static void set_known(struct model *model, uint64_t guest_offset, uint64_t length, bool known)
{
    uint64_t at, count = clip(model, guest_offset, length, &at);

    if (count > 0) {
        memset(model->known + at, known, count);
    }
}

static void set_zeros(struct model *model, uint64_t guest_offset, uint64_t length)
{
    uint64_t at, count = clip(model, guest_offset, length, &at);

    if (count > 0) {
        memset(model->bytes + at, 0, count);
        memset(model->known + at, true, count);
    }
}

static void set_bytes(struct model *model, uint64_t guest_offset, const uint8_t *bytes,
                      uint64_t length)
{
    uint64_t at, count = clip(model, guest_offset, length, &at);

    if (count > 0) {
        memcpy(model->bytes + at, bytes + (model->begin + at - guest_offset), count);
        memset(model->known + at, true, count);
    }
}

/* All behind the end of the disk shows nothing; should it come back, zeros. */
static void set_size(struct model *model, uint64_t size)
{
    uint64_t old = min_u64(model->disk_size, size);

    set_zeros(model, old, max_u64(model->begin + WINDOW, old) - old);
    model->disk_size = size;
}

/* The disk's end is one of two, and nothing behind the lower one is certain. */
static void lose_size(struct script *script, uint64_t size)
{
    struct model *model = script->model;
    uint64_t from = min_u64(size, model->disk_size);

    set_known(model, from, max_u64(model->begin + WINDOW, from) - from, false);
    model->disk_size = view_size(script->view);
}

static void learn(struct script *script)
{
    struct model *model = script->model;

    model->disk_size = view_size(script->view);
    for (uint64_t at = 0; at < WINDOW; at += BLOCK) {
        int result = view_read(script->view, model->begin + at, model->bytes + at, BLOCK);

        memset(model->known + at, result == 0, BLOCK);
    }
}

static void compare_block(struct script *script, uint64_t at)
{
    struct model *model = script->model;
    uint8_t block[BLOCK];
    int result = view_read(script->view, model->begin + at, block, sizeof(block));

    if (result == 0 && memcmp(block, model->bytes + at, BLOCK) == 0) {
        return;
    }
    for (uint64_t i = 0; i < BLOCK; i++) {
        if (!model->known[at + i]) {
            continue;
        }
        FUZZ_EXPECT(result == 0, "(guest offset 0x%" PRIx64 " was read before, and now %d)",
                    model->begin + at + i, result);
        FUZZ_EXPECT(block[i] == model->bytes[at + i],
                    "(0x%x for 0x%x at guest offset 0x%" PRIx64 ")", block[i], model->bytes[at + i],
                    model->begin + at + i);
    }
}

static void compare(struct script *script)
{
    if (!script->sound) {
        return;
    }
    FUZZ_EXPECT(view_size(script->view) == script->model->disk_size);
    for (uint64_t at = 0; at < WINDOW; at += BLOCK) {
        compare_block(script, at);
    }
}

/* --- Opening and closing ------------------------------------------------------------------------
 */

static void choose_options(struct script *script)
{
    uint8_t bits = program_u8(script->program);

    script->options = (struct writer_options){
        .unsafe = (bits & 1) != 0,
        .write_through = (bits & 6) == 6,
        .discard = (bits & 8) != 0,
        .growable = (bits & 16) != 0,
        .no_repair = (bits & 0xe0) == 0xe0,
        .check = WRITER_CHECK_OFF, /* what counts that are wrong lead to is to be seen */
        .lazy_refcounts = {.set = (bits & 0x60) == 0x60, .value = (bits & 0x80) != 0},
    };
}

/* False where the image cannot be written; all is closed then. */
static bool open_writer(struct script *script, const uint8_t *bytes, size_t size,
                        const uint8_t *data_file, size_t data_size)
{
    struct subject *subject = &script->subject;
    struct error error = {0};
    int result;

    if (!subject_open(subject, bytes, size, data_file, data_size, STORE_WRITE)) {
        subject_close(subject);
        return false;
    }
    result = writer_open(subject->image, &script->options, &script->writer, &error);
    if (result < 0) {
        expect_sentence(&error, result);
        subject_close(subject);
        return false;
    }
    FUZZ_EXPECT(view_open_active(subject->image, &script->view) == 0);
    return true;
}

/* Opened again, a disk that ended within a sector has zeros up to the end of that. */
static void learn_size(struct script *script, bool closed)
{
    struct model *model = script->model;
    uint64_t end = model->disk_size, size = script->subject.image->header->virtual_size;

    if (size > end) {
        set_size(model, size);
        set_known(model, end, size - end, closed);
    }
}

/* Closes the writer, and looks at what is left in the file. */
static void close_writer(struct script *script)
{
    struct subject *subject = &script->subject;
    bool full = subject_was_full(subject);
    struct check_result found;
    const uint8_t *bytes;
    size_t size;
    int result;

    compare(script);
    view_close(script->view);
    result = writer_close(script->writer);
    guard_trace("close: %d", result);
    learn_size(script, result == 0);
    full = full || subject_was_full(subject);
    FUZZ_EXPECT(!script->sound || result == 0 || full, "(closing: %d)", result);
    bytes = subject_bytes(subject, &size);
    if (script->sound) {
        const uint64_t bad = INCOMPATIBLE_CORRUPT | (result == 0 ? INCOMPATIBLE_DIRTY : 0);

        FUZZ_EXPECT((subject->image->header->incompatible_features & bad) == 0);
        /* With lazy refcounts, what the host had no room for is repaired when it is opened. */
        if (result == 0) {
            FUZZ_EXPECT(exercise_check(bytes, size, &found));
            FUZZ_EXPECT(check_is_clean(&found), "(%" PRIu64 " errors, %" PRIu64 " unreadable)",
                        found.errors, found.unreadable);
            FUZZ_EXPECT(full || script->may_leak || found.leaks <= script->leaks,
                        "(%" PRIu64 " leaks, %" PRIu64 " before)", found.leaks, script->leaks);
        }
    }
}

/* What was closed is opened again, and shows the same. False when it cannot be. */
static bool reopen(struct script *script)
{
    uint8_t *copy, *data_file;
    size_t size, data_size = 0;
    bool opened;

    close_writer(script);
    subject_bytes(&script->subject, &size);
    copy = malloc(size);
    FUZZ_EXPECT(copy != NULL);
    memcpy(copy, subject_bytes(&script->subject, &size), size);
    data_file = subject_data_file(&script->subject, &data_size);
    subject_close(&script->subject);
    opened = open_writer(script, copy, size, data_file, data_size);
    free(copy);
    free(data_file);
    FUZZ_EXPECT(opened || !script->sound || script->options.no_repair);
    if (opened) {
        compare(script);
    }
    return opened;
}

/* --- Requests
 * -------------------------------------------------------------------------------------- */

/* A range that begins in the window; short or long, aligned or not. */
static void choose_range(struct script *script, uint64_t *guest_offset, uint64_t *length)
{
    struct program *program = script->program;
    uint8_t shape = program_u8(program);
    uint64_t unit = (shape & 1) != 0 ? script->subject.image->header->cluster_size : 1;

    *guest_offset = script->model->begin + round_down(program_below(program, WINDOW), unit);
    *length = 1 + ((shape & 2) != 0 ? program_u16(program) : program_u8(program) * 4U);
    if (unit > 1) {
        *length = div_round_up(*length, unit) * unit;
    }
    *length = min_u64(*length, WINDOW);
    if (!script->options.growable || (shape & 4) == 0) {
        uint64_t size = script->model->disk_size;

        *guest_offset = min_u64(*guest_offset, size);
        *length = min_u64(*length, size - *guest_offset);
    }
}

/* A request that failed may have done any part of what it was asked for. */
static void lose_range(struct script *script, uint64_t guest_offset, uint64_t length)
{
    script->may_leak = true;
    set_known(script->model, guest_offset, length, false);
    lose_size(script, guest_offset + length);
}

static void step_write(struct script *script)
{
    uint64_t guest_offset, length;
    uint8_t *bytes;
    int result;

    choose_range(script, &guest_offset, &length);
    bytes = malloc(length + 1);
    FUZZ_EXPECT(bytes != NULL);
    builder_pattern(bytes, length, 0x10000 + program_u8(script->program));
    result = writer_write(script->writer, guest_offset, bytes, length);
    guard_trace("write 0x%" PRIx64 " +0x%" PRIx64 ": %d", guest_offset, length, result);
    if (result == 0) {
        if (length > 0 && guest_offset + length > script->model->disk_size) {
            FUZZ_EXPECT(view_size(script->view) == guest_offset + length);
            set_size(script->model, guest_offset + length);
        }
        set_bytes(script->model, guest_offset, bytes, length);
    } else {
        lose_range(script, guest_offset, length);
    }
    free(bytes);
}

static void step_zero(struct script *script, bool unmap)
{
    uint64_t guest_offset, length;
    int result;

    choose_range(script, &guest_offset, &length);
    if (guest_offset > script->model->disk_size ||
        length > script->model->disk_size - guest_offset) {
        return; /* not asked for: "a range within the disk" */
    }
    result = writer_zero(script->writer, guest_offset, length, unmap, NULL);
    guard_trace("zero 0x%" PRIx64 " +0x%" PRIx64 "%s: %d", guest_offset, length,
                unmap ? ", unmap" : "", result);
    if (result == 0) {
        set_zeros(script->model, guest_offset, length);
    } else {
        lose_range(script, guest_offset, length);
    }
}

static void step_preallocate(struct script *script)
{
    uint64_t guest_offset, length;
    int result;

    choose_range(script, &guest_offset, &length);
    if (guest_offset > script->model->disk_size ||
        length > script->model->disk_size - guest_offset) {
        return;
    }
    result = writer_preallocate(script->writer, guest_offset, length, NULL);
    guard_trace("preallocate 0x%" PRIx64 " +0x%" PRIx64 ": %d", guest_offset, length, result);
    if (result < 0) {
        lose_range(script, guest_offset, length);
    }
}

static void step_resize(struct script *script)
{
    struct program *program = script->program;
    uint8_t shape = program_u8(program);
    uint64_t size = script->model->begin + program_below(program, WINDOW);
    int result;

    if (shape == UINT8_MAX) { /* rarely: it takes an L1 table of as much as there can be */
        size = UINT64_C(1) << (20 + program_u8(program) % 40);
    } else if (shape % 16 == 0) {
        size = UINT64_C(1) << (20 + shape / 32);
    }
    result = writer_resize(script->writer, size, NULL);
    guard_trace("resize 0x%" PRIx64 ": %d", size, result);
    if (result == 0) {
        FUZZ_EXPECT(view_size(script->view) == size ||
                    (!script->options.growable &&
                     view_size(script->view) == round_down(size + BLOCK - 1, BLOCK)));
        set_size(script->model, view_size(script->view));
    } else {
        script->may_leak = true;
        lose_size(script, size);
    }
}

/* With eager refcounts, what a flush leaves on the disk is in order but for leaks. R1 to R4. */
static void step_flush(struct script *script)
{
    struct check_result found;
    const uint8_t *bytes;
    size_t size;

    int result = writer_flush(script->writer);

    guard_trace("flush: %d", result);
    if (result < 0) {
        script->may_leak = true;
        return;
    }
    bytes = subject_bytes(&script->subject, &size);
    if (!script->sound || script->checks++ >= 3 ||
        (script->subject.image->header->incompatible_features & INCOMPATIBLE_DIRTY) != 0) {
        return;
    }
    FUZZ_EXPECT(exercise_check(bytes, size, &found));
    FUZZ_EXPECT(found.errors == 0 && found.unreadable == 0,
                "(after a flush: %" PRIu64 " errors, %" PRIu64 " unreadable)", found.errors,
                found.unreadable);
}

/* False at the end. */
static bool step(struct script *script)
{
    switch (program_u8(script->program) % 12) {
    case 0:
    case 1:
    case 2:
    case 3:
        step_write(script);
        break;
    case 4:
    case 5:
        step_zero(script, true);
        break;
    case 6:
        step_zero(script, false);
        break;
    case 7:
        step_flush(script);
        break;
    case 8:
        step_resize(script);
        break;
    case 9:
        step_preallocate(script);
        break;
    case 10:
        compare(script);
        break;
    default:
        return reopen(script);
    }
    return true;
}

/* --- All of it ----------------------------------------------------------------------------------
 */

/* What the image is like before anything is written. */
static void look_before(struct script *script, const uint8_t *bytes, size_t size)
{
    struct check_result found;
    struct subject subject;

    script->sound = exercise_check(bytes, size, &found) && check_is_clean(&found);
    script->leaks = script->sound ? found.leaks : 0;
    if (subject_open(&subject, bytes, size, NULL, 0, STORE_READ)) {
        script->snapshots = exercise_digest_snapshots(&subject);
    }
    subject_close(&subject);
}

/*
 * Whether each entry leads somewhere. Of a data file a check does not look at the places (neither
 * does QEMU's): one that is not that of the guest cluster itself is found by who reads it.
 */
static bool is_mapped(struct view *view)
{
    uint64_t size = view_size(view), offset = 0;
    struct mapping_fault fault;
    struct view_extent found;

    if (size > MAPPED_MOST) {
        return false; /* too large to look at all of it; nothing is expected of it then */
    }
    while (offset < size) {
        if (view_lookup_exact(view, offset, size - offset, &found, &fault) != 0) {
            return false;
        }
        offset += found.extent.length;
    }
    return true;
}

static void choose_window(struct script *script)
{
    uint64_t size = view_size(script->view);

    if (program_bool(script->program) && size > WINDOW) {
        script->model->begin = round_down(size - WINDOW / 2, BLOCK);
    }
}

/* An image that was marked dirty has been repaired by now, or could not have been opened. */
static void learn_all(struct script *script)
{
    const struct header *header = script->subject.image->header;
    struct check_result found;
    const uint8_t *bytes;
    size_t size;

    bytes = subject_bytes(&script->subject, &size);
    if (!script->sound && (header->incompatible_features & INCOMPATIBLE_DIRTY) != 0) {
        script->sound = exercise_check(bytes, size, &found);
        FUZZ_EXPECT(script->sound && check_is_clean(&found));
        script->leaks = found.leaks;
    }
    script->sound = script->sound && (!header->external_data_file || is_mapped(script->view));
    script->may_leak = script->may_leak || header->bitmap_count > 0;
    choose_window(script);
    learn(script);
    guard_trace("disk of 0x%" PRIx64 ", window at 0x%" PRIx64 ", %s, %" PRIu64 " leaks",
                script->model->disk_size, script->model->begin,
                script->sound ? "sound" : "not sound", script->leaks);
}

static void compare_snapshots(struct script *script)
{
    if (script->sound && !subject_was_full(&script->subject)) {
        FUZZ_EXPECT(exercise_digest_snapshots(&script->subject) == script->snapshots);
    }
}

void script_run(const uint8_t *bytes, size_t size, bool pristine, struct program *program)
{
    struct script script = {.program = program, .may_leak = !pristine};
    bool open;

    choose_options(&script);
    look_before(&script, bytes, size);
    open = open_writer(&script, bytes, size, NULL, 0);
    if (!open) {
        return;
    }
    script.model = calloc(1, sizeof(*script.model));
    FUZZ_EXPECT(script.model != NULL);
    learn_all(&script);
    for (int i = 0; i < STEPS_MOST && open && !program_ended(program); i++) {
        open = step(&script);
    }
    if (open) {
        compare_snapshots(&script);
        close_writer(&script);
        subject_close(&script.subject);
    }
    free(script.model);
}
