/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/compressing.h"

#include "codec/compress.h"
#include "disk/compressed.h"
#include "disk/seams.h"
#include "disk/writer_internal.h"
#include "util/checked.h"
#include "util/process.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES COMPRESSING_CLUSTER_MAX /* of guest data that are compressed together */

/* What one thread compresses with. */
struct scratch {
    struct scratch *next; /* in the list of idle ones */
    struct compressor *compressor;
    uint8_t *packed; /* BATCH_BYTES */
    size_t *sizes;   /* of each cluster there, one behind the other; 0: it does not shrink */
};

struct compressing {
    uint8_t type;
    size_t clusters; /* that are compressed together */
    struct seams *seams;
    pthread_mutex_t mutex; /* guards what follows; a leaf */
    struct scratch *idle;
    unsigned idle_count, idle_max;
};

/* Whole clusters that a request brings. */
struct batch {
    struct writer *writer;
    uint64_t begin;      /* guest offset */
    const uint8_t *data; /* of `length` bytes: the last cluster ends where the disk does */
    uint64_t length;
    size_t clusters;
    struct l2_value *entries; /* as they are, and then as they become */
    struct mapping_fault *fault;
};

/* --- Compressors ------------------------------------------------------------------------------ */

int compressing_check(const struct header *header, const char *wanted, const char *path,
                      struct error *error)
{
    const char *type = compression_type_name(header->compression_type);
    const char *missing = compression_type_missing(header->compression_type);

    if (*wanted != '\0' && strcmp(wanted, type) != 0) {
        return error_set(error, EINVAL,
                         "%s: compress=%s: the compression type of this image is %s, and all its "
                         "clusters have the same; write compress alone",
                         path, wanted, type);
    }
    if (header->external_data_file) {
        return error_set(error, EINVAL,
                         "%s: an image with a data file has no compressed clusters; leave out "
                         "compress",
                         path);
    }
    if (header->crypt_method != CRYPT_NONE) {
        return error_set(error, EINVAL,
                         "%s: what is encrypted does not become smaller; leave out compress", path);
    }
    if (header->cluster_size > COMPRESSING_CLUSTER_MAX) {
        return error_set(error, EINVAL,
                         "%s: its clusters (2 MiB) are larger than what the kernel hands over at "
                         "once (1 MiB), so nothing would be compressed; leave out compress, or "
                         "make an image with smaller clusters",
                         path);
    }
    if (missing != NULL) {
        return error_set(error, EINVAL,
                         "%s: its compression type (%s) needs %s, which this program was built "
                         "without; leave out compress",
                         path, type, missing);
    }
    return 0;
}

static void scratch_destroy(struct scratch *scratch)
{
    if (scratch != NULL) {
        compressor_destroy(scratch->compressor);
        free(scratch->packed);
        free(scratch->sizes);
        free(scratch);
    }
}

static struct scratch *scratch_create(const struct compressing *compressing)
{
    struct scratch *scratch = calloc(1, sizeof(*scratch));

    if (scratch == NULL) {
        return NULL;
    }
    scratch->packed = malloc(BATCH_BYTES);
    scratch->sizes = calloc(compressing->clusters, sizeof(*scratch->sizes));
    if (scratch->packed == NULL || scratch->sizes == NULL ||
        compressor_create(compressing->type, CODEC_FASTEST, &scratch->compressor) < 0) {
        scratch_destroy(scratch);
        return NULL;
    }
    return scratch;
}

static struct scratch *scratch_borrow(struct compressing *compressing)
{
    struct scratch *scratch;

    pthread_mutex_lock(&compressing->mutex);
    scratch = compressing->idle;
    if (scratch != NULL) {
        compressing->idle = scratch->next;
        compressing->idle_count--;
    }
    pthread_mutex_unlock(&compressing->mutex);
    return scratch != NULL ? scratch : scratch_create(compressing);
}

static void scratch_return(struct compressing *compressing, struct scratch *scratch)
{
    bool kept;

    pthread_mutex_lock(&compressing->mutex);
    kept = compressing->idle_count < compressing->idle_max;
    if (kept) {
        scratch->next = compressing->idle;
        compressing->idle = scratch;
        compressing->idle_count++;
    }
    pthread_mutex_unlock(&compressing->mutex);
    if (!kept) {
        scratch_destroy(scratch);
    }
}

int compressing_create(const struct header *header, struct compressing **compressing)
{
    *compressing = calloc(1, sizeof(**compressing));
    if (*compressing == NULL) {
        return -ENOMEM;
    }
    (*compressing)->seams = seams_create(header->cluster_size);
    if ((*compressing)->seams == NULL) {
        free(*compressing);
        *compressing = NULL;
        return -ENOMEM;
    }
    (*compressing)->type = header->compression_type;
    (*compressing)->clusters = BATCH_BYTES >> header->cluster_bits;
    (*compressing)->idle_max = process_processors();
    pthread_mutex_init(&(*compressing)->mutex, NULL);
    return 0;
}

