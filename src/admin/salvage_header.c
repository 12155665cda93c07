/* SPDX-License-Identifier: MIT */
/* Header fields, and the cluster size. */
#include "config.h"

#include "admin/salvage_internal.h"

#include "meta/format.h"
#include "store/patched.h"
#include "util/checked.h"
#include "util/zeros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_MAX ((size_t)1 << CLUSTER_BITS_MAX)
#define PIECE     ((size_t)1 << 16)
#define SECTOR    512

static uint64_t given_bits(const struct salvage_work *work)
{
    uint64_t size = work->options->cluster_size;

    return size != 0 ? (uint64_t)__builtin_ctzll(size) : 0;
}

static void set_geometry(struct salvage_work *work, uint32_t bits, bool extended)
{
    struct header *header = &work->header;

    header->cluster_bits = bits;
    header->cluster_size = UINT64_C(1) << bits;
    header->incompatible_features &= ~INCOMPATIBLE_EXTENDED_L2;
    header->incompatible_features |=
        extended && bits >= CLUSTER_BITS_MIN_EXTENDED_L2 ? INCOMPATIBLE_EXTENDED_L2 : 0;
    header_derive(header);
}

/* --- What each sector that looks like L2 entries says ----------------------------------- */

struct votes {
    uint64_t bits[64];     /* of sectors, by the alignment of what they name */
    uint64_t extended[64]; /* of those of which every other entry alone is one */
};

/* How far what `step` entries apart names is aligned; 0 where they are no L2 entries. */
static unsigned alignment(const struct salvage_work *work, const uint8_t *sector, size_t step)
{
    uint64_t all = 0;
    unsigned count = 0;

    for (size_t at = 0; at < SECTOR; at += step) {
        uint64_t entry = load_be64(sector + at), host = l2_entry_host_offset(entry);

        if (entry == 0) {
            continue;
        }
        if ((entry & L2_ENTRY_RESERVED) != 0 || l2_entry_is_compressed(entry) ||
            !l2_entry_is_copied(entry) || host == 0 || host >= work->file_size) {
            return 0;
        }
        all |= host;
        count++;
    }
    return count >= 4 ? (unsigned)__builtin_ctzll(all) : 0;
}

static void vote(const struct salvage_work *work, const uint8_t *sector, struct votes *votes)
{
    unsigned plain = alignment(work, sector, L2_ENTRY_BYTES);
    unsigned extended = plain == 0 ? alignment(work, sector, L2_ENTRY_BYTES_EXTENDED) : 0;

    votes->bits[plain] += plain != 0;
    votes->extended[extended] += extended != 0;
}

static int gather_votes(struct salvage_work *work, struct votes *votes)
{
    uint8_t *piece = malloc(PIECE);

    if (piece == NULL) {
        return salvage_no_memory(work);
    }
    for (uint64_t offset = 0; offset < work->file_size;) {
        size_t length = (size_t)min_u64(PIECE, work->file_size - offset);
        uint64_t hole = salvage_hole(work, offset);

        if (hole > 0) {
            offset += hole;
            continue;
        }
        if (store_read(work->file, offset, piece, length) == 0) {
            for (size_t at = 0; at + SECTOR <= length; at += SECTOR) {
                vote(work, piece + at, votes);
            }
        }
        offset += length;
    }
    free(piece);
    return 0;
}

/* Clusters are no larger than what most tables say, and some say more by chance. */
static uint32_t most_votes(const uint64_t *votes, uint64_t *count)
{
    uint32_t found = 0;

    *count = 0;
    for (uint32_t bits = CLUSTER_BITS_MIN; bits <= CLUSTER_BITS_MAX; bits++) {
        if (votes[bits] > *count) {
            *count = votes[bits];
            found = bits;
        }
    }
    return found;
}

