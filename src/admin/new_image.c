/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/new_image.h"

#include "admin/new_image_internal.h"
#include "crypto/cipher.h"
#include "meta/format.h"
#include "meta/header_write.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PENDING_BYTES   UINT64_C(1048576) /* collected before they are written */
#define ENCRYPTED_BYTES UINT64_C(262144)  /* at once: they stay in a processor's cache */

/* --- Writing in order ---------------------------------------------------------------------- */

int new_image_flush(struct new_image *image)
{
    int result = 0;

    if (image->pending_length > 0) {
        result = store_write(image->file, image->pending_offset, image->pending,
                             in_memory(image->pending_length));
    }
    image->pending_length = 0;
    return result;
}

int new_image_put(struct new_image *image, uint64_t host_offset, const void *bytes, uint64_t length)
{
    int result = 0;

    if (image->pending_length > 0 &&
        (host_offset != image->pending_offset + image->pending_length ||
         length > PENDING_BYTES - image->pending_length)) {
        result = new_image_flush(image);
    }
    if (result < 0 || length >= PENDING_BYTES / 2) {
        result = result == 0 ? new_image_flush(image) : result;
        return result == 0 ? store_write(image->file, host_offset, bytes, in_memory(length))
                           : result;
    }
    if (image->pending_length == 0) {
        image->pending_offset = host_offset;
    }
    memcpy(image->pending + image->pending_length, bytes, in_memory(length));
    image->pending_length += length;
    return 0;
}

int new_image_pad(struct new_image *image, uint64_t host_offset, uint64_t length)
{
    uint64_t rest = -length & (image->header->cluster_size - 1);

    return rest > 0 ? new_image_put(image, host_offset + length, image->zeros, rest) : 0;
}

/* --- L2 tables ------------------------------------------------------------------------------ */

static uint64_t l2_table_of(const struct new_image *image, uint64_t guest_offset)
{
    return guest_offset >> header_l1_entry_bits(image->header);
}

static int begin_l2(struct new_image *image, uint64_t index)
{
    memset(image->l2, 0, in_memory(image->header->cluster_size));
    image->l2_index = index;
    image->l2_used = false;
    return image->has_places ? new_image_give_places(image) : 0;
}

static int end_l2(struct new_image *image)
{
    uint64_t host_offset;
    int result;

    if (!image->l2_used) {
        return 0;
    }
    result = new_image_finish_places(image);
    if (result == 0) {
        result = new_image_take(image, 1, &host_offset);
    }
    if (result == 0) {
        store_be64(image->l1 + image->l2_index * L1_ENTRY_BYTES, host_offset | ENTRY_COPIED);
        result = new_image_put(image, host_offset, image->l2, image->header->cluster_size);
    }
    return result < 0 ? result : new_image_retire(image);
}

/* From the table that is being filled to number `index`, or behind the last. */
static int go_to_l2(struct new_image *image, uint64_t index)
{
    int result = 0;

    while (image->l2_index < index && result == 0) {
        result = end_l2(image);
        if (result == 0) {
            result = begin_l2(image, image->has_places ? image->l2_index + 1 : index);
        }
    }
    return result;
}

/* Sets the entry of a cluster; `bitmap` counts with extended L2 entries. */
static int set_entry(struct new_image *image, uint64_t guest_offset, uint64_t entry,
                     uint64_t bitmap)
{
    const struct header *header = image->header;
    uint64_t number = guest_offset >> header->cluster_bits;
    uint8_t *at;
    int result = go_to_l2(image, l2_table_of(image, guest_offset));

    if (result < 0) {
        return result;
    }
    at = image->l2 + (number & ((UINT64_C(1) << header->l2_bits) - 1)) * header->l2_entry_bytes;
    store_be64(at, entry);
    if (header->extended_l2) {
        store_be64(at + L2_ENTRY_BYTES, bitmap);
    }
    image->l2_used = true;
    return 0;
}

/* --- What is on the disk --------------------------------------------------------------------- */

