/* SPDX-License-Identifier: MIT */
/* What the header, and the order of L1 and L2 tables, tell of how an image came about. */
#include "config.h"

#include "admin/audit_internal.h"

#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define L1_PIECE ((size_t)8192) /* entries that are read at once */

/* --- Walking tables -------------------------------------------------------------------- */

/*
 * The checker has read these tables as well. They are read again, which is 7 percent of an audit's
 * time where the host has them in memory: where on the disk something is can be asked only once
 * that was found, and the checker, which visits a table once however many entries name it, does not
 * know which part of the disk it maps.
 */
/* Called for each L2 table of the active state, in order. */
typedef void (*table_fn)(void *context, uint64_t l1_index, uint64_t offset, const uint8_t *table);

/* Whether these were all: an L1 table can name more of them, or one more often, than can be read.
 */
static bool walk_tables(const struct inspection *image, table_fn visit, void *context)
{
    const struct header *header = image->header;
    uint8_t *l1 = malloc(L1_PIECE * L1_ENTRY_BYTES),
            *table = malloc(in_memory(header->cluster_size));
    uint64_t left = AUDIT_TABLES_MAX / header->cluster_size;
    bool whole = l1 != NULL && table != NULL;

    for (uint64_t i = 0; whole && i < header->l1_entries; i++) {
        uint64_t at = i % L1_PIECE, offset;

        if (at == 0 &&
            store_read(image->file, header->l1_offset + i * L1_ENTRY_BYTES, l1,
                       (size_t)min_u64(L1_PIECE, header->l1_entries - i) * L1_ENTRY_BYTES) < 0) {
            whole = false;
            break;
        }
        offset = l1_entry_table(load_be64(l1 + at * L1_ENTRY_BYTES));
        if (offset == 0 || !range_within(offset, header->cluster_size, image->info.size)) {
            continue;
        }
        whole = left-- > 0;
        if (whole && store_read(image->file, offset, table, (size_t)header->cluster_size) == 0) {
            visit(context, i, offset, table);
        }
    }
    free(l1);
    free(table);
    return whole;
}

/* --- Where on the disk --------------------------------------------------------------------- */

/* table_fn */
static void find_guests(void *context, uint64_t l1_index, uint64_t offset, const uint8_t *table)
{
    struct audit_contents *contents = context;
    const struct header *header = contents->image->header;
    uint64_t per_table = UINT64_C(1) << header->l2_bits;

    (void)offset;
    for (uint64_t i = 0; i < per_table; i++) {
        uint64_t entry = load_be64(table + i * header->l2_entry_bytes);
        uint64_t host = l2_entry_is_compressed(entry) ? 0 : l2_entry_host_offset(entry);

        for (size_t k = 0; host != 0 && k < contents->nested_count && k < AUDIT_LIST_MAX; k++) {
            struct audit_nested *nested = &contents->nested[k];

            if (nested->host_offset - host < header->cluster_size) {
                nested->has_guest = true;
                nested->guest_offset = ((l1_index * per_table + i) << header->cluster_bits) +
                                       nested->host_offset - host;
            }
        }
    }
}

void audit_find_guests(struct audit_contents *contents)
{
    contents->guests_left_out = !walk_tables(contents->image, find_guests, contents);
}

/* --- The order ----------------------------------------------------------------------------- */

struct order {
    const struct header *header;
    uint64_t tables;         /* with data */
    uint64_t before, behind; /* all that they map, where the first of that is */
    uint64_t back;           /* lie before the table of an earlier part of the disk */
    uint64_t last, first_back, lowest_data;
};

/* table_fn */
static void look_at_order(void *context, uint64_t l1_index, uint64_t offset, const uint8_t *table)
{
    struct order *order = context;
    uint64_t per_table = UINT64_C(1) << order->header->l2_bits, least = UINT64_MAX, first = 0;

    (void)l1_index;
    for (uint64_t i = 0; i < per_table; i++) {
        uint64_t entry = load_be64(table + i * order->header->l2_entry_bytes);
        uint64_t host = l2_entry_is_compressed(entry)
                            ? l2_entry_compressed_offset(entry, order->header->cluster_bits)
                            : l2_entry_host_offset(entry);

        if (host != 0) {
            first = first == 0 ? host : first;
            least = min_u64(least, host);
        }
    }
    if (first != 0) {
        order->tables++;
        order->before += least > offset;
        order->behind += first < offset;
        order->lowest_data = min_u64(order->lowest_data, least);
    }
    if (offset < order->last && order->back++ == 0) {
        order->first_back = offset;
    }
    order->last = max_u64(order->last, offset);
}

static void tell_order(struct audit *audit, const struct inspection *image,
                       const struct order *order)
{
    if (order->back > 0) {
        audit_add_at(audit, AUDIT_NOTE, "tables-out-of-order", image, order->first_back,
                     "L2 tables that lie before the table of an earlier part of the disk: %" PRIu64
                     ": these parts were written first, or again since a snapshot",
                     order->back);
    }
}

/* --- Who made it ----------------------------------------------------------------------------- */