int salvage_deduce_geometry(struct salvage_work *work)
{
    struct votes votes = {{0}, {0}};
    uint64_t plain_count, extended_count;
    uint32_t plain, extended;
    bool is_extended;
    int result = gather_votes(work, &votes);

    if (result < 0) {
        return result;
    }
    plain = most_votes(votes.bits, &plain_count);
    extended = most_votes(votes.extended, &extended_count);
    is_extended = extended_count > plain_count;
    plain = is_extended ? extended : plain;
    plain = given_bits(work) != 0 ? (uint32_t)given_bits(work) : plain;
    if (plain_count + extended_count == 0 ||
        (plain == work->header.cluster_bits && is_extended == work->header.extended_l2)) {
        return 0;
    }
    set_geometry(work, plain, is_extended);
    salvage_tell(work, SALVAGE_DEDUCED, "cluster-size", work->header.cluster_size,
                 "by what L2 entries name");
    return 1;
}

/* --- Before anything is known ------------------------------------------------------------- */

/* Whether the table of feature names is where one of version 3 has it. */
static bool has_feature_names(const struct salvage_work *work)
{
    return load_be32(work->first + HEADER_V3_LENGTH) == EXTENSION_FEATURE_NAME_TABLE ||
           load_be32(work->first + HEADER_FULL_LENGTH) == EXTENSION_FEATURE_NAME_TABLE;
}

/* Version 3 is what QEMU makes unless told otherwise. */
static uint32_t deduce_version(const struct salvage_work *work)
{
    const uint8_t *behind = work->first + HEADER_V2_LENGTH; /* a header of version 2 */
    uint32_t length = load_be32(work->first + HEADER_HEADER_LENGTH), type = load_be32(behind);

    if (has_feature_names(work) || length == HEADER_V3_LENGTH || length == HEADER_FULL_LENGTH) {
        return 3;
    }
    return type == EXTENSION_BACKING_FORMAT ||
                   (is_all_zeros(behind, HEADER_FULL_LENGTH - HEADER_V2_LENGTH) &&
                    load_be32(work->first + HEADER_CLUSTER_BITS) != 0)
               ? 2
               : 3;
}

static void set_version(struct salvage_work *work)
{
    uint8_t *first = work->first;
    uint32_t length = load_be32(first + HEADER_HEADER_LENGTH);
    uint32_t version = load_be32(first + HEADER_VERSION);
    bool known = version == 3 || (version == 2 && !has_feature_names(work));

    if (load_be32(first + HEADER_MAGIC) != QCOW_MAGIC) {
        store_be32(first + HEADER_MAGIC, QCOW_MAGIC);
        salvage_tell(work, SALVAGE_DEDUCED, "magic", QCOW_MAGIC, NULL);
    }
    if (!known) {
        version = deduce_version(work);
        store_be32(first + HEADER_VERSION, version);
    }
    salvage_tell(work, known ? SALVAGE_CERTAIN : SALVAGE_DEDUCED, "version", version, NULL);
    work->header.version = version;
    work->header.refcount_order =
        version == 2 ? REFCOUNT_ORDER_V2 : load_be32(first + HEADER_REFCOUNT_ORDER);
    if (version == 3 && length != HEADER_V3_LENGTH && length != HEADER_FULL_LENGTH &&
        (length < HEADER_V3_LENGTH || length % 8 != 0 || length > SECTOR)) {
        store_be32(first + HEADER_HEADER_LENGTH, HEADER_FULL_LENGTH);
        salvage_tell(work, SALVAGE_DEDUCED, "header-length", HEADER_FULL_LENGTH, NULL);
    }
}

/* Whether the first bytes have the extension that names a data file. */
static bool names_data_file(const struct salvage_work *work)
{
    for (size_t at = HEADER_V2_LENGTH; at < SECTOR; at += 8) {
        if (load_be32(work->first + at) == EXTENSION_DATA_FILE) {
            return true;
        }
    }
    return false;
}

/*
 * The incompatible features that can be believed. Where the field has bits that nobody knows, or
 * says that there is a data file though none is named, it is damaged, as a whole, and extended L2
 * entries are left to what the tables look like: *damaged.
 */
