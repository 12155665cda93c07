/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/info.h"

#include "codec/codec.h"
#include "disk/filename.h"
#include "meta/extension.h"
#include "meta/feature.h"
#include "meta/format.h"
#include "util/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define NSEC_PER_SEC UINT64_C(1000000000)

/* --- Names and numbers --------------------------------------------------------------- */

/* How much of `whole` a cache covers of which each byte covers `per_byte_of` / `bytes` bytes. */
static uint64_t covered(uint64_t cache, uint64_t bytes, uint64_t per_byte_of, uint64_t whole)
{
    uint64_t reach;

    return checked_mul(cache, bytes, &reach) ? min_u64(reach / per_byte_of, whole) : whole;
}

bool info_cache_sizes(const struct inspection *inspection, struct info_cache *sizes)
{
    const struct cache_options unasked = {0};
    struct cache_geometry geometry;
    struct cache_sizes resolved;

    if (!inspect_has_geometry(inspection) ||
        inspect_part_failed(inspection, HEADER_PART_FEATURES) ||
        inspect_part_failed(inspection, HEADER_PART_REFCOUNTS)) {
        return false;
    }
    image_cache_geometry(inspection->header, inspection->info.size, &geometry);
    if (cache_sizes_resolve(&unasked, &geometry, 1, &resolved, NULL) < 0) {
        return false;
    }
    *sizes = (struct info_cache){
        .l2_full = cache_l2_full_size(&geometry),
        .l2_default = resolved.l2_budget,
        .l2_covers = covered(resolved.l2_budget, geometry.cluster_size, geometry.l2_entry_bytes,
                             geometry.virtual_size),
        .refcount_full = cache_refcount_full_size(&geometry),
        .refcount_default = resolved.refcount_budget,
        .refcount_covers = covered(resolved.refcount_budget, geometry.cluster_size * 8,
                                   geometry.refcount_bits, geometry.file_size),
    };
    return true;
}

/* --- As qemu-img has it -------------------------------------------------------------- */

static struct json *snapshot_json(const struct snapshot *snapshot)
{
    struct json *object = json_new_object();

    json_put_text(object, "id", snapshot->id);
    json_put_text(object, "name", snapshot->name);
    json_put_number(object, "vm-state-size", snapshot->vm_state_size);
    json_put_number(object, "date-sec", snapshot->date_sec);
    json_put_number(object, "date-nsec", snapshot->date_nsec);
    json_put_number(object, "vm-clock-sec", snapshot->vm_clock_nsec / NSEC_PER_SEC);
    json_put_number(object, "vm-clock-nsec", snapshot->vm_clock_nsec % NSEC_PER_SEC);
    if (snapshot->icount != UINT64_MAX) {
        json_put_number(object, "icount", snapshot->icount);
    }
    json_put_number(object, "disk-size", snapshot->disk_size);
    return object;
}

struct json *info_json_snapshots(const struct snapshot_table *table)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < table->count; i++) {
        json_add(list, snapshot_json(&table->snapshots[i]));
    }
    return list;
}

static struct json *bitmap_json(const struct bitmap *bitmap)
{
    struct json *object = json_new_object(), *flags = json_new_array();

    if ((bitmap->flags & BITMAP_FLAG_IN_USE) != 0) {
        json_add_text(flags, "in-use");
    }
    if ((bitmap->flags & BITMAP_FLAG_AUTO) != 0) {
        json_add_text(flags, "auto");
    }
    json_put_text(object, "name", bitmap->name);
    json_put_number(object, "granularity", bitmap->granularity);
    json_put(object, "flags", flags);
    return object;
}

static struct json *bitmaps_json(const struct bitmap_directory *directory)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < directory->count; i++) {
        json_add(list, bitmap_json(&directory->bitmaps[i]));
    }
    return list;
}

static struct json *luks_slots_json(const struct luks *luks)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *slot = &luks->slots[i];
        struct json *object = json_new_object();

        json_put_bool(object, "active", slot->active);
        if (slot->active) {
            json_put_number(object, "iters", slot->iterations);
            json_put_number(object, "stripes", slot->stripes);
        }
        json_put_number(object, "key-offset", slot->key_offset);
        json_add(list, object);
    }
    return list;
}