/* The program that began to write a name of the feature table, by the name's type and bit. */
static const struct {
    uint8_t type, bit;
    const char *since;
} feature_names[] = {
    {FEATURE_TYPE_INCOMPATIBLE, 4, "QEMU 5.2 or newer, or this project's programs"},
    {FEATURE_TYPE_INCOMPATIBLE, 3, "QEMU 5.1"},
    {FEATURE_TYPE_INCOMPATIBLE, 2, "QEMU 4.0 to 5.0"},
    {FEATURE_TYPE_INCOMPATIBLE, 1, "QEMU 1.7 to 3.1"},
    {FEATURE_TYPE_COMPATIBLE, 0, "QEMU 1.2 to 1.6"},
};

#define NAMES_READ    64
#define NAMES_CLUSTER 4096 /* up to which QEMU leaves them out */

/* What wrote the table of feature names; NULL: none is there, or an unknown one. */
static const char *names_writer(const struct inspection *image)
{
    uint8_t names[NAMES_READ * FEATURE_NAME_LENGTH];
    uint32_t length = 0;

    for (size_t i = 0; i < image->extension_count && length == 0; i++) {
        const struct inspect_extension *extension = &image->extensions[i];

        if (extension->type == EXTENSION_FEATURE_NAME_TABLE) {
            length = (uint32_t)min_u64(extension->length, sizeof(names));
            length = store_read(image->file, extension->offset, names, length) == 0 ? length : 0;
        }
    }
    for (size_t k = 0; k < sizeof(feature_names) / sizeof(feature_names[0]); k++) {
        for (uint32_t at = 0; at + FEATURE_NAME_LENGTH <= length; at += FEATURE_NAME_LENGTH) {
            if (names[at + FEATURE_NAME_TYPE] == feature_names[k].type &&
                names[at + FEATURE_NAME_BIT] == feature_names[k].bit) {
                return feature_names[k].since;
            }
        }
    }
    return NULL;
}

static void tell_header(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;
    const char *writer = names_writer(image);

    if (writer != NULL) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, header->header_length,
                     "its table of feature names is that of %s", writer);
    } else if (header->version > 2 && header->cluster_size > NAMES_CLUSTER) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, header->header_length,
                     "has no table of feature names, as QEMU writes it since 1.2: another "
                     "program made it");
    }
    if (header->cluster_bits == 20 &&
        (header->compatible_features & COMPATIBLE_LAZY_REFCOUNTS) != 0) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, HEADER_CLUSTER_BITS,
                     "has clusters of 1 MiB and lazy refcounts, as Virtuozzo (Parallels) has "
                     "QEMU make its disks");
    }
}

static void tell_places(struct audit *audit, const struct inspection *image,
                        const struct order *order)
{
    const struct header *header = image->header;
    uint64_t size = header->cluster_size;
    uint64_t l1_end = header->l1_offset +
                      div_round_up(header->l1_entries * (uint64_t)L1_ENTRY_BYTES, size) * size;

    if (header->refcount_table_offset == size && header->l1_offset == 3 * size) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, header->l1_offset,
                     "its refcount table, first refcount block and L1 table follow the header, as "
                     "in an image that was made empty, by QEMU or by qcow2ctl create");
    } else if (order->lowest_data == size && header->refcount_table_offset == l1_end) {
        audit_add_at(audit, AUDIT_NOTE, "made-by", image, header->l1_offset,
                     "its data begins behind the header, and its tables are behind that, as "
                     "qcow2ctl convert makes images in one go");
    }
    if (order->tables > 0 && order->before == order->tables) {
        audit_add(audit, AUDIT_NOTE, "made-by", image,
                  "each L2 table lies before all that it maps, as QEMU writes a new disk");
    } else if (order->behind > 0 && image->header->snapshot_count == 0) {
        audit_add(audit, AUDIT_NOTE, "made-by", image,
                  "L2 tables that lie behind the first cluster that they map: %" PRIu64
                  " of %" PRIu64 ", as qcow2fs writes them, or whoever copied tables that a "
                  "snapshot shared",
                  order->behind, order->tables);
    }
}

/* --- Snapshots that are missing ----------------------------------------------------------------
 */

/* QEMU numbers them on from the highest number that there is. */
static void tell_ids(struct audit *audit, const struct inspection *image)
{
    const struct snapshot_table *table = image->snapshots;
    uint64_t highest = 0, count = table != NULL ? table->count : 0;

    for (size_t i = 0; i < count; i++) {
        char *end;
        uint64_t number = strtoull(table->snapshots[i].id, &end, 10);

        if (*end != '\0' || number == 0 || number > UINT32_MAX) {
            return;
        }
        highest = max_u64(highest, number);
    }
    if (image->snapshots_whole && image->snapshots_unlisted == 0 && highest > count) {
        audit_add_at(audit, AUDIT_NOTE, "snapshot-ids", image, image->header->snapshots_offset,
                     "its snapshots have ids up to %" PRIu64 ", and there are %" PRIu64 ": %" PRIu64
                     " with lower ids were removed",
                     highest, count, highest - count);
    }
}

void audit_origin(struct audit *audit, const struct inspection *image)
{
    struct order order = {.header = image->header, .lowest_data = UINT64_MAX};

    (void)walk_tables(image, look_at_order, &order);
    tell_order(audit, image, &order);
    tell_header(audit, image);
    tell_places(audit, image, &order);
    tell_ids(audit, image);
}
