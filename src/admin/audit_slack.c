/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/audit_internal.h"

#include "admin/slack.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((size_t)16384) /* bytes of one read */

/* Counts the bytes of [begin, end) that are not 0. 0 or a negative errno. */
static int count_bytes(struct store *file, uint64_t begin, uint64_t end, uint64_t *count,
                       uint64_t *first)
{
    uint8_t bytes[PIECE];
    int result = 0;

    *count = 0;
    while (begin < end && result == 0) {
        size_t length = (size_t)min_u64(end - begin, sizeof(bytes));

        result = store_read(file, begin, bytes, length);
        for (size_t i = 0; result == 0 && i < length; i++) {
            if (bytes[i] != 0 && (*count)++ == 0) {
                *first = begin + i;
            }
        }
        begin += length;
    }
    return result;
}

static enum audit_grade grade_of(const struct slack_place *place)
{
    /* QEMU leaves entries past the disk behind after saving a machine's state. */
    return strcmp(place->code, "header-fields") == 0 || strcmp(place->code, "l1-past-disk") == 0
               ? AUDIT_NOTE
               : AUDIT_WARNING;
}

struct looking {
    struct audit *audit;
    const struct inspection *image;
};

/* slack_fn */
static int look(void *context, const struct slack_place *place)
{
    const struct looking *looking = context;
    char whose[48] = "";
    uint64_t count, first = 0;
    int result = count_bytes(looking->image->file, place->begin, place->end, &count, &first);

    if (place->snapshot != 0) {
        snprintf(whose, sizeof(whose), " of snapshot %zu", place->snapshot);
    }
    if (result < 0) {
        audit_add_at(looking->audit, AUDIT_DANGER, "unreadable", looking->image, place->begin,
                     "the bytes %s%s cannot be read: %s", place->what, whose, strerror(-result));
    } else if (count > 0) {
        audit_add_at(looking->audit, grade_of(place), place->code, looking->image, first,
                     "bytes %s%s that are not zero: %" PRIu64, place->what, whose, count);
    }
    return 0;
}

void audit_slack(struct audit *audit, const struct inspection *image)
{
    struct looking looking = {audit, image};

    (void)slack_find(image, AUDIT_LIST_MAX, look, &looking);
}
