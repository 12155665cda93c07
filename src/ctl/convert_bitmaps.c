/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "ctl/convert_internal.h"
#include "disk/bitmaps.h"
#include "disk/changed.h"
#include "meta/format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Whether it is one of those that are to be copied; what is skipped is said. */
static bool is_copied(struct conversion *conversion, const struct bitmap *bitmap)
{
    if ((bitmap->flags & BITMAP_FLAG_IN_USE) == 0) {
        return true;
    }
    log_line(conversion->ctl->log, LOG_LEVEL_WARNING,
             "%s: bitmap '%s' is inconsistent, and is not copied", conversion->source_path,
             bitmap->name);
    return false;
}

static int check_one(struct conversion *conversion, const struct bitmap *bitmap)
{
    if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0 && !conversion->options->skip_broken.value) {
        return error_set(
            &conversion->ctl->error, EINVAL,
            "%s: bitmap '%s' is inconsistent, and cannot be copied; remove it (qcow2ctl "
            "bitmap --remove), or leave it out with --skip-broken-bitmaps",
            conversion->source_path, bitmap->name);
    }
    return 0;
}

/* Nothing is said of what nobody has asked for, but where something is left behind. */
static void tell_of_left(struct conversion *conversion)
{
    const struct header *header = conversion->source.image->header;

    if (header != NULL && header->bitmap_count > 0 && !conversion->options->common.quiet.value) {
        log_line(conversion->ctl->log, LOG_LEVEL_WARNING,
                 "%s: its persistent bitmaps (%" PRIu32 ") are not copied%s",
                 conversion->source_path, header->bitmap_count,
                 conversion->is_raw ? "; a raw file has none" : "; --bitmaps copies them, too");
    }
}

int convert_find_bitmaps(struct conversion *conversion)
{
    const struct image *image = conversion->source.image;
    struct error *error = &conversion->ctl->error;
    int r;

    if (!conversion->options->bitmaps.value) {
        tell_of_left(conversion);
        return 0;
    }
    if (image->header == NULL || image->header->version < 3) {
        return error_set(error, EINVAL, "%s: has no bitmaps: %s; leave out --bitmaps",
                         conversion->source_path,
                         image->header == NULL ? "it is a raw file" : "it is of version 2");
    }
    r = bitmap_directory_read(image->file, image->header, conversion->source_path,
                              &conversion->bitmaps, error);
    for (size_t i = 0; r == 0 && i < conversion->bitmaps->count; i++) {
        r = check_one(conversion, &conversion->bitmaps->bitmaps[i]);
    }
    return r;
}

static int copy_to_new(struct conversion *conversion, const struct bitmap *bitmap)
{
    uint64_t room = changed_memory();
    struct error *error = &conversion->ctl->error;
    struct changed *bits;
    int r = changed_copy(conversion->source.image, NULL, bitmap->name, &room, &bits, error);

    if (r != 0) {
        return r;
    }
    r = new_image_bitmap(conversion->target.image, bitmap, bits);
    changed_free(bits, &room);
    return r == 0 ? 0
                  : error_set(error, -r, "%s: bitmap '%s' cannot be copied: %s", conversion->path,
                              bitmap->name, strerror(-r));
}

int convert_bitmaps_to_new(struct conversion *conversion)
{
    int r = 0;

    for (size_t i = 0; conversion->bitmaps != NULL && r == 0 && i < conversion->bitmaps->count;
         i++) {
        const struct bitmap *bitmap = &conversion->bitmaps->bitmaps[i];

        r = is_copied(conversion, bitmap) ? copy_to_new(conversion, bitmap) : 0;
    }
    return r;
}

/* --- An image that exists ------------------------------------------------------------------ */

int convert_check_existing_bitmaps(struct conversion *conversion)
{
    const struct image *existing = conversion->target.existing;
    struct error *error = &conversion->ctl->error;
    struct bitmap_directory *theirs;
    int r;

    if (conversion->bitmaps == NULL) {
        return 0;
    }
    if (existing->header->version < 3) {
        return error_set(error, EINVAL,
                         "%s: is of version 2, which has no bitmaps; leave out "
                         "--bitmaps",
                         conversion->path);
    }
    if (existing->header->virtual_size != conversion->source.image->header->virtual_size) {
        return error_set(
            error, EINVAL,
            "%s: has a disk of another size than the one that is copied, so its bitmaps "
            "have other sizes; leave out --bitmaps",
            conversion->path);
    }
    r = bitmap_directory_read(existing->file, existing->header, conversion->path, &theirs, error);
    if (r != 0) {
        return r;
    }
    for (size_t i = 0; r == 0 && i < conversion->bitmaps->count; i++) {
        const char *name = conversion->bitmaps->bitmaps[i].name;

        if (bitmap_find(theirs, name) != NULL) {
            r = error_set(error, EEXIST,
                          "%s: has a bitmap '%s' already; remove it (qcow2ctl bitmap --remove), or "
                          "leave out --bitmaps",
                          conversion->path, name);
        }
    }
    bitmap_directory_free(theirs);
    return r;
}

int convert_bitmaps_to_existing(struct conversion *conversion)
{
    int r = 0;

    for (size_t i = 0; conversion->bitmaps != NULL && r == 0 && i < conversion->bitmaps->count;
         i++) {
        const struct bitmap *bitmap = &conversion->bitmaps->bitmaps[i];

        if (is_copied(conversion, bitmap)) {
            r = writer_bitmap_copy(conversion->target.writer, bitmap->name,
                                   conversion->source.image, &conversion->ctl->error);
        }
    }
    return r;
}