static uint64_t believed_features(struct salvage_work *work, bool *damaged)
{
    uint64_t features = load_be64(work->first + HEADER_INCOMPATIBLE_FEATURES);

    *damaged = work->header.version != 2 && (features & ~INCOMPATIBLE_KNOWN) != 0;
    if (work->header.version == 2) {
        return 0;
    }
    if (*damaged) {
        features &= INCOMPATIBLE_KNOWN & ~INCOMPATIBLE_EXTENDED_L2;
        salvage_tell(work, SALVAGE_DEDUCED, "incompatible-features", features,
                     "those that are known; the field has others, too");
    }
    if ((features & INCOMPATIBLE_EXTERNAL_DATA_FILE) != 0 && !names_data_file(work)) {
        *damaged = true;
        features &= ~(INCOMPATIBLE_EXTERNAL_DATA_FILE | INCOMPATIBLE_EXTENDED_L2);
        salvage_tell(work, SALVAGE_DEDUCED, "data-file", 0, "there is none, since none is named");
    }
    return features;
}

/* The cluster size, and the kind of entries, that the header says or was given. */
static int begin_geometry(struct salvage_work *work)
{
    uint64_t given = given_bits(work), bits = load_be32(work->first + HEADER_CLUSTER_BITS);
    bool possible = bits >= CLUSTER_BITS_MIN && bits <= CLUSTER_BITS_MAX, damaged;
    uint64_t features = believed_features(work, &damaged);
    int result = 0;

    bits = given != 0 ? given : possible ? bits : 16;
    work->header.incompatible_features = features;
    set_geometry(work, (uint32_t)bits, (features & INCOMPATIBLE_EXTENDED_L2) != 0);
    if (damaged || (given == 0 && !possible)) {
        result = salvage_deduce_geometry(work);
    }
    if (given != 0 || possible) {
        set_geometry(work, (uint32_t)bits, work->header.extended_l2);
        salvage_tell(work, given != 0 ? SALVAGE_DEDUCED : SALVAGE_CERTAIN, "cluster-size",
                     work->header.cluster_size, given != 0 ? "given" : NULL);
    }
    return result < 0 ? result : 0;
}

int salvage_begin_header(struct salvage_work *work)
{
    int result;

    work->first = calloc(1, FIRST_MAX);
    if (work->first == NULL) {
        return salvage_no_memory(work);
    }
    result = store_read(work->file, 0, work->first, (size_t)min_u64(FIRST_MAX, work->file_size));
    if (result < 0) {
        memset(work->first, 0, FIRST_MAX); /* nothing is known of it */
    }
    set_version(work);
    return begin_geometry(work);
}

/* --- A header that can be opened ------------------------------------------------------------ */

static void set_tables(struct salvage_work *work)
{
    struct header *header = &work->header;
    uint8_t *first = work->first;

    if (load_be32(first + HEADER_NB_SNAPSHOTS) != work->snapshot_count) {
        store_be32(first + HEADER_NB_SNAPSHOTS, work->snapshot_count);
        salvage_tell(work, SALVAGE_MISSING, "snapshots", work->snapshot_count,
                     "so many can be shown");
    }
    store_be32(first + HEADER_CLUSTER_BITS, header->cluster_bits);
    store_be64(first + HEADER_SIZE, header->virtual_size);
    store_be32(first + HEADER_L1_SIZE, header->l1_entries);
    store_be64(first + HEADER_L1_TABLE_OFFSET, SALVAGE_L1);
    /* Nobody who only reads needs counts: a table without any. */
    store_be64(first + HEADER_REFCOUNT_TABLE_OFFSET, SALVAGE_REFCOUNTS);
    store_be32(first + HEADER_REFCOUNT_TABLE_CLUSTERS, 1);
    if (header->version > 2) {
        header->incompatible_features &= ~(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT);
        store_be64(first + HEADER_INCOMPATIBLE_FEATURES, header->incompatible_features);
        store_be32(first + HEADER_REFCOUNT_ORDER, REFCOUNT_ORDER_V2);
    }
}

static void end_extensions(struct salvage_work *work)
{
    uint32_t length = work->header.version == 2 ? (uint32_t)HEADER_V2_LENGTH
                                                : load_be32(work->first + HEADER_HEADER_LENGTH);

    memset(work->first + length, 0, 8);
}