/* Host clusters for `length` bytes at guest_offset, or their place in the data file. */
static int take_data(struct new_image *image, uint64_t guest_offset, uint64_t length,
                     uint64_t *host_offset)
{
    if (image->has_places) {
        *host_offset = new_image_place_of(image, guest_offset);
    } else if (image->data_file != NULL) {
        *host_offset = guest_offset;
    } else {
        return new_image_take(image, div_round_up(length, image->header->cluster_size),
                              host_offset);
    }
    return 0;
}

static int write_as_it_is(struct new_image *image, uint64_t host_offset, const void *bytes,
                          uint64_t length)
{
    return image->data_file != NULL
               ? store_write(image->data_file, host_offset, bytes, in_memory(length))
               : new_image_put(image, host_offset, bytes, length);
}

static uint64_t whole_sectors(uint64_t length)
{
    return div_round_up(length, CIPHER_SECTOR) * CIPHER_SECTOR;
}

/* Whole sectors: what `length` lacks of the last one is zeros. */
static int write_encrypted(struct new_image *image, uint64_t guest_offset, uint64_t host_offset,
                           const uint8_t *bytes, uint64_t length)
{
    bool by_guest = image->header->crypt_method == CRYPT_AES;
    int result = 0;

    for (uint64_t at = 0; at < length && result == 0; at += ENCRYPTED_BYTES) {
        uint64_t part = min_u64(length - at, ENCRYPTED_BYTES);
        uint64_t sectors = whole_sectors(part);
        uint64_t sector = ((by_guest ? guest_offset : host_offset) + at) / CIPHER_SECTOR;

        memcpy(image->encrypted, bytes + at, in_memory(part));
        memset(image->encrypted + part, 0, in_memory(sectors - part));
        result = cipher_encrypt(image->cipher, sector, image->encrypted, image->encrypted,
                                in_memory(sectors));
        if (result == 0) {
            result = write_as_it_is(image, host_offset + at, image->encrypted, sectors);
        }
    }
    return result;
}

static int write_data(struct new_image *image, uint64_t guest_offset, uint64_t host_offset,
                      const void *bytes, uint64_t length)
{
    return image->cipher != NULL ? write_encrypted(image, guest_offset, host_offset, bytes, length)
                                 : write_as_it_is(image, host_offset, bytes, length);
}

/*
 * The same, and zeros behind it up to a whole `unit`, a cluster or a subcluster of the file: what
 * is behind the end of the disk, also on a device.
 */
static int write_units(struct new_image *image, uint64_t guest_offset, uint64_t host_offset,
                       const void *bytes, uint64_t length, uint64_t unit)
{
    uint64_t written = image->cipher != NULL ? whole_sectors(length) : length;
    uint64_t rest = image->data_file == NULL ? -written & (unit - 1) : 0;
    int result = write_data(image, guest_offset, host_offset, bytes, length);

    return result == 0 && rest > 0 ? write_data(image, guest_offset + written,
                                                host_offset + written, image->zeros, rest)
                                   : result;
}

/* Within one L2 table. */
static int put_data(struct new_image *image, uint64_t guest_offset, const void *bytes,
                    uint64_t length)
{
    uint64_t cluster_size = image->header->cluster_size, host_offset, at;
    /* The table before it first, so that its clusters come first, too. */
    int result = go_to_l2(image, l2_table_of(image, guest_offset));

    if (result == 0) {
        result = take_data(image, guest_offset, length, &host_offset);
    }
    if (result == 0) {
        result = write_units(image, guest_offset, host_offset, bytes, length, cluster_size);
    }
    if (result == 0) {
        new_image_mark_written(image, guest_offset, length);
    }
    for (at = 0; at < length && result == 0; at += cluster_size) {
        result =
            set_entry(image, guest_offset + at, (host_offset + at) | ENTRY_COPIED, SUBCLUSTERS_ALL);
    }
    return result;
}

int new_image_data(struct new_image *image, uint64_t guest_offset, const void *bytes,
                   uint64_t length)
{
    uint64_t covered = UINT64_C(1) << header_l1_entry_bits(image->header);
    const uint8_t *from = bytes;
    int result = 0;

    while (length > 0 && result == 0) {
        uint64_t part = min_u64(length, covered - guest_offset % covered);

        result = put_data(image, guest_offset, from, part);
        guest_offset += part;
        from += part;
        length -= part;
    }
    return result;
}