static struct json *encryption_json(const struct inspection *inspection)
{
    const struct luks *luks = inspection->luks;
    struct json *object = json_new_object();

    json_put_text(object, "format",
                  inspection->header->crypt_method == CRYPT_AES    ? "aes"
                  : inspection->header->crypt_method == CRYPT_LUKS ? "luks"
                                                                   : "unknown");
    if (luks == NULL) {
        return object;
    }
    json_put_text(object, "cipher-alg", luks->cipher);
    json_put_text(object, "cipher-mode", luks->mode);
    json_put_text(object, "ivgen-alg", luks->iv);
    if (luks->iv_hash[0] != '\0') {
        json_put_text(object, "ivgen-hash-alg", luks->iv_hash);
    }
    json_put_text(object, "hash-alg", luks->hash);
    json_put_text(object, "uuid", luks->uuid);
    json_put_number(object, "master-key-iters", luks->master_key_iterations);
    json_put_number(object, "payload-offset", luks->payload_offset);
    json_put(object, "slots", luks_slots_json(luks));
    return object;
}

static void put_version_3(const struct header *header, struct json *data)
{
    json_put_bool(data, "lazy-refcounts",
                  (header->compatible_features & COMPATIBLE_LAZY_REFCOUNTS) != 0);
    json_put_bool(data, "corrupt", (header->incompatible_features & INCOMPATIBLE_CORRUPT) != 0);
    json_put_bool(data, "extended-l2", header->extended_l2);
}

/* "format-specific" */
static struct json *specific_json(const struct inspection *inspection)
{
    const struct header *header = inspection->header;
    const char *compression = compression_type_name(header->compression_type);
    struct json *data = json_new_object(), *specific = json_new_object();

    json_put_text(data, "compat", header->version == 2 ? "0.10" : "1.1");
    json_put_text(data, "compression-type", compression != NULL ? compression : "unknown");
    if (header->refcount_order <= REFCOUNT_ORDER_MAX) {
        json_put_number(data, "refcount-bits", UINT64_C(1) << header->refcount_order);
    }
    if (header->version > 2) {
        put_version_3(header, data);
    }
    if (header->data_file != NULL) {
        json_put_text(data, "data-file", header->data_file);
    }
    if (header->external_data_file) {
        json_put_bool(data, "data-file-raw",
                      (header->autoclear_features & AUTOCLEAR_RAW_EXTERNAL_DATA) != 0);
    }
    if (inspection->bitmaps != NULL) {
        json_put(data, "bitmaps", bitmaps_json(inspection->bitmaps));
    }
    if (header->crypt_method != CRYPT_NONE) {
        json_put(data, "encrypt", encryption_json(inspection));
    }
    json_put_text(specific, "type", "qcow2");
    json_put(specific, "data", data);
    return specific;
}

static void put_backing(const struct inspection *inspection, struct json *object)
{
    const struct header *header = inspection->header;
    char *full = filename_full(inspection->path, header->backing_file);

    json_put_text(object, "backing-filename", header->backing_file);
    json_put_text(object, "full-backing-filename", full != NULL ? full : header->backing_file);
    if (header->backing_format != NULL) {
        json_put_text(object, "backing-filename-format", header->backing_format);
    }
    free(full);
}

/* --- What we say besides ------------------------------------------------------------- */

static struct json *features_json(const struct inspection *inspection, uint8_t type)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < inspection->feature_count; i++) {
        const struct inspect_feature *feature = &inspection->features[i];
        struct json *object;

        if (feature->type != type) {
            continue;
        }
        object = json_new_object();
        json_put_number(object, "bit", feature->bit);
        json_put_text(object, "name", feature->name);
        json_put_bool(object, "known", feature->known);
        json_add(list, object);
    }
    return list;
}

static struct json *extensions_json(const struct inspection *inspection)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < inspection->extension_count; i++) {
        const struct inspect_extension *extension = &inspection->extensions[i];
        const char *name = extension_name(extension->type);
        struct json *object = json_new_object();
        char type[16];

