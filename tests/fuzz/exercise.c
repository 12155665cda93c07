/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "exercise.h"

#include "admin/info.h"
#include "admin/inspect.h"
#include "bounded_store.h"
#include "disk/view.h"
#include "guard.h"
#include "meta/bitmap.h"
#include "meta/header_write.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOOKUPS_MOST   400 /* from each place where they begin */
#define READ_MOST      (UINT64_C(256) << 10)
#define SEEKS_MOST     60
#define SNAPSHOTS_MOST 4
#define PIECE          4096

/* --- One view ------------------------------------------------------------------------------------
 */

/* Reads a piece of an extent that was found; what reads as zeros does. */
static void read_piece(struct view *view, uint64_t guest_offset, const struct view_extent *found)
{
    size_t length = min_u64(PIECE, found->extent.length);
    uint8_t *buffer = malloc(length);
    int result;

    FUZZ_EXPECT(buffer != NULL);
    result = view_read(view, guest_offset, buffer, length);
    if (found->extent.kind == EXTENT_ZERO || found->extent.kind == EXTENT_UNALLOCATED) {
        FUZZ_EXPECT(result == 0, "(%d at 0x%" PRIx64 ")", result, guest_offset);
        for (size_t i = 0; i < length; i++) {
            FUZZ_EXPECT(buffer[i] == 0, "(at 0x%" PRIx64 ")", guest_offset + i);
        }
    }
    FUZZ_EXPECT(result == 0 || result == -EIO || result == -ENOMEM, "(%d)", result);
    free(buffer);
}

/* Maps the view from `from` on, and reads the beginning and the end of each extent. */
static void map(struct view *view, uint64_t from)
{
    uint64_t size = view_size(view);

    for (int i = 0; i < LOOKUPS_MOST && from < size; i++) {
        struct view_extent found = {0};
        int result = view_lookup(view, from, size - from, &found);

        if (result < 0) {
            FUZZ_EXPECT(result == -EIO || result == -ENOMEM, "(%d)", result);
            from = round_down(from, 512) + 512; /* sizes are below 2^63 */
            continue;
        }
        FUZZ_EXPECT(found.extent.length > 0 && found.extent.length <= size - from,
                    "(%" PRIu64 " of %" PRIu64 ")", found.extent.length, size - from);
        read_piece(view, from, &found);
        from += found.extent.length;
    }
}

/* Whole ranges at once, over extents of all kinds. */
static void read_ranges(struct view *view)
{
    uint64_t size = view_size(view), most = min_u64(size, READ_MOST);
    uint8_t *buffer = malloc(READ_MOST);

    FUZZ_EXPECT(buffer != NULL);
    (void)view_read(view, 0, buffer, most);
    (void)view_read(view, size - most, buffer, most);
    (void)view_read(view, size / 2 | 1, buffer, min_u64(most, 5000));
    free(buffer);
}

#define SEEK_MILLISECONDS 500 /* for all of them: tables of a hostile image may be endless */

static void seek(struct view *view)
{
    uint64_t at = 0, found, size = view_size(view);
    struct stop stop;

    stop_init(&stop, NULL);
    stop_after(&stop, SEEK_MILLISECONDS);
    for (int i = 0; i < SEEKS_MOST; i++) {
        int result = view_seek(view, at, i % 2 == 0, &stop, &found);

        if (result < 0) {
            FUZZ_EXPECT(result == -ENXIO || result == -EIO || result == -EINTR || result == -ENOMEM,
                        "(%d)", result);
            return;
        }
        FUZZ_EXPECT(found >= at && found <= size, "(0x%" PRIx64 " from 0x%" PRIx64 ")", found, at);
        at = found;
    }
}

static void use_view(struct view *view)
{
    uint64_t size = view_size(view);

    map(view, 0);
    if (size > READ_MOST) {
        map(view, size / 3);
        map(view, size - READ_MOST);
    }
    read_ranges(view);
    seek(view);
    view_close(view);
}

/* --- The image ---------------------------------------------------------------------------------
 */

static void use_snapshots(struct subject *subject)
{
    size_t count = min_u64(SNAPSHOTS_MOST, subject->image->snapshots->count);
    struct view *view;

    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        int result = view_open_snapshot(subject->image, i, &view, &error);

        if (result == 0) {
            use_view(view);
        } else {
            expect_sentence(&error, result);
        }
        error = (struct error){0};
        result = view_open_vmstate(subject->image, i, &view, &error);
        if (result == 0) {
            use_view(view);
        } else {
            expect_sentence(&error, result);
        }
    }
}

/* What header_write() would put in place of the header is a header again, of the same image. */
static void rewrite_header(struct subject *subject)
{
    const struct header *header = subject->image->header;
    struct header_rest rest;
    struct header *again;
    struct error error = {0};
    uint8_t *bytes;
    size_t length, size;
    struct store *copy;
    int result;

    subject_bytes(subject, &size);
    result = header_read(subject->image->file, size, SUBJECT_PATH, &again, &error);
    if (result < 0) { /* the file was cut off, and is only read */
        expect_sentence(&error, result);
        return;
    }
    header_free(again);
    result = header_rest_read(subject->image->file, header, SUBJECT_PATH, &rest, &error);
    if (result < 0) {
        expect_sentence(&error, result);
        return;
    }
    result = header_encode(header, &rest, SUBJECT_PATH, &bytes, &length, &error);
    header_rest_free(&rest);
    if (result < 0) {
        expect_sentence(&error, result);
        return;
    }
    FUZZ_EXPECT(length <= header->cluster_size);
    copy = bounded_store_from(subject_bytes(subject, &size), size, SUBJECT_FILE_MOST);
    FUZZ_EXPECT(store_write(copy, 0, bytes, length) == 0);
    result = header_read(copy, max_u64(size, length), SUBJECT_PATH, &again, &error);
    FUZZ_EXPECT(result == 0, "\"%s\"", error.text);
    guard_trace("extensions %" PRIu64 " %" PRIu64 ", bitmaps %u %u, backing %s %s, data file %s %s",
                header->unknown_extensions, again->unknown_extensions, header->bitmap_count,
                again->bitmap_count, header->backing_file, again->backing_file, header->data_file,
                again->data_file);
    FUZZ_EXPECT(again->virtual_size == header->virtual_size &&
                again->l1_offset == header->l1_offset &&
                again->bitmap_count == header->bitmap_count &&
                again->unknown_extensions == header->unknown_extensions &&
                (again->backing_file == NULL) == (header->backing_file == NULL) &&
                (again->data_file == NULL) == (header->data_file == NULL));
    header_free(again);
    store_close(copy);
    free(bytes);
}

