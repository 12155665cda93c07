/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "check/check.h"
#include "codec/codec.h"
#include "meta/format.h"

#include <errno.h>

/* An L1 table that may lie anywhere, but is one. */
static bool l1_is_possible(const struct header *header)
{
    return header->virtual_size <= INT64_MAX &&
           header->l1_entries <= HEADER_L1_SIZE_MAX / L1_ENTRY_BYTES &&
           header->l1_entries >= header_l1_entries_for(header, header->virtual_size) &&
           header->l1_offset % header->cluster_size == 0;
}

/* Whether the image can be checked in spite of what is wrong with that part. */
static bool can_be_checked(const struct header *header, enum header_part part)
{
    switch (part) {
    case HEADER_PART_COMPRESSION: /* nothing is decompressed */
        return compression_type_missing(header->compression_type) != NULL &&
               (header->incompatible_features & INCOMPATIBLE_COMPRESSION_TYPE) != 0;
    case HEADER_PART_CRYPT_HEADER: /* only guest data is encrypted */
        return true;
    case HEADER_PART_REFCOUNTS: /* can be made anew */
        return header->refcount_order <= REFCOUNT_ORDER_MAX;
    case HEADER_PART_L1:
        return l1_is_possible(header);
    case HEADER_PART_OVERLAPS:
        return true;
    default:
        return false;
    }
}

int check_read_header(struct store *file, uint64_t file_size, const char *name,
                      struct header **header, struct error *error)
{
    struct header_examination examination;
    enum header_part part;

    *header = NULL;
    if (header_examine(file, file_size, name, &examination) < 0) {
        return error_set(error, ENOMEM, "%s: out of memory", name);
    }
    for (part = 0; part < HEADER_PARTS; part++) {
        if (header_part_failed(&examination, part) && !can_be_checked(examination.header, part)) {
            *error = examination.problems[part];
            header_examination_release(&examination);
            return -error->code;
        }
    }
    *header = examination.header;
    examination.header = NULL;
    header_examination_release(&examination);
    return 0;
}