        snprintf(type, sizeof(type), "0x%08" PRIx32, extension->type);
        json_put_text(object, "type", type);
        if (name != NULL) {
            json_put_text(object, "name", name);
        }
        json_put_bool(object, "known", name != NULL);
        json_put_number(object, "length", extension->length);
        json_put_number(object, "offset", extension->offset);
        json_add(list, object);
    }
    return list;
}

static struct json *cache_json(const struct info_cache *sizes)
{
    struct json *object = json_new_object();

    json_put_number(object, "l2-cache-size", sizes->l2_full);
    json_put_number(object, "default-l2-cache-size", sizes->l2_default);
    json_put_number(object, "default-l2-cache-covers", sizes->l2_covers);
    json_put_number(object, "refcount-cache-size", sizes->refcount_full);
    json_put_number(object, "default-refcount-cache-size", sizes->refcount_default);
    json_put_number(object, "default-refcount-cache-covers", sizes->refcount_covers);
    return object;
}

/* The keys are those of qemu-img check. */
static struct json *fragmentation_json(const struct info_fragmentation *fragmentation)
{
    const struct check_result *clusters = &fragmentation->clusters;
    struct json *object = json_new_object();

    json_put_number(object, "total-clusters", clusters->total_clusters);
    json_put_number(object, "allocated-clusters", clusters->allocated_clusters);
    json_put_number(object, "compressed-clusters", clusters->compressed_clusters);
    json_put_number(object, "fragmented-clusters", clusters->fragmented_clusters);
    json_put_number(object, "image-end-offset", clusters->image_end_offset);
    json_put_number(object, "host-extents", fragmentation->host_extents);
    return object;
}

static struct json *audit_json(const struct audit *audit)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < audit->count; i++) {
        const struct audit_finding *finding = &audit->findings[i];
        struct json *object = json_new_object();

        json_put_text(object, "grade", audit_grade_name(finding->grade));
        json_put_text(object, "code", finding->code);
        json_put_text(object, "file", finding->file);
        json_put_text(object, "text", finding->text);
        if (finding->has_offset) {
            json_put_number(object, "offset", finding->offset);
        }
        json_add(list, object);
    }
    return list;
}

static struct json *problems_json(const struct inspection *inspection)
{
    struct json *list = json_new_array();

    for (size_t i = 0; i < inspection->problem_count; i++) {
        json_add_text(list, inspection->problems[i].text);
    }
    return list;
}

static void put_header_details(const struct inspection *inspection, struct json *details)
{
    const struct header *header = inspection->header;
    struct json *features = json_new_object();
    struct info_cache sizes;

    json_put_number(details, "version", header->version);
    json_put_number(details, "header-length", header->header_length);
    for (uint8_t type = FEATURE_TYPE_INCOMPATIBLE; type <= FEATURE_TYPE_AUTOCLEAR; type++) {
        json_put(features, feature_type_name(type), features_json(inspection, type));
    }
    json_put(details, "features", features);
    json_put(details, "header-extensions", extensions_json(inspection));
    json_put_number(details, "header-extension-count", inspection->extensions_total);
    json_put_number(details, "l1-table-offset", header->l1_offset);
    json_put_number(details, "l1-entries", header->l1_entries);
    json_put_number(details, "refcount-table-offset", header->refcount_table_offset);
    json_put_number(details, "refcount-table-clusters", header->refcount_table_clusters);
    json_put_number(details, "snapshot-count", header->snapshot_count);
    if (header->extended_l2) {
        json_put_number(details, "subcluster-size", UINT64_C(1) << header->subcluster_bits);
    }
    if (inspection->data_file_path != NULL) {
        json_put_text(details, "data-file-path", inspection->data_file_path);
    }
    if (inspection->data_file_found) {
        json_put_number(details, "data-file-actual-size", inspection->data_file_info.allocated);
    }
    if (inspection->backing_path != NULL) {
        json_put_text(details, "backing-file-path", inspection->backing_path);
    }
    if (info_cache_sizes(inspection, &sizes)) {
        json_put(details, "cache-sizes", cache_json(&sizes));
    }
}

