/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/inspect.h"

#include "disk/chain.h"
#include "disk/filename.h"
#include "meta/feature.h"
#include "meta/format.h"
#include "store/opener.h"
#include "util/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FEATURES_MAX 192 /* bits in the three fields */

static int add_problem(struct inspection *inspection, int subject, const struct error *error)
{
    size_t count = inspection->problem_count;
    struct inspect_problem *problems =
        reallocarray(inspection->problems, count + 1, sizeof(*problems));

    if (problems == NULL) {
        return -ENOMEM;
    }
    inspection->problems = problems;
    problems[count] = (struct inspect_problem){
        .subject = subject,
        .code = error->code,
        .text = strdup(error->text),
    };
    if (problems[count].text == NULL) {
        return -ENOMEM;
    }
    inspection->problem_count++;
    return 0;
}

/* What went wrong is a problem of the image, unless it is that of this program. */
static int tell(struct inspection *inspection, int subject, int result, const struct error *error)
{
    return result == 0 || result == -ENOMEM ? result : add_problem(inspection, subject, error);
}

/* --- The first cluster --------------------------------------------------------------- */

static const char *known_feature(uint8_t type, uint8_t bit)
{
    for (size_t i = 0; i < known_feature_count; i++) {
        if (known_features[i].type == type && known_features[i].bit == bit) {
            return known_features[i].name;
        }
    }
    return NULL;
}

static void take_feature(struct inspection *inspection,
                         const struct header_examination *examination, uint8_t type, uint8_t bit)
{
    struct inspect_feature *feature = &inspection->features[inspection->feature_count++];
    const char *name = known_feature(type, bit);

    *feature = (struct inspect_feature){.type = type, .bit = bit, .known = name != NULL};
    if (name != NULL) {
        strncpy(feature->name, name, sizeof(feature->name) - 1);
    } else {
        extension_feature_name(examination->cluster, inspection->header->header_length,
                               examination->extensions_end, type, bit, feature->name);
    }
}

static int take_features(struct inspection *inspection,
                         const struct header_examination *examination)
{
    const uint64_t fields[] = {
        [FEATURE_TYPE_INCOMPATIBLE] = inspection->header->incompatible_features,
        [FEATURE_TYPE_COMPATIBLE] = inspection->header->compatible_features,
        [FEATURE_TYPE_AUTOCLEAR] = inspection->header->autoclear_features,
    };

    inspection->features = calloc(FEATURES_MAX, sizeof(*inspection->features));
    if (inspection->features == NULL) {
        return -ENOMEM;
    }
    for (uint8_t type = 0; type < sizeof(fields) / sizeof(fields[0]); type++) {
        for (uint8_t bit = 0; bit < 64; bit++) {
            if ((fields[type] >> bit & 1) != 0) {
                take_feature(inspection, examination, type, bit);
            }
        }
    }
    return 0;
}

/* The extensions, and what is behind the last of them; then behind the backing file name. */
static int take_extensions(struct inspection *inspection,
                           const struct header_examination *examination)
{
    size_t position = inspection->header->header_length, end = examination->extensions_end;
    struct extension extension;

    inspection->extensions = calloc(INSPECT_EXTENSIONS_MAX, sizeof(*inspection->extensions));
    if (inspection->extensions == NULL) {
        return -ENOMEM;
    }
    while (extension_next(examination->cluster, end, &position, &extension) ==
           EXTENSION_STEP_NEXT) {
        if (inspection->extensions_total++ < INSPECT_EXTENSIONS_MAX) {
            inspection->extensions[inspection->extension_count++] = (struct inspect_extension){
                .type = extension.type,
                .length = extension.length,
                .offset = (uint64_t)(extension.data - examination->cluster),
            };
        }
    }
    inspection->slack[0] =
        (struct inspect_range){min_u64(position + EXTENSION_DATA, end), (uint64_t)end};
    if (examination->backing_end != 0) {
        inspection->slack[1] =
            (struct inspect_range){examination->backing_end, inspection->header->cluster_size};
    }
    return 0;
}

static int take_header(struct inspection *inspection, struct header_examination *examination)
{
    int result = 0;

    inspection->header = examination->header;
    examination->header = NULL;
    for (int part = 0; part < HEADER_PARTS && result == 0; part++) {
        if (header_part_failed(examination, part)) {
            inspection->failed |= UINT32_C(1) << part;
            result = add_problem(inspection, part, &examination->problems[part]);
        }
    }
    if (result < 0 || header_part_failed(examination, HEADER_PART_START)) {
        return result;
    }
    inspection->virtual_size = inspection->header->virtual_size;
    result = take_features(inspection, examination);
    return result < 0 ? result : take_extensions(inspection, examination);
}