void compressing_destroy(struct compressing *compressing)
{
    if (compressing == NULL) {
        return;
    }
    while (compressing->idle != NULL) {
        struct scratch *scratch = compressing->idle;

        compressing->idle = scratch->next;
        scratch_destroy(scratch);
    }
    seams_destroy(compressing->seams);
    pthread_mutex_destroy(&compressing->mutex);
    free(compressing);
}

/* --- Which clusters ----------------------------------------------------------------------------
 */

/* Nothing is lost of what the cluster has, nor of a place that was made for it. */
static bool is_new(const struct writer *writer, const struct l2_value *entry)
{
    return !l2_entry_is_compressed(entry->entry) && !entry_has_host(writer, entry);
}

/*
 * How many bytes of a request are whole clusters; the last one is, too, where the disk ends in it.
 * With the clusters locked, so that the end stays where it is as long as that matters.
 */
static uint64_t whole_clusters(const struct writer *writer, uint64_t guest_offset, uint64_t length)
{
    uint64_t size = writer_cluster_size(writer);

    if (guest_offset + length == view_size(writer->view) || length % size == 0) {
        return min_u64(length, BATCH_BYTES);
    }
    return min_u64(round_down(length, size), BATCH_BYTES);
}

/* Reads the entries; keeps those clusters at the front that are all new, or (*new) all not. */
static int look_at_entries(struct batch *batch, bool *new)
{
    struct writer *writer = batch->writer;
    uint64_t size = writer_cluster_size(writer);
    size_t found = 0, kept = 1, got;

    while (found < batch->clusters) {
        int result =
            mapping_get_some(writer->image->active, batch->begin + found * size,
                             &batch->entries[found], batch->clusters - found, &got, batch->fault);

        if (result < 0 && found == 0) {
            return result;
        }
        if (result < 0) {
            break; /* what is in order comes first */
        }
        found += got;
    }
    *new = is_new(writer, &batch->entries[0]);
    while (kept < found && is_new(writer, &batch->entries[kept]) == *new) {
        kept++;
    }
    batch->clusters = kept;
    batch->length = min_u64(batch->length, kept * size);
    return 0;
}

/* --- Storing them ------------------------------------------------------------------------------
 */

static void compress(const struct batch *batch, struct scratch *scratch)
{
    uint64_t size = writer_cluster_size(batch->writer);
    uint8_t *to = scratch->packed;

    for (size_t i = 0; i < batch->clusters; i++) {
        uint64_t at = i * size, length = min_u64(size, batch->length - at);
        const uint8_t *from = batch->data + at;
        uint8_t *padded = length < size ? calloc(1, in_memory(size)) : NULL;

        if (padded != NULL) { /* behind the end of the disk there are zeros */
            from = memcpy(padded, from, in_memory(length));
        }
        scratch->sizes[i] = length == size || padded != NULL
                                ? compressor_run(scratch->compressor, from, in_memory(size), to,
                                                 in_memory(size - 1))
                                : 0;
        to += scratch->sizes[i];
        free(padded);
    }
}

/* Clusters from number `index` on that are packed, up to the next that is not. */
static size_t count_packed(const struct batch *batch, const struct scratch *scratch, size_t index)
{
    size_t end = index;

    while (end < batch->clusters && scratch->sizes[end] > 0) {
        end++;
    }
    return end - index;
}

/* What was packed for clusters is not named, from number `set` on. */
static void unpack(const struct batch *batch, const struct packed *place, const size_t *sizes,
                   size_t set)
{
    uint64_t at = place->host_offset;

    for (size_t i = 0; i < place->count; i++) {
        if (i >= set) {
            allocator_unpack(batch->writer->allocator, at, sizes[i]);
        }
        at += sizes[i];
    }
}

/* Has the entries name what was written; R1: when that is stable. How many do, in *set. */
static int name(struct batch *batch, size_t index, const struct packed *place, const size_t *sizes,
                size_t *set)
{
    struct writer *writer = batch->writer;
    uint64_t begin = batch->begin + index * writer_cluster_size(writer), at = place->host_offset;
    uint64_t epoch = max_u64(place->epoch, barrier_epoch(writer->barrier));
    int result;

    for (size_t i = 0; i < place->count; i++) {
        uint32_t bits = writer->header->cluster_bits;

        batch->entries[index + i] =
            (struct l2_value){.entry = l2_entry_of_compressed(at, sizes[i], bits)};
        /* R4: nobody reads what was there before, but the cache may have it. */
        compressed_forget(writer->image, batch->entries[index + i].entry);
        at += sizes[i];
    }
    result = mapping_set(writer->image->active, begin, &batch->entries[index], place->count, epoch,
                         batch->fault);
    *set = result == 0
               ? place->count
               : in_memory((batch->fault->guest_offset - begin) / writer_cluster_size(writer));
    return result;
}

