/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/image.h"

#include "crypto/cipher.h"
#include "crypto/library.h"
#include "disk/at_snapshot.h"
#include "disk/chain.h"
#include "disk/encrypted.h"
#include "disk/filename.h"
#include "disk/keys.h"
#include "disk/probe.h"
#include "disk/resolved.h"
#include "disk/salvage.h"
#include "meta/format.h"
#include "store/nbd.h"
#include "util/process.h"
#include "util/team.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- One image --------------------------------------------------------------------- */

int chain_check_qcow2(struct store *file, uint64_t file_size, const char *path, bool is_backing,
                      struct error *error)
{
    struct probe probe;
    int result = probe_store(file, file_size, &probe);
    const char *remedy = "check the file name";

    if (result < 0) {
        return error_set(error, -result, "%s: cannot be read: %s", path, strerror(-result));
    }
    if (probe.class == PROBE_QCOW2) {
        return 0;
    }
    if (probe.class == PROBE_DISK_IMAGE) {
        remedy = "convert it with qemu-img convert -O qcow2";
    } else if (is_backing) {
        remedy = "if it is the right backing file its format is raw: say -F raw where it is only "
                 "to become that, or record it with qcow2ctl amend -o backing_fmt=raw";
    } else if (probe.class == PROBE_RAW) {
        remedy = "it needs no qcow2fs: use it as it is";
    }
    return error_set(error, EINVAL, "%s: is not a qcow2 image, it looks like %s; %s", path,
                     probe.description, remedy);
}

/* Things that a reader can live with, but should know of. */
static void warn_of_state(const struct image *image, enum store_access access)
{
    const struct header *header = image->header;
    uint64_t outside = mapping_tables_outside(image->active, image->file_size);

    /* Opened for writing, it is refused; whoever then opens it to read hears of it once. */
    if ((header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0 && access != STORE_WRITE) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: is marked corrupt; what can be read of it is shown", image->path);
    }
    if ((header->incompatible_features & INCOMPATIBLE_DIRTY) != 0 && access != STORE_WRITE) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: is marked dirty: who wrote to it last did not come to the end; it is shown "
                 "as it is, and not repaired as long as it is only read",
                 image->path);
    }
    if (outside > 0) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: was cut off: the parts of the disk cannot be read whose L2 tables lie past "
                 "the end of the file (%" PRIu64 " of them)",
                 image->path, outside);
    }
}

int chain_data_file(const struct chain_data *wanted, const struct header *header,
                    enum image_follow follow, char **data_file, struct error *error)
{
    const struct chain_name recorded = {
        .image = wanted->image,
        .what = "data file",
        .name = header->data_file,
        .active = wanted->active,
    };

    if (wanted->given != NULL) {
        *data_file = strdup(wanted->given);
        return *data_file == NULL ? error_set(error, ENOMEM, "%s: out of memory", wanted->image)
                                  : 0;
    }
    *data_file = NULL;
    if (header->data_file == NULL) {
        return error_set(error, EINVAL,
                         "%s: keeps its data in an external data file but does not name it; name "
                         "it with -o data-file=PATH",
                         wanted->image);
    }
    return chain_find(&recorded, follow, data_file, error);
}

/* Opens the external data file. */
static int open_data_file(struct image *image, const struct image_request *request,
                          const struct image_options *options, struct error *error)
{
    const struct store_file_options file = {
        .access = request->access,
        .cache = options->cache,
        .nbd_timeout = options->nbd_timeout,
        .read_cache =
            request->number == options->first_number ? chain_read_cache(image, options) : NULL,
        .no_locks = options->no_locks,
    };
    bool active = request->number == options->first_number;
    const struct chain_data data = {
        .image = image->path,
        .given = active ? options->data_file : NULL,
        .active = active,
    };
    struct chain_file wanted = {
        .image = image->path,
        .of = image->file,
        .what = "data file",
        .given = data.given != NULL,
        .active = active,
    };
    struct store_info info;
    int result =
        chain_data_file(&data, image->header, options->names.follow, &image->data_file_path, error);

    if (result < 0) {
        return result;
    }
    wanted.path = image->data_file_path;
    result = chain_open_file(&wanted, &file, options->names, &image->data_file, error);
    if (result < 0) {
        return result;
    }
    result = store_info(image->data_file, &info);
    if (result == 0) {
        image->data_is = (struct image_file){info.device, info.inode, info.node};
    }
    if (result == 0 && info.size < image->virtual_size) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: its data file %s has %" PRIu64 " bytes, fewer than the disk of %" PRIu64
                 " bytes: what is missing reads as zeros",
                 image->path, image->data_file_path, info.size, image->virtual_size);
    }
    return 0;
}