static int examine_header(struct inspection *inspection)
{
    struct header_examination *examination = calloc(1, sizeof(*examination));
    int result = -ENOMEM;

    if (examination != NULL) {
        result =
            header_examine(inspection->file, inspection->info.size, inspection->path, examination);
    }
    if (result == 0) {
        result = take_header(inspection, examination);
        header_examination_release(examination);
    }
    free(examination);
    return result;
}

/* --- What the header leads to -------------------------------------------------------- */

static int examine_snapshots(struct inspection *inspection)
{
    struct error error = {0};
    int result;

    if (!inspect_has_geometry(inspection) ||
        inspect_part_failed(inspection, HEADER_PART_SNAPSHOTS)) {
        return 0;
    }
    result = snapshot_table_examine(inspection->file, inspection->header, inspection->info.size,
                                    inspection->path, &inspection->snapshots, &error);
    inspection->snapshots_whole = result == 0;
    return tell(inspection, INSPECT_SNAPSHOTS, result, &error);
}

static int examine_bitmaps(struct inspection *inspection)
{
    struct error error = {0};
    int result;

    if (inspect_part_failed(inspection, HEADER_PART_STRINGS) ||
        inspect_part_failed(inspection, HEADER_PART_BITMAPS) ||
        inspection->header->bitmap_count == 0) {
        return 0;
    }
    result = bitmap_directory_examine(inspection->file, inspection->header, inspection->path,
                                      &inspection->bitmaps, &error);
    return tell(inspection, INSPECT_BITMAPS, result, &error);
}

static int examine_encryption(struct inspection *inspection)
{
    const struct header *header = inspection->header;
    struct error error = {0};
    int result;

    if (header->crypt_header_length == 0 ||
        inspect_part_failed(inspection, HEADER_PART_CRYPT_HEADER)) {
        return 0;
    }
    inspection->luks = malloc(sizeof(*inspection->luks));
    if (inspection->luks == NULL) {
        return -ENOMEM;
    }
    result = luks_read(inspection->file, header->crypt_header_offset, header->crypt_header_length,
                       inspection->path, inspection->luks, &error);
    if (result < 0) {
        free(inspection->luks);
        inspection->luks = NULL;
    }
    return tell(inspection, INSPECT_ENCRYPTION_HEADER, result, &error);
}

static int examine_qcow2(struct inspection *inspection)
{
    int result = examine_header(inspection);

    if (result < 0 || inspect_part_failed(inspection, HEADER_PART_START)) {
        return result;
    }
    result = examine_snapshots(inspection);
    if (result == 0) {
        result = examine_bitmaps(inspection);
    }
    return result < 0 ? result : examine_encryption(inspection);
}

/* --- The data file ------------------------------------------------------------------- */

static struct store_file_options how_to_open(const struct inspect_options *options)
{
    return (struct store_file_options){.access = options->access, .no_locks = options->no_locks};
}

static void look_at_data_file(struct inspection *inspection, struct store *file)
{
    inspection->data_file_found = store_info(file, &inspection->data_file_info) == 0;
}

static int open_data_file(struct inspection *inspection, const struct inspect_options *options,
                          struct error *error)
{
    const struct store_file_options how = how_to_open(options);
    struct chain_file wanted = {
        .image = inspection->path,
        .owners = inspection->info.owners,
        .what = "data file",
        .active = inspection->is_active,
    };
    const struct chain_data data = {.image = inspection->path, .active = inspection->is_active};
    struct store *file;
    int result = chain_data_file(&data, inspection->header, options->names.follow,
                                 &inspection->data_file_path, error);

    if (result < 0) {
        return result;
    }
    wanted.path = inspection->data_file_path;
    result = chain_open_file(&wanted, &how, options->names, &file, error);
    if (result < 0) {
        return result;
    }
    look_at_data_file(inspection, file);
    store_close(file);
    return 0;
}

/* --- One image, and the next --------------------------------------------------------- */

static struct inspection *new_inspection(const char *path, enum image_format format,
                                         struct store *file)
{
    struct inspection *inspection = calloc(1, sizeof(*inspection));
    char *copy = strdup(path);

    if (inspection == NULL || copy == NULL) {
        free(inspection);
        free(copy);
        return NULL;
    }
    inspection->path = copy;
    inspection->format = format;
    inspection->file = file;
    return inspection;
}

static int measure(struct inspection *inspection, struct error *error)
{
    int result = store_info(inspection->file, &inspection->info);

    if (result < 0) {
        return error_set(error, -result, "%s: its size cannot be found out: %s", inspection->path,
                         strerror(-result));
    }
    inspection->virtual_size = inspection->info.size;
    return 0;
}