/* Takes out what a part of the header that cannot be says. False: that is not possible. */
static bool give_up_part(struct salvage_work *work, int part)
{
    uint8_t *first = work->first;

    switch (part) {
    case HEADER_PART_LENGTH:
        store_be32(first + HEADER_HEADER_LENGTH, HEADER_FULL_LENGTH);
        return true;
    case HEADER_PART_BACKING:
        store_be64(first + HEADER_BACKING_FILE_OFFSET, 0);
        salvage_tell(work, SALVAGE_MISSING, "backing-file", 0, NULL);
        return true;
    case HEADER_PART_COMPRESSION:
        work->header.incompatible_features &= ~INCOMPATIBLE_COMPRESSION_TYPE;
        work->header.incompatible_features |=
            first[HEADER_COMPRESSION_TYPE] == 1 ? INCOMPATIBLE_COMPRESSION_TYPE : 0;
        first[HEADER_COMPRESSION_TYPE] = first[HEADER_COMPRESSION_TYPE] == 1;
        store_be64(first + HEADER_INCOMPATIBLE_FEATURES, work->header.incompatible_features);
        salvage_tell(work, SALVAGE_DEDUCED, "compression-type", first[HEADER_COMPRESSION_TYPE],
                     NULL);
        return true;
    case HEADER_PART_ENCRYPTION:
    case HEADER_PART_CRYPT_HEADER:
        store_be32(first + HEADER_CRYPT_METHOD, CRYPT_NONE);
        salvage_tell(work, SALVAGE_MISSING, "encryption", 0, NULL);
        end_extensions(work);
        return true;
    case HEADER_PART_SNAPSHOTS:
    case HEADER_PART_OVERLAPS:
        store_be32(first + HEADER_NB_SNAPSHOTS, 0);
        salvage_tell(work, SALVAGE_MISSING, "snapshots", 0, NULL);
        if (part == HEADER_PART_OVERLAPS) {
            end_extensions(work);
        }
        return true;
    case HEADER_PART_STRINGS:
    case HEADER_PART_BITMAPS:
        end_extensions(work);
        salvage_tell(work, SALVAGE_MISSING, "header-extensions", 0, NULL);
        return true;
    default:
        return false;
    }
}

/* The first part that cannot be; HEADER_PARTS: none. Negative errno. */
static int find_fault(struct salvage_work *work)
{
    struct header_examination *examination = calloc(1, sizeof(*examination));
    struct error sentence = {0};
    int result = -ENOMEM, found = HEADER_PARTS;

    if (examination != NULL) {
        result =
            store_patch_add(work->patched, 0, work->first, in_memory(work->header.cluster_size));
    }
    if (result == 0) {
        result = header_examine(work->patched, SALVAGE_REFCOUNTS + work->header.cluster_size,
                                work->path, examination);
        for (int part = HEADER_PARTS; result == 0 && part > 0; part--) {
            if (header_part_failed(examination, part - 1)) {
                found = part - 1;
                sentence = examination->problems[found];
            }
        }
        header_examination_release(examination);
    }
    free(examination);
    if (result == 0 && found != HEADER_PARTS && !give_up_part(work, found)) {
        *work->error = sentence;
        return -EINVAL;
    }
    return result < 0 ? salvage_no_memory(work) : found;
}

static int add_tables(struct salvage_work *work)
{
    size_t length = (work->header.l1_entries + (size_t)1) * L1_ENTRY_BYTES;
    uint8_t *l1 = calloc(1, length), *counts = calloc(1, in_memory(work->header.cluster_size));
    int result = l1 != NULL && counts != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; result == 0 && i < work->header.l1_entries; i++) {
        store_be64(l1 + (size_t)i * L1_ENTRY_BYTES, work->l1[i]);
    }
    if (result == 0) {
        result = store_patch_add(work->patched, SALVAGE_L1, l1, length);
    }
    if (result == 0) {
        result = store_patch_add(work->patched, SALVAGE_REFCOUNTS, counts,
                                 in_memory(work->header.cluster_size));
    }
    free(l1);
    free(counts);
    return result == 0 ? 0 : salvage_no_memory(work);
}

int salvage_finish_header(struct salvage_work *work)
{
    int fault = HEADER_PARTS, rounds = 0;
    int result = 0;

    set_tables(work);
    result = add_tables(work);
    do {
        if (result == 0) {
            fault = find_fault(work);
            result = fault < 0 ? fault : 0;
        }
    } while (result == 0 && fault != HEADER_PARTS && ++rounds < 2 * HEADER_PARTS);
    return result;
}