int chain_check_probed(const struct header *header, const char *path, struct error *error)
{
    const char *named = header->backing_file != NULL ? "backing file" : "data file";

    if (header->backing_file == NULL && !header->external_data_file) {
        return 0;
    }
    return error_set(error, EACCES,
                     "%s: no format is recorded for this backing file; it looks like qcow2 and "
                     "names a %s of its own, which could be a trap set by whoever wrote to a raw "
                     "disk; record its format with qcow2ctl amend -o backing_fmt=qcow2, or "
                     "allow it with -o allow-probed-backing",
                     path, named);
}

static int read_header(struct image *image, const struct salvage *salvage, struct error *error)
{
    int result = header_read(image->file, image->file_size, image->path, &image->header, error);

    return result == -EINVAL ? salvage_header(salvage, &image->header, error) : result;
}

/* The key of an encrypted image, where somebody wants its data. */
static int unlock(struct image *image, struct keys *keys, struct error *error)
{
    const struct header *header = image->header;
    const struct keys_image locked = {
        .file = image->file,
        .path = image->path,
        .crypt_method = header->crypt_method,
        .crypt_header_offset = header->crypt_header_offset,
        .crypt_header_length = header->crypt_header_length,
    };

    if (header->crypt_method == CRYPT_NONE || keys == NULL) {
        return 0;
    }
    if ((header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0) {
        return error_set(error, ENOTSUP,
                         "%s: is encrypted, and says that its data file is the disk as it is "
                         "(data_file_raw), which cannot both be; decrypt it with qemu-img convert",
                         image->path);
    }
    return keys_unlock(keys, &locked, &image->cipher, error);
}

/* The mapping of the disk that it shows. */
static int open_mapping(struct image *image, const struct image_request *request,
                        const struct image_options *options, struct error *error)
{
    const struct mapping_source source = {
        .header = image->header,
        .file = image->file,
        .data_file = image->data_file,
        .owner = image->number,
        .cached_l1 = image->number > options->first_number &&
                     (uint64_t)image->header->l1_entries * L1_ENTRY_BYTES > request->l1_room,
        .partial_l1 = options->access != STORE_WRITE, /* of the active image */
    };

    if (options->at_snapshot != NULL && image->number == options->first_number) {
        return image_set_snapshot(image, options->at_snapshot, error);
    }
    return mapping_open(&source, image->path, image->header->l1_offset, image->header->l1_entries,
                        &image->active, error);
}

/* The qcow2 side of an image whose file is open. */
static int open_qcow2(struct image *image, const struct image_request *request,
                      const struct image_options *options, struct error *error)
{
    bool is_behind = image->number > options->first_number;
    const struct salvage salvage = {
        .file = image->file,
        .file_size = image->file_size,
        .path = image->path,
        .log = image->log,
        .read_only = options->access != STORE_WRITE, /* of the active image */
    };
    int result;

    result = chain_check_qcow2(image->file, image->file_size, image->path, is_behind, error);
    if (result == 0) {
        result = read_header(image, &salvage, error);
    }
    if (result == 0 && request->probed && !options->allow_probed) {
        result = chain_check_probed(image->header, image->path, error);
    }
    if (result < 0) {
        return result;
    }
    image->virtual_size = image->header->virtual_size;
    if (image->header->external_data_file) {
        result = open_data_file(image, request, options, error);
        if (result < 0) {
            return result;
        }
    }
    result = salvage_snapshots(&salvage, image->header, &image->snapshots, error);
    if (result < 0) {
        return result;
    }
    if (is_behind) { /* they have to be in order, but nobody asks for them */
        snapshot_table_free(image->snapshots);
        image->snapshots = NULL;
    }
    result = codec_create(image->header->compression_type, options->codec, &image->codec);
    if (result < 0) {
        return error_set(error, -result, "%s: cannot prepare to decompress: %s", image->path,
                         strerror(-result));
    }
    result = open_mapping(image, request, options, error);
    if (result == 0) {
        result = unlock(image, options->keys, error); /* last: it may take its time, or ask */
    }
    if (result == 0) {
        warn_of_state(image, request->access);
    }
    return result;
}

/* Frees one image without what is behind it. */
static void close_one(struct image *image)
{
    mapping_close(image->active);
    codec_destroy(image->codec);
    team_destroy(image->team);
    cipher_destroy(image->cipher);
    snapshot_table_free(image->snapshots);
    header_free(image->header);
    if (image->data_file != image->file) {
        store_close(image->data_file);
    }
    store_close(image->file);
    free(image->data_file_path);
    free(image->path);
    free(image);
}

static int fill_image(struct image *image, const struct image_request *request,
                      const struct image_options *options, struct error *error)
{
    struct store_info info;
    int result;

    image->path = strdup(request->path);
    if (image->path == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", request->path);
    }
    result = store_info(image->file, &info);
    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found out: %s", image->path,
                         strerror(-result));
    }
    image->is = image->data_is = (struct image_file){info.device, info.inode, info.node};
    image->file_size = info.size;
    image->preferred = info.preferred;
    image->is_device = S_ISBLK(info.mode);
    image->virtual_size = info.size;
    return image->format == IMAGE_QCOW2 ? open_qcow2(image, request, options, error) : 0;
}

