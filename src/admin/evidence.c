/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/evidence.h"

#include "admin/inspect.h"
#include "admin/pieces.h"
#include "admin/slack.h"
#include "admin/uses.h"
#include "util/checked.h"
#include "util/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct evidence {
    const char *path; /* of the image, which has it */
    bool complete;    /* each table could be read */
    struct pieces files[EVIDENCE_FILES];
    size_t json_lengths[EVIDENCE_FILES];
};

static const char *const names[EVIDENCE_FILES] = {
    [EVIDENCE_UNREFERENCED] = "unreferenced",
    [EVIDENCE_HIDDEN] = "hidden",
    [EVIDENCE_SLACK] = "slack",
    [EVIDENCE_PAST_DISK] = "past-disk",
    [EVIDENCE_BITMAPS] = "bitmaps",
    [EVIDENCE_ENCRYPTION_HEADER] = "encryption-header",
    [EVIDENCE_HEADER] = "header",
    [EVIDENCE_L1] = "l1",
    [EVIDENCE_L2] = "l2",
    [EVIDENCE_REFCOUNT_BLOCKS] = "refcount-blocks",
    [EVIDENCE_REFCOUNT_TABLE] = "refcount-table",
    [EVIDENCE_SNAPSHOT_TABLE] = "snapshot-table",
};

const char *evidence_name(enum evidence_file file)
{
    return names[file];
}

/* --- Gathering --------------------------------------------------------------------------- */

struct gathering {
    struct evidence *evidence;
    const struct image *image;
    const struct inspection *inspection;
    struct header header; /* a copy: the checker may change it */
    struct uses uses;
};

/* Whether there is a file of the clusters that are used so, and which. */
static bool file_of(enum check_use use, enum evidence_file *file)
{
    static const enum evidence_file files[] = {
        [CHECK_USE_HEADER] = EVIDENCE_HEADER,
        [CHECK_USE_L1_TABLE] = EVIDENCE_L1,
        [CHECK_USE_L2_TABLE] = EVIDENCE_L2,
        [CHECK_USE_DATA] = EVIDENCE_FILES,
        [CHECK_USE_COMPRESSED] = EVIDENCE_FILES,
        [CHECK_USE_SNAPSHOT_TABLE] = EVIDENCE_SNAPSHOT_TABLE,
        [CHECK_USE_BITMAP_DIRECTORY] = EVIDENCE_BITMAPS,
        [CHECK_USE_BITMAP_TABLE] = EVIDENCE_BITMAPS,
        [CHECK_USE_BITMAP_DATA] = EVIDENCE_BITMAPS,
        [CHECK_USE_REFCOUNT_TABLE] = EVIDENCE_REFCOUNT_TABLE,
        [CHECK_USE_REFCOUNT_BLOCK] = EVIDENCE_REFCOUNT_BLOCKS,
        [CHECK_USE_CRYPT_HEADER] = EVIDENCE_ENCRYPTION_HEADER,
    };

    *file = files[use];
    return *file != EVIDENCE_FILES;
}

/* A range of the image file, as far as it is in the file. */
static int add(struct gathering *gathering, enum evidence_file file, uint64_t begin, uint64_t end)
{
    const struct piece piece = {.host_offset = begin, .store = gathering->image->file};

    end = min_u64(end, gathering->inspection->info.size);
    return begin < end ? pieces_add(&gathering->evidence->files[file], &piece, end - begin) : 0;
}

/* What is unused, and the tables. */
static int gather_clusters(struct gathering *gathering)
{
    const struct uses *uses = &gathering->uses;
    uint32_t bits = gathering->header.cluster_bits;
    int result = 0;

    for (uint64_t cluster = 0, run; cluster < uses->clusters && result == 0; cluster += run) {
        enum evidence_file file = EVIDENCE_UNREFERENCED;
        enum check_use use;
        bool used;

        run = uses_run(uses, cluster, &used, &use);
        if (!used || file_of(use, &file)) {
            result = add(gathering, file, cluster << bits, (cluster + run) << bits);
        }
    }
    return result;
}

static int gather_hidden(struct gathering *gathering)
{
    const struct uses *uses = &gathering->uses;
    const struct header *header = &gathering->header;
    uint64_t cluster = check_counts_next(uses->hidden, 0, uses->clusters);
    int result = 0;

    while (cluster < uses->clusters && result == 0) {
        uint64_t hidden = check_counts_get(uses->hidden, cluster);
        uint64_t begin = cluster << header->cluster_bits;

        for (uint32_t i = 0; i < header->subclusters && result == 0; i++) {
            uint64_t at = begin + ((uint64_t)i << header->subcluster_bits);

            if ((hidden >> i & 1) != 0) {
                result = add(gathering, EVIDENCE_HIDDEN, at,
                             at + (UINT64_C(1) << header->subcluster_bits));
            }
        }
        cluster = check_counts_next(uses->hidden, cluster + 1, uses->clusters);
    }
    return result;
}

