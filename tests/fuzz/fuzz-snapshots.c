/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the snapshot table of an image. The first byte of an input says how many entries the
 * header claims, the second one the size of a cluster; the rest is the table, and the file's end.
 */
#include "config.h"

#include "guard.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/header.h"
#include "meta/snapshot.h"
#include "target.h"
#include "util/bytes.h"

#include <stdlib.h>
#include <string.h>

#define NAME  "image"
#define PLACE UINT64_C(4096) /* of the table */

const char *const target_name = "snapshots";
const size_t target_most = 16 << 10;

/* A refusal is a sentence that begins with the name. */
static void expect_sentence(int result, const struct error *error)
{
    FUZZ_EXPECT(result == 0 ||
                    (result < 0 && strncmp(error->text, NAME ": ", strlen(NAME ": ")) == 0),
                "%d %s", result, error->text);
}

static void expect_snapshot(const struct header *header, const struct snapshot *snapshot)
{
    struct error error = {0};
    int result = snapshot_validate(header, snapshot, NAME, &error);

    FUZZ_EXPECT(snapshot->id != NULL && snapshot->name != NULL);
    expect_sentence(result, &error);
    if (result == 0) {
        FUZZ_EXPECT(snapshot_vm_state_offset(header, snapshot) >= snapshot->disk_size);
        expect_sentence(snapshot_validate_vm_state(header, snapshot, NAME, &error), &error);
    }
}

/* What is there before an entry that cannot be is the same for who wants all, and who describes. */
static void read_table(struct store *file, const struct header *header, uint64_t file_size)
{
    struct snapshot_table *table, *examined;
    struct error error = {0}, same = {0};
    int result = snapshot_table_read(file, header, file_size, NAME, &table, &error);
    int again = snapshot_table_examine(file, header, file_size, NAME, &examined, &same);

    expect_sentence(result, &error);
    FUZZ_EXPECT(again == result && strcmp(error.text, same.text) == 0);
    FUZZ_EXPECT((result == 0) == (table != NULL));
    FUZZ_EXPECT(result != 0 || (table->count == header->snapshot_count &&
                                table->size < file_size - PLACE + 8 && !table->cut_off));
    if (examined != NULL) {
        FUZZ_EXPECT(examined->count <= header->snapshot_count);
        for (size_t i = 0; i < examined->count; i++) {
            expect_snapshot(header, &examined->snapshots[i]);
        }
        snapshot_table_shorten(examined, examined->count / 2);
    }
    snapshot_table_free(examined);
    snapshot_table_free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header header = {.version = 3, .virtual_size = 1 << 30, .l2_entry_bytes = 8};
    struct store *file;

    if (size < 2) {
        return 0;
    }
    header.snapshot_count = data[0] == 255 ? SNAPSHOTS_MAX : data[0];
    header.cluster_bits = 9 + data[1] % 13;
    header.cluster_size = UINT64_C(1) << header.cluster_bits;
    header.l2_bits = header.cluster_bits - 3;
    header.subcluster_bits = header.cluster_bits;
    header.subclusters = 1;
    header.snapshots_offset = PLACE;
    file = memory_store_create(PLACE + size - 2);
    memcpy(memory_store_data(file) + PLACE, data + 2, size - 2);
    guard_begin(GUARD_MEMORY);
    read_table(file, &header, PLACE + size - 2);
    guard_end();
    store_close(file);
    return 0;
}

/* Tables in order, with more and more extra data. */
uint8_t *target_seed(unsigned number, size_t *size)
{
    static const uint8_t extra[] = {0, 8, 16, 24, 40};
    uint8_t *bytes, *entry;

    if (number >= sizeof(extra)) {
        return NULL;
    }
    bytes = calloc(1, 512);
    FUZZ_EXPECT(bytes != NULL);
    bytes[0] = 2;
    bytes[1] = 7;
    entry = bytes + 2;
    for (unsigned i = 0; i < 2; i++) {
        store_be64(entry + SNAPSHOT_L1_TABLE_OFFSET, 0x50000);
        store_be32(entry + SNAPSHOT_L1_SIZE, 2);
        store_be16(entry + SNAPSHOT_ID_LENGTH, 1);
        store_be16(entry + SNAPSHOT_NAME_LENGTH, 3);
        store_be32(entry + SNAPSHOT_EXTRA_DATA_SIZE, extra[number]);
        if (extra[number] >= 16) {
            store_be64(entry + SNAPSHOT_EXTRA_VM_STATE_SIZE, 4096);
            store_be64(entry + SNAPSHOT_EXTRA_DISK_SIZE, 1 << 20);
        }
        memcpy(entry + SNAPSHOT_FIXED_LENGTH + extra[number], i == 0 ? "1one" : "2two", 4);
        entry += (SNAPSHOT_FIXED_LENGTH + extra[number] + 4 + 7) / 8 * 8;
    }
    *size = (size_t)(entry - bytes);
    return bytes;
}