int new_image_compressed(struct new_image *image, uint64_t guest_offset, const void *bytes,
                         uint64_t length)
{
    uint64_t host_offset;
    int result = go_to_l2(image, l2_table_of(image, guest_offset));

    if (result == 0) {
        result = new_image_take_bytes(image, length, &host_offset);
    }
    if (result == 0) {
        result = new_image_put(image, host_offset, bytes, length);
    }
    if (result < 0) {
        return result;
    }
    return set_entry(image, guest_offset,
                     l2_entry_of_compressed(host_offset, length, image->header->cluster_bits), 0);
}

/* What an entry says of the place of a cluster that has one without having data. */
static uint64_t place_entry(const struct new_image *image, uint64_t guest_offset)
{
    return image->has_places ? new_image_place_of(image, guest_offset) | ENTRY_COPIED : 0;
}

int new_image_zeros(struct new_image *image, uint64_t guest_offset, uint64_t length)
{
    const struct header *header = image->header;
    uint64_t zero = header->extended_l2 ? 0 : L2_ENTRY_ZERO;
    int result = 0;

    if (image->is_raw) {
        return 0; /* the data file has a hole there */
    }
    for (uint64_t at = 0; at < length && result == 0; at += header->cluster_size) {
        /* The table first: it gives the places. */
        result = go_to_l2(image, l2_table_of(image, guest_offset + at));
        if (result == 0) {
            result = set_entry(image, guest_offset + at,
                               zero | place_entry(image, guest_offset + at), SUBCLUSTERS_ALL << 32);
        }
    }
    return result;
}

int new_image_subclusters(struct new_image *image, uint64_t guest_offset, const void *bytes,
                          uint64_t length, uint32_t data, uint32_t zeros)
{
    const struct header *header = image->header;
    uint64_t size = UINT64_C(1) << header->subcluster_bits, host_offset = 0, entry, bitmap;
    const uint8_t *from = bytes;
    int result = go_to_l2(image, l2_table_of(image, guest_offset));

    if (result == 0 && data != 0) {
        result = take_data(image, guest_offset, header->cluster_size, &host_offset);
        if (result == 0 && image->fills) { /* around the data */
            result = new_image_write_zeros(
                image, host_offset, image->data_file != NULL ? length : header->cluster_size);
        }
        new_image_mark_written(image, guest_offset, length);
    }
    for (unsigned i = 0; i < SUBCLUSTERS_EXTENDED && result == 0; i++) {
        uint64_t at = i * size;

        if ((data >> i & 1) != 0 && at < length) {
            result = write_units(image, guest_offset + at, host_offset + at, from + at,
                                 min_u64(size, length - at), size);
        }
    }
    entry = data != 0 ? host_offset | ENTRY_COPIED : place_entry(image, guest_offset);
    /* Of a raw data file everything is shown. */
    bitmap = image->is_raw ? SUBCLUSTERS_ALL : (uint64_t)zeros << 32 | data;
    return result < 0 ? result : set_entry(image, guest_offset, entry, bitmap);
}

/* --- The beginning and the end -----------------------------------------------------------------
 */

static int put_crypt_header(struct new_image *image, const uint8_t *bytes)
{
    uint64_t length = image->header->crypt_header_length;
    int result = new_image_take(image, div_round_up(length, image->header->cluster_size),
                                &image->crypt_header_offset);

    if (result == 0) {
        result = new_image_put(image, image->crypt_header_offset, bytes, length);
    }
    return result == 0 ? new_image_pad(image, image->crypt_header_offset, length) : result;
}

int new_image_begin(const struct create_plan *plan, const struct create_target *target,
                    struct new_image **image)
{
    const struct header *header = &plan->header;
    struct new_image *begun = calloc(1, sizeof(*begun));
    int result;