/* slack_fn */
static int gather_slack(void *context, const struct slack_place *place)
{
    struct gathering *gathering = context;
    const struct piece piece = {
        .host_offset = place->begin,
        .store = gathering->image->file,
        .what = place->code,
        .snapshot = place->snapshot,
    };

    return pieces_add(&gathering->evidence->files[EVIDENCE_SLACK], &piece,
                      place->end - place->begin);
}

static int gather_end(struct gathering *gathering, struct store *store, const char *path,
                      uint64_t disk_end)
{
    const struct piece piece = {.host_offset = disk_end, .store = store, .path = path};
    struct store_info info;
    int result = store_info(store, &info);

    if (result < 0 || info.size <= disk_end) {
        return result;
    }
    return pieces_add(&gathering->evidence->files[EVIDENCE_PAST_DISK], &piece,
                      info.size - disk_end);
}

/* Of an image behind another one no more is shown than that is large. */
static int gather_ends(struct gathering *gathering)
{
    uint64_t end = UINT64_MAX;
    int result = 0;

    for (const struct image *each = gathering->image; each != NULL && result == 0;
         each = each->backing) {
        end = min_u64(end, each->virtual_size);
        if (each->format == IMAGE_RAW) {
            result = gather_end(gathering, each->file, each->path, end);
        } else if (each->data_file_path != NULL) {
            result = gather_end(gathering, each->data_file, each->data_file_path, end);
        }
    }
    return result;
}

static int gather_all(struct gathering *gathering, const struct evidence_options *options,
                      struct error *error)
{
    const struct uses_options how = {.progress = options->progress, .context = options->context};
    const struct inspection *inspection = gathering->inspection;
    const char *obstacle = inspect_obstacle(inspection);
    int result;

    if (obstacle != NULL) {
        return error_set(error, EINVAL,
                         "%s: what nothing refers to cannot be told: %s; mount it without evidence",
                         gathering->image->path, obstacle);
    }
    gathering->header = *inspection->header;
    result = uses_find(inspection, &gathering->header, &how, &gathering->uses, error);
    gathering->evidence->complete = gathering->uses.found.unreadable == 0;
    if (result == 0) {
        result = gather_clusters(gathering);
    }
    if (result == 0) {
        result = gather_hidden(gathering);
    }
    if (result == 0) {
        result = slack_find(inspection, SIZE_MAX, gather_slack, gathering);
    }
    if (result == 0) {
        result = gather_ends(gathering);
    }
    return result;
}

/* Known from here on, so that asking for it costs nothing. */
static int measure_json(struct evidence *evidence)
{
    for (int file = 0; json_available() && file < EVIDENCE_FILES; file++) {
        char *text = evidence_json(evidence, file);

        if (text == NULL) {
            return -ENOMEM;
        }
        evidence->json_lengths[file] = strlen(text);
        free(text);
    }
    return 0;
}

int evidence_gather(const struct image *image, const struct evidence_options *options,
                    struct evidence **evidence, struct error *error)
{
    struct evidence *made = calloc(1, sizeof(*made));
    struct inspection *inspection = NULL;
    struct gathering gathering = {.evidence = made, .image = image};
    int result = -ENOMEM;

    if (made != NULL) {
        made->path = image->path;
        result = inspect_image(image, &inspection);
    }
    if (result == 0) {
        gathering.inspection = inspection;
        result = gather_all(&gathering, options, error);
        uses_release(&gathering.uses);
    }
    inspect_close(inspection);
    if (result == 0) {
        result = measure_json(made);
    }
    if (result < 0) {
        evidence_free(made);
        return error->code != 0 ? result
                                : error_set(error, -result, "%s: its evidence: %s", image->path,
                                            strerror(-result));
    }
    *evidence = made;
    return 0;
}

void evidence_free(struct evidence *evidence)
{
    if (evidence == NULL) {
        return;
    }
    for (int file = 0; file < EVIDENCE_FILES; file++) {
        pieces_release(&evidence->files[file]);
    }
    free(evidence);
}

/* --- Reading ------------------------------------------------------------------------------ */

uint64_t evidence_size(const struct evidence *evidence, enum evidence_file file)
{
    return evidence->files[file].size;
}

uint64_t evidence_left_out(const struct evidence *evidence, enum evidence_file file)
{
    return evidence->files[file].left_out;
}

int evidence_read(const struct evidence *evidence, enum evidence_file file, uint64_t offset,
                  void *buffer, size_t length)
{
    return pieces_read(&evidence->files[file], offset, buffer, length);
}

uint64_t evidence_seek(const struct evidence *evidence, enum evidence_file file, uint64_t offset,
                       uint64_t end, bool want_data)
{
    return pieces_seek(&evidence->files[file], offset, end, want_data);
}

char *evidence_json(const struct evidence *evidence, enum evidence_file file)
{
    return pieces_json(&evidence->files[file], evidence->path, evidence->complete);
}

size_t evidence_json_length(const struct evidence *evidence, enum evidence_file file)
{
    return evidence->json_lengths[file];
}
