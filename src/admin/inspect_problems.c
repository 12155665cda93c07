/* SPDX-License-Identifier: MIT */
/* What an inspection found wrong, in short. */
#include "config.h"

#include "admin/inspect.h"

#include "meta/format.h"

const char *inspect_problem(const struct inspection *inspection)
{
    for (; inspection != NULL; inspection = inspection->backing) {
        if (inspection->problem_count > 0) {
            return inspection->problems[0].text;
        }
    }
    return NULL;
}

size_t inspect_problem_count(const struct inspection *inspection)
{
    size_t count = 0;

    for (; inspection != NULL; inspection = inspection->backing) {
        count += inspection->problem_count;
    }
    return count;
}

const char *inspect_obstacle(const struct inspection *inspection)
{
    static const enum header_part needed[] = {
        HEADER_PART_START,         HEADER_PART_CLUSTER_SIZE, HEADER_PART_LENGTH,
        HEADER_PART_BACKING,       HEADER_PART_REFCOUNTS,    HEADER_PART_L1,
        HEADER_PART_STRINGS,       HEADER_PART_BITMAPS,      HEADER_PART_SNAPSHOTS,
        HEADER_PART_FIRST_CLUSTER,
    };
    const struct header *header = inspection->header;

    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (inspect_part_failed(inspection, needed[i])) {
            return "its header is damaged";
        }
    }
    if ((header->incompatible_features & ~INCOMPATIBLE_KNOWN) != 0) {
        return "with features that are not known, its tables may mean something else";
    }
    if (header->extended_l2 && header->cluster_bits < CLUSTER_BITS_MIN_EXTENDED_L2) {
        return "its clusters are too small for subclusters";
    }
    return NULL;
}