static struct json *details_json(const struct inspection *inspection,
                                 const struct info_extras *extras)
{
    struct json *details = json_new_object();

    json_put_number(details, "file-length", inspection->info.size);
    if (inspection->header != NULL && !inspect_part_failed(inspection, HEADER_PART_START)) {
        put_header_details(inspection, details);
    }
    if (extras != NULL && extras->fragmentation != NULL) {
        json_put(details, "fragmentation", fragmentation_json(extras->fragmentation));
    }
    if (inspection->snapshots_unlisted > 0) {
        json_put_number(details, "snapshots-unlisted", inspection->snapshots_unlisted);
    }
    if (inspection->bitmaps_unlisted > 0) {
        json_put_number(details, "bitmaps-unlisted", inspection->bitmaps_unlisted);
    }
    json_put(details, "problems", problems_json(inspection));
    return details;
}

/* --- All of it ----------------------------------------------------------------------- */

static void put_qcow2(const struct inspection *inspection, struct json *object)
{
    const struct header *header = inspection->header;

    json_put_bool(object, "dirty-flag", (header->incompatible_features & INCOMPATIBLE_DIRTY) != 0);
    if (inspect_has_geometry(inspection)) {
        json_put_number(object, "cluster-size", header->cluster_size);
    }
    if (header->crypt_method != CRYPT_NONE) {
        json_put_bool(object, "encrypted", true);
    }
    if (header->backing_file != NULL) {
        put_backing(inspection, object);
    }
    if (inspection->snapshots != NULL && inspection->snapshots->count > 0) {
        json_put(object, "snapshots", info_json_snapshots(inspection->snapshots));
    }
    json_put(object, "format-specific", specific_json(inspection));
}

static struct json *one_json(const struct inspection *inspection, const struct info_extras *extras)
{
    struct json *object = json_new_object();
    bool is_qcow2 = inspection->format == IMAGE_QCOW2;
    bool is_known = !is_qcow2 || !inspect_part_failed(inspection, HEADER_PART_START);

    json_put_text(object, "filename", inspection->path);
    json_put_text(object, "format", is_qcow2 ? "qcow2" : "raw");
    if (is_known) {
        json_put_number(object, "virtual-size", inspection->virtual_size);
    }
    /* Without its data file, as qemu-img has it. */
    json_put_number(object, "actual-size", inspection->info.allocated);
    if (!is_qcow2) {
        json_put_bool(object, "dirty-flag", false);
    } else if (is_known) {
        put_qcow2(inspection, object);
    }
    json_put(object, "details", details_json(inspection, extras));
    if (extras != NULL && extras->audit != NULL) {
        json_put(object, "audit", audit_json(extras->audit));
    }
    return object;
}

static void add_chain(const struct inspection *inspection, struct json *list)
{
    for (; inspection != NULL; inspection = inspection->backing) {
        json_add(list, one_json(inspection, NULL));
    }
}

struct json *info_json(const struct inspection *inspection, const struct info_extras *extras)
{
    struct json *object = one_json(inspection, extras), *chain = json_new_array();

    add_chain(inspection->backing, chain);
    json_put(object, "backing-chain", chain);
    return object;
}

struct json *info_json_list(const struct inspection *inspection, const struct info_extras *extras)
{
    struct json *list = json_new_array();

    json_add(list, one_json(inspection, extras));
    add_chain(inspection->backing, list);
    return list;
}

bool image_info_available(void)
{
    return json_available();
}

/* What is shown in place of the image's active disk, or beside it. */
static void put_mounted(const struct image *image, const struct image *named, struct json *object)
{
    if (named->at_snapshot != NULL) {
        json_put(object, "at-snapshot", snapshot_json(named->at_snapshot));
    }
    if (image->is_overlay) {
        struct json *overlay = json_new_object();

        json_put_bool(overlay, "kept", image->is_kept);
        if (image->is_kept) {
            json_put_text(overlay, "filename", image->path);
        }
        json_put(object, "overlay", overlay);
    }
}

char *image_info_json(const struct image *image)
{
    const struct image *named = image->is_overlay ? image->backing : image;
    struct inspection *inspection;
    struct json *json;
    char *text;

    if (!json_available() || inspect_image(named, &inspection) < 0) {
        return NULL;
    }
    json = info_json(inspection, NULL);
    put_mounted(image, named, json);
    text = json_text(json);
    json_free(json);
    inspect_close(inspection);
    return text;
}