int image_open_one(const struct image_request *request, const struct image_options *options,
                   struct log *log, struct image **image, struct error *error)
{
    struct image *opened = calloc(1, sizeof(*opened));
    int result;

    *image = NULL;
    if (opened == NULL) {
        store_close(request->file);
        return error_set(error, ENOMEM, "%s: out of memory", request->path);
    }
    opened->format = request->format;
    opened->number = request->number;
    opened->log = log;
    opened->file = request->file;
    opened->data_file = request->file;
    result = fill_image(opened, request, options, error);
    if (result < 0) {
        close_one(opened);
        return result;
    }
    *image = opened;
    return 0;
}

/* --- The chain ---------------------------------------------------------------------- */

/* The format of the image that the user named; what cannot be qcow2 is told when it is opened. */
static int find_format(const char *path, struct store *file, const struct image_options *options,
                       struct log *log, enum image_format *format, struct error *error)
{
    struct store_info info;
    struct probe probe;
    int result;

    if (!options->recognised) {
        return 0;
    }
    result = store_info(file, &info);
    if (result == 0) {
        result = probe_store(file, info.size, &probe);
    }
    if (result < 0) {
        return error_set(error, -result, "%s: cannot be read: %s", path, strerror(-result));
    }
    if (probe.class == PROBE_OTHER) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: looks like %s; it is taken for a raw disk, as with format=raw", path,
                 probe.description);
    }
    *format = probe.class == PROBE_RAW || probe.class == PROBE_OTHER ? IMAGE_RAW : IMAGE_QCOW2;
    return 0;
}

int image_open(const char *path, const struct image_options *options, struct log *log,
               struct image **image, struct error *error)
{
    struct image_request request = {
        .path = path,
        .what = "image",
        .format = options->format,
        .number = options->first_number,
        .access = options->access,
    };
    const struct store_file_options file = {
        .access = request.access,
        .cache = options->cache,
        .nbd_timeout = options->nbd_timeout,
        .read_cache = options->read_cache,
        .no_locks = options->no_locks,
    };
    int result;

    *image = NULL;
    request.file = options->opened;
    result =
        request.file != NULL ? 0 : store_file_open(path, request.what, &file, &request.file, error);
    if (result < 0) {
        return result;
    }
    result = find_format(path, request.file, options, log, &request.format, error);
    if (result == 0 && request.format == IMAGE_RAW && options->at_snapshot != NULL) {
        result = error_set(error, EINVAL, "%s: is a raw disk, which has no snapshots", path);
    }
    if (result < 0) {
        store_close(request.file);
        return result;
    }
    result = image_open_one(&request, options, log, image, error);
    if (result < 0) {
        return result;
    }
    result = options->alone ? 0 : chain_open_backing(*image, options, log, error);
    if (result < 0) {
        image_close(*image);
        *image = NULL;
    }
    return result;
}