static void ask(struct subject *subject)
{
    struct bitmap_directory *bitmaps;
    struct error error = {0};
    int result;

    if (image_info_available()) {
        free(image_info_json(subject->image));
    }
    result = bitmap_directory_read(subject->image->file, subject->image->header, SUBJECT_PATH,
                                   &bitmaps, &error);
    if (result == 0) {
        bitmap_directory_free(bitmaps);
    } else {
        expect_sentence(&error, result);
    }
}

void exercise_read(struct subject *subject)
{
    struct view *view;

    FUZZ_EXPECT(view_open_active(subject->image, &view) == 0);
    use_view(view);
    use_snapshots(subject);
    ask(subject);
    rewrite_header(subject);
}

/* --- What is told of any file -------------------------------------------------------------------
 */

static void look_at(const struct inspection *inspection)
{
    const char *problem = inspect_problem(inspection);

    FUZZ_EXPECT((problem != NULL) == (inspect_problem_count(inspection) > 0));
    if (problem != NULL) {
        expect_printable(problem);
    }
    (void)inspect_obstacle(inspection);
}

void exercise_inspect(const uint8_t *bytes, size_t size)
{
    struct inspection *inspection;
    struct error error = {0};
    char path[64];
    int file = memfd_create("image", MFD_CLOEXEC), result;

    FUZZ_EXPECT(file >= 0 && write(file, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    result =
        inspect_open(path, &(struct inspect_options){.access = STORE_READ}, &inspection, &error);
    if (result == 0) {
        look_at(inspection);
        inspect_close(inspection);
    } else {
        FUZZ_EXPECT(error.text[0] != '\0');
        expect_printable(error.text);
    }
    close(file);
}

/* FNV-1a: a difference is to be seen, no more. */
static uint64_t digest(uint64_t so_far, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        so_far = (so_far ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return so_far;
}

uint64_t exercise_digest_snapshots(struct subject *subject)
{
    size_t count = min_u64(SNAPSHOTS_MOST, subject->image->snapshots->count);
    uint64_t so_far = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < count; i++) {
        struct view *view;
        struct error error = {0};

        if (view_open_snapshot(subject->image, i, &view, &error) < 0) {
            so_far = digest(so_far, (const uint8_t *)"-", 1);
            continue;
        }
        for (uint64_t at = 0; at < min_u64(view_size(view), 64 << 10); at += 512) {
            uint8_t block[512];
            bool good = view_read(view, at, block, sizeof(block)) == 0;

            so_far = digest(so_far, good ? block : (const uint8_t *)"!", good ? sizeof(block) : 1);
        }
        view_close(view);
    }
    return so_far;
}

/* --- The check ----------------------------------------------------------------------------------
 */

static void take_finding(void *context, enum check_finding finding, const char *line)
{
    (void)context;
    FUZZ_EXPECT(line[0] != '\0');
    guard_trace("check: %s: %s",
                finding == CHECK_LEAK    ? "leak"
                : finding == CHECK_ERROR ? "error"
                                         : "unreadable",
                line);
}

static bool check(struct store *file, uint64_t size, bool repair, struct check_result *found)
{
    const struct check_options options = {
        .repair_leaks = repair, .repair_errors = repair, .report = take_finding};
    struct error error = {0};
    struct header *header;
    int result = header_read(file, size, SUBJECT_PATH, &header, &error);

    if (result < 0) {
        expect_sentence(&error, result);
        return false;
    }
    result = check_image(header, file, SUBJECT_PATH, &options, found, &error);
    if (result < 0) {
        expect_sentence(&error, result);
    }
    header_free(header);
    return result == 0;
}

bool exercise_check(const uint8_t *bytes, size_t size, struct check_result *result)
{
    struct store *file = bounded_store_from(bytes, size, size);
    bool checked = check(file, size, false, result);

    store_close(file);
    return checked;
}

void exercise_repair(const uint8_t *bytes, size_t size)
{
    struct store *file = bounded_store_from(bytes, size, SUBJECT_FILE_MOST);
    struct check_result found, again;
    struct store_info info;

    if (check(file, size, true, &found)) {
        FUZZ_EXPECT(found.fixed_errors <= found.errors && found.fixed_leaks <= found.leaks);
        FUZZ_EXPECT(store_info(file, &info) == 0);
        FUZZ_EXPECT(check(file, info.size, false, &again));
        if (check_is_clean(&found)) {
            FUZZ_EXPECT(again.errors == 0 && again.unreadable == 0,
                        "(%" PRIu64 " errors of %" PRIu64 " after the repair)", again.errors,
                        found.errors);
            FUZZ_EXPECT(again.leaks == 0, "(%" PRIu64 " leaks)", again.leaks);
        }
    }
    store_close(file);
}