/* Describes a qcow2 image whose file is open, with its data file. */
static int examine_opened(struct inspection *inspection, const struct inspect_options *options,
                          struct error *error)
{
    struct error problem = {0};
    int result = chain_check_qcow2(inspection->file, inspection->info.size, inspection->path,
                                   !inspection->is_active, error);

    if (result < 0) {
        return result;
    }
    result = examine_qcow2(inspection);
    if (result == 0 && inspection->header->external_data_file) {
        result = open_data_file(inspection, options, &problem);
        result = tell(inspection, INSPECT_DATA_FILE, result, &problem);
    }
    return result < 0 ? error_set(error, -result, "%s: out of memory", inspection->path) : 0;
}

/* The image in this file, which belongs to *inspection or is closed; also its data file. */
static int examine_file(const char *path, enum image_format format, bool is_active,
                        const struct inspect_options *options, struct store *file,
                        struct inspection **inspection, struct error *error)
{
    int result;

    *inspection = new_inspection(path, format, file);
    if (*inspection == NULL) {
        store_close(file);
        return error_set(error, ENOMEM, "%s: out of memory", path);
    }
    (*inspection)->is_active = is_active;
    result = measure(*inspection, error);
    if (result == 0 && format == IMAGE_QCOW2) {
        result = examine_opened(*inspection, options, error);
    }
    if (result < 0) {
        inspect_close(*inspection);
        *inspection = NULL;
    }
    return result;
}

static int refuse_cycle(const struct inspection *active, const struct inspection *overlay,
                        const char *path, struct error *error)
{
    struct stat status;

    if (opener_stat(path, &status) < 0) {
        return 0; /* opening it says why */
    }
    for (; active != NULL; active = active->backing) {
        if (active->info.device == status.st_dev && active->info.inode == status.st_ino) {
            return chain_refuse_cycle(overlay->path, path, active == overlay ? NULL : active->path,
                                      error);
        }
    }
    return 0;
}

/* --- One budget for what is behind ---------------------------------------------------- */

/* Takes what an entry with these names costs; false where there is no room for it. */
static bool take(uint64_t *room, const char *name, const char *other)
{
    uint64_t cost = INSPECT_ENTRY_COST + 2 * (strlen(name) + strlen(other));

    if (cost > *room) {
        *room = 0;
        return false;
    }
    *room -= cost;
    return true;
}

/* Forgets what there is no room for in the lists of one more image. */
static void shorten_lists(struct inspection *behind, uint64_t *room)
{
    struct snapshot_table *snapshots = behind->snapshots;
    struct bitmap_directory *bitmaps = behind->bitmaps;
    size_t kept = 0;

    while (kept < behind->extension_count && take(room, "", "")) {
        kept++;
    }
    behind->extension_count = kept;
    for (kept = 0; snapshots != NULL && kept < snapshots->count; kept++) {
        if (!take(room, snapshots->snapshots[kept].id, snapshots->snapshots[kept].name)) {
            behind->snapshots_unlisted = snapshots->count - kept;
            snapshot_table_shorten(snapshots, kept);
        }
    }
    for (kept = 0; bitmaps != NULL && kept < bitmaps->count; kept++) {
        if (!take(room, bitmaps->bitmaps[kept].name, "")) {
            behind->bitmaps_unlisted = bitmaps->count - kept;
            bitmap_directory_shorten(bitmaps, kept);
        }
    }
}

/* --- The chain ----------------------------------------------------------------------- */

/* Opens and describes what is behind `overlay`. */
static int examine_behind(struct inspection *active, struct inspection *overlay,
                          const struct inspect_options *options, struct error *error)
{
    const struct store_file_options how = how_to_open(options);
    const char *path = overlay->backing_path;
    const struct chain_file wanted = {
        .image = overlay->path,
        .owners = overlay->info.owners,
        .path = path,
        .what = "backing file",
        .active = overlay->is_active,
    };
    enum image_format format;
    struct store *file;
    bool known;
    int result = chain_recorded_format(overlay->path, overlay->header->backing_format, path,
                                       &format, &known, error);

    overlay->backing_probed = !known;
    if (result == 0) {
        result = refuse_cycle(active, overlay, path, error);
    }
    if (result < 0) {
        return result;
    }
    result = chain_open_file(&wanted, &how, options->names, &file, error);
    if (result < 0) {
        return result;
    }
    if (!known) {
        result = chain_probe_format(overlay->path, path, file, &format, error);
        if (result < 0) {
            store_close(file);
            return result;
        }
    }
    return examine_file(path, format, false, options, file, &overlay->backing, error);
}