    *image = NULL;
    if (begun == NULL) {
        return -ENOMEM;
    }
    begun->plan = plan;
    begun->header = header;
    begun->file = target->file;
    begun->data_file = target->data_file;
    begun->is_raw = (header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0;
    begun->counts_per_block = (header->cluster_size * 8) >> header->refcount_order;
    begun->cipher = target->cipher;
    begun->encrypted = target->cipher != NULL ? malloc(ENCRYPTED_BYTES) : NULL;
    begun->pending = malloc(PENDING_BYTES);
    begun->zeros_bytes = max_u64(header->cluster_size, PENDING_BYTES / 2);
    begun->zeros = calloc(1, in_memory(begun->zeros_bytes));
    begun->l2 = malloc(in_memory(header->cluster_size));
    begun->l1 = calloc(header->l1_entries + 1, L1_ENTRY_BYTES);
    if (begun->pending == NULL || begun->zeros == NULL || begun->l2 == NULL || begun->l1 == NULL ||
        (begun->encrypted == NULL && begun->cipher != NULL)) {
        new_image_free(begun);
        return -ENOMEM;
    }
    result = new_image_prepare_places(begun, target);
    if (result == 0) {
        result = new_image_take(begun, 1, &begun->header_offset);
    }
    if (result == 0 && target->is_device) { /* neither an old image nor a new one from here on */
        result = store_write(begun->file, 0, begun->zeros, in_memory(header->cluster_size));
        result = result == 0 ? store_sync(begun->file) : result;
    }
    if (result == 0 && header->crypt_header_length > 0) {
        result = put_crypt_header(begun, target->crypt_header);
    }
    if (result == 0) {
        result = begin_l2(begun, 0);
    }
    if (result < 0) {
        new_image_free(begun);
        return result;
    }
    *image = begun;
    return 0;
}

static int write_l1(struct new_image *image, uint64_t *host_offset)
{
    const struct header *header = image->header;
    uint64_t length = (uint64_t)header->l1_entries * L1_ENTRY_BYTES;
    int result = 0;

    *host_offset = 0;
    if (length > 0) {
        result = new_image_take(image, div_round_up(length, header->cluster_size), host_offset);
    }
    if (result == 0 && length > 0) {
        result = new_image_put(image, *host_offset, image->l1, length);
    }
    return result < 0 || length == 0 ? result : new_image_pad(image, *host_offset, length);
}

/* The header that says where all is, and which makes the file an image. */
static int write_header(struct new_image *image, struct header *header)
{
    struct error ignored;
    uint8_t *bytes;
    size_t length;
    int result;

    header->refcount_table_offset = image->refcount_table_offset;
    header->refcount_table_clusters = (uint32_t)image->refcount_table_clusters;
    /* It did fit when the plan was made. */
    result = header_encode(header, NULL, "", &bytes, &length, &ignored);
    if (result == 0) {
        result = store_write(image->file, 0, bytes, length);
        free(bytes);
    }
    return result == 0 ? store_sync(image->file) : result;
}

int new_image_finish(struct new_image *image)
{
    const struct create_plan *plan = image->plan;
    struct header header = *image->header; /* shallow */
    struct store_info info;
    uint64_t l1_offset = 0;
    int result = go_to_l2(image, image->header->l1_entries);

    if (result == 0) {
        result = write_l1(image, &l1_offset);
    }
    header.l1_offset = l1_offset;
    header.crypt_header_offset = image->crypt_header_offset;
    if (result == 0) {
        result = new_image_put_bitmaps(image, &header);
    }
    if (result == 0) {
        result = new_image_write_refcounts(image);
    }
    if (result == 0) {
        result = new_image_flush(image);
    }
    if (result == 0 && image->data_file != NULL) {
        result = store_info(image->data_file, &info);
        if (result == 0 && info.size < plan->header.virtual_size) {
            result = store_resize(image->data_file, plan->header.virtual_size);
        }
        result = result == 0 ? store_sync(image->data_file) : result;
    }
    if (result == 0) {
        result = store_sync(image->file); /* R3 */
    }
    return result == 0 ? write_header(image, &header) : result;
}

void new_image_free(struct new_image *image)
{
    if (image == NULL) {
        return;
    }
    new_image_free_refcounts(image);
    new_image_free_bitmaps(image);
    free(image->encrypted);
    free(image->pending);
    free(image->zeros);
    free(image->written);
    free(image->l2);
    free(image->l1);
    free(image);
}
