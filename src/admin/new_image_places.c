/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/new_image_internal.h"
#include "meta/format.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RESERVE_BYTES (UINT64_C(1) << 30) /* reserved or punched before a stop is asked for */

int new_image_prepare_places(struct new_image *image, const struct create_target *target)
{
    enum preallocation preallocation = image->plan->preallocation;

    image->has_places = preallocation != PREALLOCATION_OFF;
    image->stop = target->stop;
    image->stop_context = target->context;
    if (!image->has_places) {
        return 0;
    }
    image->reserves = preallocation == PREALLOCATION_FALLOC && !target->is_device;
    image->fills = preallocation == PREALLOCATION_FULL;
    /* What a device had there would be shown; but of subclusters nothing is that was not written.
     */
    image->clears = image->data_file == NULL && target->is_device && !image->header->extended_l2;
    image->written = calloc(1, UINT64_C(1) << image->header->l2_bits);
    return image->written == NULL ? -ENOMEM : 0;
}

/* How many clusters of the disk the L2 table that is being filled maps. */
static uint64_t clusters_of_table(const struct new_image *image)
{
    const struct header *header = image->header;
    uint64_t guest_offset = image->l2_index << header_l1_entry_bits(header);

    if (guest_offset >= header->virtual_size) {
        return 0;
    }
    return min_u64(UINT64_C(1) << header->l2_bits,
                   div_round_up(header->virtual_size - guest_offset, header->cluster_size));
}

static bool is_stopped(const struct new_image *image)
{
    return image->stop != NULL && image->stop(image->stop_context);
}

/* The host's space for a range of the file that the data is in. */
static int reserve(struct new_image *image, uint64_t offset, uint64_t length)
{
    struct store *store = image->data_file != NULL ? image->data_file : image->file;
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, RESERVE_BYTES);

        result = is_stopped(image) ? -EINTR : store_allocate(store, offset, part);
        offset += part;
        length -= part;
    }
    if (result == -EOPNOTSUPP) { /* to write it is the other way to have the space */
        image->reserves = false;
        image->fills = true;
        result = 0;
    }
    return result;
}

int new_image_give_places(struct new_image *image)
{
    const struct header *header = image->header;
    uint64_t clusters = clusters_of_table(image), host_offset, zero = 0;
    uint8_t *entry = image->l2;
    int result = 0;

    if (clusters == 0) {
        return 0;
    }
    memset(image->written, 0, in_memory(clusters));
    if (image->data_file == NULL) {
        result = new_image_take(image, clusters, &image->places_offset);
    } else { /* where they are on the disk */
        image->places_offset = image->l2_index << header_l1_entry_bits(header);
    }
    if (result == 0 && image->reserves) {
        result = reserve(image, image->places_offset, clusters << header->cluster_bits);
    }
    if (image->cipher != NULL && !header->extended_l2) {
        zero = L2_ENTRY_ZERO; /* what the file has there is zeros, but not of an encrypted disk */
    }
    host_offset = image->places_offset;
    for (uint64_t i = 0; i < clusters && result == 0; i++) {
        store_be64(entry, host_offset | ENTRY_COPIED | zero);
        if (header->extended_l2) {
            /* Of other than a raw data file nothing is allocated yet: what is below shows. */
            store_be64(entry + L2_ENTRY_BYTES, image->is_raw ? SUBCLUSTERS_ALL : 0);
        }
        entry += header->l2_entry_bytes;
        host_offset += header->cluster_size;
    }
    image->l2_used = true;
    return result;
}

uint64_t new_image_place_of(const struct new_image *image, uint64_t guest_offset)
{
    return image->places_offset +
           (guest_offset & ((UINT64_C(1) << header_l1_entry_bits(image->header)) - 1));
}

static void *written_of(const struct new_image *image, uint64_t guest_offset)
{
    return image->written + ((guest_offset >> image->header->cluster_bits) &
                             ((UINT64_C(1) << image->header->l2_bits) - 1));
}

void new_image_mark_written(struct new_image *image, uint64_t guest_offset, uint64_t length)
{
    if (image->has_places) {
        memset(written_of(image, guest_offset), 1,
               in_memory(div_round_up(length, image->header->cluster_size)));
    }
}

int new_image_write_zeros(struct new_image *image, uint64_t host_offset, uint64_t length)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, image->zeros_bytes);

        if (is_stopped(image)) {
            return -EINTR;
        }
        result = image->data_file != NULL
                     ? store_write(image->data_file, host_offset, image->zeros, in_memory(part))
                     : new_image_put(image, host_offset, image->zeros, part);
        host_offset += part;
        length -= part;
    }
    return result;
}

static int punch(struct new_image *image, uint64_t host_offset, uint64_t length)
{
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, RESERVE_BYTES);

        result = is_stopped(image) ? -EINTR : store_punch(image->file, host_offset, part);
        host_offset += part;
        length -= part;
    }
    return result;
}

/* Clusters that follow each other, of which none was written; the first has number `first`. */
static int finish_run(struct new_image *image, uint64_t first, uint64_t end)
{
    const struct header *header = image->header;
    uint64_t host_offset = image->places_offset + (first << header->cluster_bits);
    uint64_t length = (end - first) << header->cluster_bits;

    if (image->data_file != NULL) { /* which ends where the disk does */
        length = min_u64(length, header->virtual_size - host_offset);
    }
    return image->fills ? new_image_write_zeros(image, host_offset, length)
                        : punch(image, host_offset, length);
}

int new_image_finish_places(struct new_image *image)
{
    uint64_t clusters = clusters_of_table(image), first = 0;
    int result = 0;

    if (!image->fills && !image->clears) {
        return 0; /* a new file has zeros there */
    }
    while (first < clusters && result == 0) {
        uint64_t end = first;

        while (end < clusters && image->written[end] == 0) {
            end++;
        }
        result = end > first ? finish_run(image, first, end) : 0;
        first = end + 1;
    }
    return result;
}
