/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/slack.h"

#include "meta/format.h"
#include "util/checked.h"

struct search {
    const struct inspection *image;
    slack_fn *found;
    void *context;
    size_t snapshot; /* that is being looked at, from 1 on; 0: none */
};

static int tell(const struct search *search, const char *code, const char *what, uint64_t begin,
                uint64_t end)
{
    const struct slack_place place = {
        .code = code,
        .what = what,
        .snapshot = search->snapshot,
        .begin = begin,
        .end = min_u64(end, search->image->info.size),
    };

    return place.begin < place.end ? search->found(search->context, &place) : 0;
}

/* From the end of a table to the end of its cluster. */
static int tell_behind(const struct search *search, const char *code, const char *what,
                       uint64_t offset, uint64_t length)
{
    uint64_t begin, end;

    if (!checked_add(offset, length, &begin) ||
        !checked_round_up(begin, search->image->header->cluster_size, &end)) {
        return 0;
    }
    return tell(search, code, what, begin, end);
}

/* --- The first cluster, and what it names ----------------------------------------------- */

static int search_first_cluster(const struct search *search)
{
    const struct inspection *image = search->image;
    const struct header *header = image->header;
    int result = tell(search, "header-slack", "behind the header extensions", image->slack[0].begin,
                      image->slack[0].end);

    if (result == 0) {
        result = tell(search, "header-slack", "behind the backing file name in the first cluster",
                      image->slack[1].begin, image->slack[1].end);
    }
    if (result == 0) {
        result = tell(search, "header-fields", "in additional fields of the header",
                      HEADER_FULL_LENGTH, header->header_length);
    }
    if (result == 0) {
        result = tell_behind(search, "bitmap-directory-slack", "behind the bitmap directory",
                             header->bitmap_directory_offset, header->bitmap_directory_size);
    }
    return result;
}

static int search_bitmaps(const struct search *search)
{
    const struct bitmap_directory *bitmaps = search->image->bitmaps;
    int result = 0;

    for (size_t i = 0; bitmaps != NULL && i < bitmaps->count && result == 0; i++) {
        const struct bitmap *bitmap = &bitmaps->bitmaps[i];

        result =
            tell_behind(search, "bitmap-table-slack", "behind a bitmap table", bitmap->table_offset,
                        (uint64_t)bitmap->table_entries * BITMAP_TABLE_ENTRY_BYTES);
    }
    return result;
}

/* --- Disks ------------------------------------------------------------------------------- */

/* A disk of the image: its active state, or that of a snapshot. */
struct disk {
    uint64_t l1_offset, l1_entries, size;
};

static bool load_entry(const struct inspection *image, uint64_t offset, uint64_t *entry)
{
    uint8_t raw[sizeof(uint64_t)];

    if (!range_within(offset, sizeof(raw), image->info.size) ||
        store_read(image->file, offset, raw, sizeof(raw)) < 0) {
        return false;
    }
    *entry = load_be64(raw);
    return true;
}

/* The host cluster that a disk ends in, where it has an uncompressed one of its own. */
static bool find_last_cluster(const struct inspection *image, const struct disk *disk,
                              uint64_t *host_offset)
{
    const struct header *header = image->header;
    uint64_t cluster = (disk->size - 1) >> header->cluster_bits, entry, offset;
    uint64_t index = cluster >> header->l2_bits;

    if (index >= disk->l1_entries ||
        !checked_add(disk->l1_offset, index * L1_ENTRY_BYTES, &offset) ||
        !load_entry(image, offset, &entry) || l1_entry_table(entry) == 0) {
        return false;
    }
    offset = l1_entry_table(entry) +
             (cluster & ((UINT64_C(1) << header->l2_bits) - 1)) * header->l2_entry_bytes;
    if (!load_entry(image, offset, &entry) || l2_entry_is_compressed(entry)) {
        return false;
    }
    *host_offset = l2_entry_host_offset(entry);
    return *host_offset != 0 && *host_offset % header->cluster_size == 0;
}

/* Behind the end of the disk in its last cluster. */
static int search_disk(const struct search *search, const struct disk *disk)
{
    const struct header *header = search->image->header;
    uint64_t host_offset, used = disk->size % header->cluster_size;

    if (used == 0 || header->external_data_file ||
        !find_last_cluster(search->image, disk, &host_offset)) {
        return 0;
    }
    return tell(search, "disk-slack", "behind the end of the disk in its last cluster",
                host_offset + used, host_offset + header->cluster_size);
}

static int search_active(const struct search *search)
{
    const struct header *header = search->image->header;
    const struct disk disk = {header->l1_offset, header->l1_entries, header->virtual_size};
    uint64_t needed = header_l1_entries_for(header, header->virtual_size);
    int result;

    if (inspect_part_failed(search->image, HEADER_PART_L1) || header->l1_entries == 0) {
        return 0;
    }
    result = tell_behind(search, "l1-slack", "behind the L1 table", disk.l1_offset,
                         disk.l1_entries * L1_ENTRY_BYTES);
    if (result == 0) {
        result = tell(search, "l1-past-disk", "in L1 entries behind the end of the disk",
                      disk.l1_offset + needed * L1_ENTRY_BYTES,
                      disk.l1_offset + disk.l1_entries * L1_ENTRY_BYTES);
    }
    return result == 0 ? search_disk(search, &disk) : result;
}

static int search_snapshots(struct search *search, size_t most)
{
    const struct snapshot_table *table = search->image->snapshots;
    int result;

    if (!search->image->snapshots_whole || table->count == 0) {
        return 0;
    }
    result = tell_behind(search, "snapshot-table-slack", "behind the snapshot table",
                         search->image->header->snapshots_offset, table->size);
    for (size_t i = 0; i < table->count && i < most && result == 0; i++) {
        const struct snapshot *snapshot = &table->snapshots[i];
        const struct disk disk = {snapshot->l1_offset, snapshot->l1_entries, snapshot->disk_size};

        search->snapshot = i + 1;
        result = tell_behind(search, "l1-slack", "behind the L1 table", disk.l1_offset,
                             disk.l1_entries * L1_ENTRY_BYTES);
        if (result == 0) {
            result = search_disk(search, &disk);
        }
    }
    search->snapshot = 0;
    return result;
}

/* --- All --------------------------------------------------------------------------------- */

int slack_find(const struct inspection *image, size_t snapshots_max, slack_fn *found, void *context)
{
    struct search search = {.image = image, .found = found, .context = context};
    int result = 0;

    if (!inspect_has_geometry(image) || inspect_part_failed(image, HEADER_PART_FIRST_CLUSTER)) {
        return 0;
    }
    if (!inspect_part_failed(image, HEADER_PART_STRINGS) &&
        !inspect_part_failed(image, HEADER_PART_BITMAPS)) {
        result = search_first_cluster(&search);
    }
    if (result == 0) {
        result = search_bitmaps(&search);
    }
    if (result == 0) {
        result = search_snapshots(&search, snapshots_max);
    }
    return result == 0 ? search_active(&search) : result;
}
