/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/new_image_internal.h"
#include "meta/format.h"
#include "meta/refcount_block.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>

#define HOST_BITS 56 /* of a host offset, in L1 and L2 entries */

/* --- Counting -------------------------------------------------------------------------------- */

/* Room for the blocks up to number `index`. */
static int reserve_blocks(struct new_image *image, uint64_t index)
{
    uint64_t room = max_u64(2 * image->block_room, index + 16);
    uint8_t **blocks;
    uint64_t *places;

    if (index < image->block_room) {
        return 0;
    }
    blocks = realloc(image->blocks, in_memory(room * sizeof(*blocks)));
    if (blocks == NULL) {
        return -ENOMEM;
    }
    image->blocks = blocks;
    places = realloc(image->places, in_memory(room * sizeof(*places)));
    if (places == NULL) {
        return -ENOMEM;
    }
    image->places = places;
    image->block_room = room;
    return 0;
}

/* The block that counts the cluster, made where it is new. NULL: no memory. */
static uint8_t *block_of(struct new_image *image, uint64_t cluster)
{
    uint64_t index = cluster / image->counts_per_block;

    if (reserve_blocks(image, index) < 0) {
        return NULL;
    }
    for (; image->block_count <= index; image->block_count++) {
        image->places[image->block_count] = 0;
        image->blocks[image->block_count] = calloc(1, in_memory(image->header->cluster_size));
        if (image->blocks[image->block_count] == NULL) {
            return NULL;
        }
    }
    return image->blocks[index];
}

static uint64_t count_of(struct new_image *image, uint64_t cluster)
{
    uint8_t *block = block_of(image, cluster);

    return block != NULL ? refcount_load(block, cluster % image->counts_per_block,
                                         image->header->refcount_order)
                         : 0;
}

/* One reference more. */
static int count(struct new_image *image, uint64_t cluster)
{
    uint32_t order = image->header->refcount_order;
    uint64_t index = cluster % image->counts_per_block;
    uint8_t *block = block_of(image, cluster);

    if (block == NULL) {
        return -ENOMEM;
    }
    refcount_store(block, index, order, refcount_load(block, index, order) + 1);
    return 0;
}

int new_image_take(struct new_image *image, uint64_t clusters, uint64_t *host_offset)
{
    uint32_t bits = image->header->cluster_bits;
    int result = 0;

    *host_offset = image->next << bits;
    if (clusters > (UINT64_C(1) << (HOST_BITS - bits)) - image->next) {
        return -EFBIG;
    }
    for (; clusters > 0 && result == 0; clusters--) {
        result = count(image, image->next++);
    }
    return result;
}

/*
 *     |####data####|###data##|          |        `next` is where the file ends
 *                            ^ tail     ^
 *
 * What does not fit goes on in the cluster behind, where that is the next to be taken.
 */
int new_image_take_bytes(struct new_image *image, uint64_t length, uint64_t *host_offset)
{
    const struct header *header = image->header;
    uint32_t bits = header->cluster_bits;
    uint64_t tail = image->tail, room = -tail & (header->cluster_size - 1);
    uint64_t ignored, cluster = tail >> bits;
    bool follows = room > 0 && cluster + 1 == image->next;
    int result;

    if (room > 0 && (room >= length || follows) &&
        count_of(image, cluster) < refcount_max(header->refcount_order)) {
        *host_offset = tail;
        result = count(image, cluster);
        if (result == 0 && length > room) {
            result = new_image_take(image, 1, &ignored);
        }
    } else {
        result = new_image_take(image, 1, host_offset);
    }
    image->tail = *host_offset + length;
    return result == 0 && image->tail > l2_entry_compressed_limit(bits) ? -EFBIG : result;
}

/* --- Writing -----------------------------------------------------------------------------------
 */

static int write_block(struct new_image *image, uint64_t index)
{
    int result = new_image_put(image, image->places[index], image->blocks[index],
                               image->header->cluster_size);

    free(image->blocks[index]);
    image->blocks[index] = NULL;
    return result;
}

int new_image_retire(struct new_image *image)
{
    const struct header *header = image->header;
    int result = 0;

    while (result == 0) {
        uint64_t behind = (image->retired + 1) * image->counts_per_block, place;
        bool tail_is_open = (image->tail & (header->cluster_size - 1)) != 0;

        if (image->next < behind) {
            break;
        }
        if (tail_is_open && image->tail >> header->cluster_bits < behind) {
            if (image->next < behind + image->counts_per_block) {
                break; /* more compressed data may still be counted there */
            }
            image->tail = 0; /* it ended long ago */
        }
        result = new_image_take(image, 1, &place);
        if (result == 0) {
            image->places[image->retired] = place;
            result = write_block(image, image->retired++);
        }
    }
    return result;
}

/*
 * How many blocks there will be, and clusters of their table, when both are taken themselves. They
 * only grow, so this ends.
 */
static void plan_rest(const struct new_image *image, uint64_t *blocks, uint64_t *table)
{
    *blocks = image->block_count;
    *table = 1;
    for (;;) {
        uint64_t total = image->next + (*blocks - image->retired) + *table;
        uint64_t blocks_needed = div_round_up(total, image->counts_per_block);
        uint64_t table_needed =
            div_round_up(blocks_needed * REFCOUNT_TABLE_ENTRY_BYTES, image->header->cluster_size);

        if (blocks_needed <= *blocks && table_needed <= *table) {
            return;
        }
        *blocks = max_u64(blocks_needed, *blocks);
        *table = max_u64(table_needed, *table);
    }
}

static int write_table(struct new_image *image)
{
    uint64_t length = image->block_count * REFCOUNT_TABLE_ENTRY_BYTES;
    uint8_t *table = malloc(in_memory(length));
    int result;

    if (table == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < image->block_count; i++) {
        store_be64(table + i * REFCOUNT_TABLE_ENTRY_BYTES, image->places[i]);
    }
    result = new_image_put(image, image->refcount_table_offset, table, length);
    free(table);
    return result < 0 ? result : new_image_pad(image, image->refcount_table_offset, length);
}

int new_image_write_refcounts(struct new_image *image)
{
    uint64_t blocks, table;
    int result;

    plan_rest(image, &blocks, &table);
    if (table << image->header->cluster_bits > HEADER_REFCOUNT_TABLE_SIZE_MAX) {
        return -EFBIG;
    }
    image->refcount_table_clusters = table;
    result = new_image_take(image, table, &image->refcount_table_offset);
    for (uint64_t i = image->retired; i < blocks && result == 0; i++) {
        uint64_t place;

        /* The last ones may count nothing but themselves, and not be there yet. */
        result = block_of(image, i * image->counts_per_block) == NULL ? -ENOMEM : 0;
        result = result == 0 ? new_image_take(image, 1, &place) : result;
        if (result == 0) {
            image->places[i] = place;
        }
    }
    if (result == 0) {
        result = write_table(image);
    }
    for (uint64_t i = image->retired; i < blocks && result == 0; i++) {
        result = write_block(image, i);
    }
    return result;
}

void new_image_free_refcounts(struct new_image *image)
{
    for (uint64_t i = 0; i < image->block_count; i++) {
        free(image->blocks[i]);
    }
    free(image->blocks);
    free(image->places);
}