/* Stores packed clusters from number `index` on, `count` at most: *done of them, or an error. */
static int store_packed(struct batch *batch, const struct scratch *scratch, size_t index,
                        size_t count, const uint8_t *packed, size_t *done)
{
    struct writer *writer = batch->writer;
    const size_t *sizes = &scratch->sizes[index];
    struct packed place;
    uint64_t length = 0;
    size_t set = 0;
    int result = writer_prepare_allocation(writer); /* R5 */

    *done = 0;
    if (result == 0) {
        result = allocator_pack(writer->allocator, sizes, count, &place);
    }
    if (result < 0) {
        return result;
    }
    for (size_t i = 0; i < place.count; i++) {
        length += sizes[i];
    }
    /* R8: a hit is not given back, which would destroy what is there. */
    result =
        writer_check_overlap(writer, writer->image->file, place.host_offset, length, batch->fault);
    if (result < 0) {
        return result;
    }
    result = store_write(writer->image->file, place.host_offset, packed, in_memory(length));
    if (result < 0) {
        batch->fault->guest_offset = batch->begin + index * writer_cluster_size(writer);
        batch->fault->host_offset = place.host_offset;
    } else {
        result = name(batch, index, &place, sizes, &set);
    }
    if (result < 0) {
        unpack(batch, &place, sizes, set);
    }
    *done = place.count;
    return result;
}

/* Stores `clusters` from number `index` on as they are: *done bytes. */
static int store_plain(const struct batch *batch, size_t index, size_t clusters, uint64_t *done)
{
    uint64_t at = index * writer_cluster_size(batch->writer);
    uint64_t end = min_u64(batch->length, at + clusters * writer_cluster_size(batch->writer));
    uint64_t part = 1;
    int result = 0;

    *done = 0;
    for (; at < end && part > 0 && result == 0; at += part) {
        result = writer_place(batch->writer, batch->begin + at, batch->data + at, end - at, &part,
                              batch->fault);
        *done += part;
    }
    return result;
}

/*
 * Whether what cannot be packed can be stored plain: no entry of compressed data could name it, or
 * no count could be as high as it must be until references that were taken back are forgotten.
 */
static bool plain_may_do(int result)
{
    return result == -EFBIG || result == -EOVERFLOW;
}

/* Stores clusters that were compressed, each in one way or the other: *done bytes. */
static int store_all(struct batch *batch, const struct scratch *scratch, uint64_t *done)
{
    uint64_t size = writer_cluster_size(batch->writer);
    const uint8_t *packed = scratch->packed;
    size_t index = 0, stored = 1;
    int result = 0;

    while (index < batch->clusters && stored > 0 && result == 0) {
        size_t count = count_packed(batch, scratch, index);
        uint64_t plain = 0;

        if (count > 0) {
            result = store_packed(batch, scratch, index, count, packed, &stored);
        }
        if (count == 0 || plain_may_do(result)) {
            result = store_plain(batch, index, in_memory(max_u64(count, 1)), &plain);
            stored = in_memory(div_round_up(plain, size));
        }
        for (size_t i = index; i < index + stored; i++) {
            packed += scratch->sizes[i];
        }
        index += stored;
    }
    *done = min_u64(batch->length, index * size);
    return result;
}

/* With the clusters locked. */
static int write_batch(struct batch *batch, struct scratch *scratch, uint64_t *done)
{
    bool new;
    int result = look_at_entries(batch, &new);

    if (result < 0) {
        return result;
    }
    if (!new || scratch == NULL) {
        return store_plain(batch, 0, batch->clusters, done);
    }
    compress(batch, scratch);
    return store_all(batch, scratch, done);
}

/* A part of a cluster, at most: stored as it is. */
static int write_part(struct batch *batch, uint64_t *done)
{
    return writer_place(batch->writer, batch->begin, batch->data, batch->length, done,
                        batch->fault);
}