bool image_is_on_server(const struct image *image)
{
    return store_nbd_is_address(image->path) ||
           (image->data_file_path != NULL && store_nbd_is_address(image->data_file_path));
}

void image_may_read_ahead(struct image *image)
{
    for (struct image *each = image; each != NULL; each = each->backing) {
        store_may_start_threads(each->file);
        if (each->data_file != NULL && each->data_file != each->file) {
            store_may_start_threads(each->data_file);
        }
    }
}

void image_may_start_threads(struct image *image)
{
    for (struct image *each = image; each != NULL; each = each->backing) {
        each->may_start_threads = true;
        if (each->cipher != NULL && each->team == NULL) {
            (void)team_create(process_processors(), &each->team); /* it can do without */
        }
    }
    image_may_read_ahead(image);
}

void image_lock_keys(const struct image *image)
{
    const struct image *each;
    bool locked = true, any = false;

    for (each = image; each != NULL; each = each->backing) {
        if (each->cipher != NULL) {
            any = true;
            locked = cipher_lock(each->cipher) && locked;
        }
    }
    if (any && !(crypto_lock() && locked)) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "%s: its key cannot be locked in memory, and may come to be swapped out: the "
                 "limit on locked memory (ulimit -l) is too low",
                 image->path);
    }
}

void image_close_to_exit(struct image *image)
{
    if (image != NULL) {
        resolved_destroy(image->behind);
    }
    while (image != NULL) {
        struct image *backing = image->backing;

        close_one(image);
        image = backing;
    }
}

void image_close(struct image *image)
{
    struct cache *cache = image != NULL ? image->cache : NULL;

    image_close_to_exit(image);
    cache_destroy(cache);
}

void image_part_from_backing(struct image *image)
{
    image_close_to_exit(image->backing);
    image->backing = NULL;
}

void image_cache_geometry(const struct header *header, uint64_t file_size,
                          struct cache_geometry *geometry)
{
    *geometry = (struct cache_geometry){
        .virtual_size = header->virtual_size,
        .file_size = file_size,
        .cluster_size = header->cluster_size,
        .l2_entry_bytes = header->l2_entry_bytes,
        .refcount_bits = UINT32_C(1) << header->refcount_order,
    };
}

int image_attach_cache(struct image *image, const struct cache_options *options,
                       struct error *error)
{
    struct cache_geometry *geometry;
    struct cache_sizes sizes;
    struct cache *cache;
    struct image *each;
    size_t count = 0;
    int result;

    for (each = image; each != NULL; each = each->backing) {
        count++;
    }
    geometry = calloc(count, sizeof(*geometry));
    if (geometry == NULL) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    /* Of a raw image alone there is nothing to cache; the arithmetic wants a geometry. */
    *geometry = (struct cache_geometry){
        .virtual_size = image->virtual_size,
        .file_size = image->file_size,
        .cluster_size = CACHE_L2_ENTRY_LARGE,
        .l2_entry_bytes = L2_ENTRY_BYTES,
        .refcount_bits = UINT32_C(1) << REFCOUNT_ORDER_V2,
    };
    count = 0;
    for (each = image; each != NULL; each = each->backing) {
        if (each->header != NULL) {
            image_cache_geometry(each->header, each->file_size, &geometry[count]);
            geometry[count++].preferred = each->preferred;
        }
    }
    result = cache_sizes_resolve(options, geometry, count, &sizes, error);
    free(geometry);
    if (result < 0) {
        return result;
    }
    result = cache_create(&sizes, &cache);
    if (result < 0) {
        return error_set(error, -result, "%s: no memory for the cache", image->path);
    }
    for (each = image; each != NULL; each = each->backing) {
        each->cache = cache;
        if (each->active != NULL) {
            mapping_set_cache(each->active, cache->l2, sizes.l2_entry_size);
        }
    }
    if (resolved_create(image->backing, &image->behind) < 0) {
        return error_set(error, ENOMEM, "%s: out of memory", image->path);
    }
    return 0;
}

int image_allocated(const struct image *image, uint64_t *bytes)
{
    struct store_info info;
    int result = store_info(image->file, &info);

    if (result < 0) {
        return result;
    }
    *bytes = info.allocated;
    if (image->data_file != image->file) {
        result = store_info(image->data_file, &info);
        if (result < 0) {
            return result;
        }
        *bytes += info.allocated;
    }
    return 0;
}