/* Whether the chain goes on behind `overlay`, which lies `depth` images behind the active one. */
static int find_backing(struct inspection *overlay, bool probed, unsigned depth,
                        enum image_follow follow, struct error *error)
{
    const struct chain_name recorded = {
        .image = overlay->path,
        .what = "backing file",
        .name = overlay->header->backing_file,
        .active = overlay->is_active,
    };
    int result = 0;

    if (probed) {
        result = chain_check_probed(overlay->header, overlay->path, error);
    }
    if (result == 0 && depth + 1 >= IMAGE_CHAIN_MAX) {
        result = error_set(error, EMFILE,
                           "%s: is the image number %u of its chain, and no more are supported; "
                           "shorten the chain with qcow2ctl commit or rebase of one that is behind",
                           overlay->path, depth + 1);
    }
    return result < 0 ? result : chain_find(&recorded, follow, &overlay->backing_path, error);
}

static int follow_chain(struct inspection *active, const struct inspect_options *options)
{
    struct inspection *overlay = active;
    uint64_t room = INSPECT_LISTS_MAX;
    bool probed = false;
    unsigned depth = 0;

    while (overlay != NULL && overlay->header != NULL && overlay->header->backing_file != NULL) {
        struct error error = {0};
        int result = find_backing(overlay, probed, depth++, options->names.follow, &error);

        if (result == 0) {
            result = examine_behind(active, overlay, options, &error);
        }
        result = tell(overlay, INSPECT_BACKING_FILE, result, &error);
        if (result < 0) {
            return result;
        }
        if (overlay->backing != NULL) {
            shorten_lists(overlay->backing, &room);
            store_close(overlay->backing->file); /* of a long chain not all at once */
            overlay->backing->file = NULL;
        }
        probed = overlay->backing_probed;
        overlay = overlay->backing;
    }
    return 0;
}

int inspect_open(const char *path, const struct inspect_options *options,
                 struct inspection **inspection, struct error *error)
{
    const struct store_file_options how = how_to_open(options);
    struct store *file;
    int result;

    *inspection = NULL;
    result = store_file_open(path, "image", &how, &file, error);
    if (result == 0) {
        result = examine_file(path, IMAGE_QCOW2, true, options, file, inspection, error);
    }
    if (result == 0 && follow_chain(*inspection, options) < 0) {
        inspect_close(*inspection);
        *inspection = NULL;
        result = error_set(error, ENOMEM, "%s: out of memory", path);
    }
    return result;
}

/* --- An image that is open ----------------------------------------------------------- */

static int examine_open_image(const struct image *image, struct inspection **inspection)
{
    struct inspection *made = new_inspection(image->path, image->format, image->file);
    int result;

    *inspection = made;
    if (made == NULL) {
        return -ENOMEM;
    }
    made->borrowed = true;
    result = measure(made, NULL);
    if (image->format == IMAGE_QCOW2 && result == 0) {
        result = examine_qcow2(made);
    }
    if (image->data_file_path != NULL && result == 0) {
        made->data_file_path = strdup(image->data_file_path);
        result = made->data_file_path == NULL ? -ENOMEM : 0;
        look_at_data_file(made, image->data_file);
    }
    if (image->backing != NULL && result == 0) {
        made->backing_path = strdup(image->backing->path);
        result = made->backing_path == NULL ? -ENOMEM : 0;
        made->backing_probed = image->header->backing_format == NULL;
    }
    return result;
}

int inspect_image(const struct image *image, struct inspection **inspection)
{
    struct inspection **link = inspection;
    uint64_t room = INSPECT_LISTS_MAX;
    int result = 0;

    *inspection = NULL;
    for (; image != NULL && result == 0; image = image->backing) {
        result = examine_open_image(image, link);
        if (*link != NULL) {
            if (link != inspection) {
                shorten_lists(*link, &room);
            }
            link = &(*link)->backing;
        }
    }
    if (result < 0) {
        inspect_close(*inspection);
        *inspection = NULL;
    }
    return result;
}

/* --- The end ------------------------------------------------------------------------- */

static void close_one(struct inspection *inspection)
{
    for (size_t i = 0; i < inspection->problem_count; i++) {
        free(inspection->problems[i].text);
    }
    free(inspection->problems);
    free(inspection->features);
    free(inspection->extensions);
    free(inspection->luks);
    free(inspection->data_file_path);
    free(inspection->backing_path);
    snapshot_table_free(inspection->snapshots);
    bitmap_directory_free(inspection->bitmaps);
    header_free(inspection->header);
    if (!inspection->borrowed) {
        store_close(inspection->file);
    }
    free(inspection->path);
    free(inspection);
}

void inspect_close(struct inspection *inspection)
{
    while (inspection != NULL) {
        struct inspection *backing = inspection->backing;

        close_one(inspection);
        inspection = backing;
    }
}