int compressing_write(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                      uint64_t length, uint64_t *done, struct mapping_fault *fault)
{
    uint64_t size = writer_cluster_size(writer), begin = guest_offset & (size - 1);
    uint64_t most = begin > 0 ? size - begin : BATCH_BYTES;
    struct batch batch = {.writer = writer, .begin = guest_offset, .data = data, .fault = fault};
    struct range_lock lock = {.first = guest_offset >> writer->header->cluster_bits};
    struct scratch *scratch;
    int result = 0;

    *done = 0;
    length = min_u64(length, most);
    lock.last = (guest_offset + length - 1) >> writer->header->cluster_bits;
    batch.entries = calloc(writer->compressing->clusters, sizeof(*batch.entries));
    if (batch.entries == NULL) {
        return -ENOMEM;
    }
    range_lock_take(&writer->ranges, &lock);
    batch.length = begin > 0 ? 0 : whole_clusters(writer, guest_offset, length);
    if (batch.length == 0) {
        batch.length = length;
        result = write_part(&batch, done);
    } else {
        batch.clusters = in_memory(div_round_up(batch.length, size));
        scratch = scratch_borrow(writer->compressing); /* without memory for it, it is plain */
        result = write_batch(&batch, scratch, done);
        if (scratch != NULL) {
            scratch_return(writer->compressing, scratch);
        }
    }
    range_lock_release(&writer->ranges, &lock);
    free(batch.entries);
    return result;
}

/* --- Where requests meet ------------------------------------------------------------------------
 */

/* A part of a cluster that the request brings, at one of its ends. */
struct end {
    struct seam_part part; /* nothing in it: there is none, or nobody is asked for the rest */
    struct seam_part *other;
    bool is_offered;
};

/* Whether the cluster would be compressed if all of it was written. Others may change it meanwhile.
 */
static bool cluster_is_new(struct writer *writer, uint64_t guest_offset)
{
    struct l2_value entry;
    struct mapping_fault ignored;

    return mapping_get(writer->image->active, guest_offset, &entry, &ignored) == 0 &&
           is_new(writer, &entry);
}

/* `data` are the bytes from `from` on, of the cluster in which both ends lie. */
static void begin_end(struct writer *writer, uint64_t from, uint64_t to, const uint8_t *data,
                      struct end *end)
{
    uint64_t cluster = round_down(from, writer_cluster_size(writer));

    if (from == to || !cluster_is_new(writer, cluster)) {
        return;
    }
    end->part = (struct seam_part){
        .cluster = cluster,
        .from = from - cluster,
        .to = to - cluster,
        .data = data,
    };
    end->other = seams_meet(writer->compressing->seams, &end->part);
    end->is_offered = end->other == NULL;
}

/* Writes the cluster for both. */
static int write_both(struct writer *writer, struct end *end)
{
    const struct seam_part *one = &end->part, *other = end->other;
    uint8_t *cluster = malloc(in_memory(writer_cluster_size(writer)));
    int result;

    if (cluster == NULL) {
        seams_answer(writer->compressing->seams, end->other, 1);
        return 1;
    }
    memcpy(cluster + one->from, one->data, in_memory(one->to - one->from));
    memcpy(cluster + other->from, other->data, in_memory(other->to - other->from));
    result = writer_write_range(writer, one->cluster, cluster, writer_cluster_size(writer));
    free(cluster);
    seams_answer(writer->compressing->seams, end->other, result);
    return result;
}

/* The end of what begin_end() began, where nobody has written the part. */
static int write_alone(struct writer *writer, const struct end *end)
{
    return writer_write_range(writer, end->part.cluster + end->part.from, end->part.data,
                              end->part.to - end->part.from);
}

/* Where a part was taken its cluster is written, for two: at once, as the other waits. */
static int write_taken(struct writer *writer, struct end *end)
{
    int result = end->other != NULL ? write_both(writer, end) : 0;

    return result > 0 ? write_alone(writer, end) : result;
}

static int end_end(struct writer *writer, struct end *end)
{
    int result = end->is_offered ? seams_end(writer->compressing->seams, &end->part) : 0;

    return result > 0 ? write_alone(writer, end) : result;
}

int compressing_write_request(struct writer *writer, uint64_t guest_offset, const uint8_t *data,
                              uint64_t length)
{
    uint64_t size = writer_cluster_size(writer), to = guest_offset + length;
    uint64_t first = min_u64(div_round_up(guest_offset, size) * size, to);
    uint64_t last = max_u64(round_down(to, size), first);
    struct end head = {0}, tail = {0};
    int result, each;

    /* Of one that lies in a single cluster others may bring the rest, or not, or in many pieces. */
    if (first < to) {
        begin_end(writer, guest_offset, first, data, &head);
    }
    if (last > guest_offset && to != view_size(writer->view)) {
        begin_end(writer, last, to, data + (last - guest_offset), &tail);
    }
    first = head.part.to > 0 ? first : guest_offset;
    last = tail.part.to > 0 ? last : to;
    result = write_taken(writer, &head);
    each = write_taken(writer, &tail);
    result = result < 0 ? result : each;
    if (result == 0) {
        result = writer_write_range(writer, first, data + (first - guest_offset), last - first);
    }
    each = end_end(writer, &head);
    result = result < 0 ? result : each;
    each = end_end(writer, &tail);
    return result < 0 ? result : each;
}
