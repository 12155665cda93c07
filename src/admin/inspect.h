/* SPDX-License-Identifier: MIT */
/*
 * An image and its backing chain as far as they can be described: also images
 * that cannot be opened, because their header is damaged, a file is missing, or
 * a feature is unknown. Nothing of it is fit to be read from or written to;
 * that is what image_open() is for. What it would refuse is told as a problem,
 * with its sentence.
 *
 * Memory is bounded by the limits of the format (names, snapshots, bitmaps) for the active image,
 * and by INSPECT_LISTS_MAX for all that are behind it together; no table of clusters is read.
 */
#ifndef IMAGE_INSPECT_H
#define IMAGE_INSPECT_H

#include "disk/image.h"
#include "meta/bitmap.h"
#include "meta/extension.h"
#include "meta/header.h"
#include "meta/luks.h"
#include "meta/snapshot.h"
#include "store/file.h"
#include "util/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INSPECT_EXTENSIONS_MAX 256 /* header extensions that are listed */

/*
 * What the lists (of snapshots, bitmaps and header extensions) of all images behind the active one
 * may take together, in bytes, by a rough estimate of what an entry costs once it is JSON. An entry
 * that does not fit is counted and not listed, and so is what is behind it.
 */
#define INSPECT_LISTS_MAX  (UINT64_C(64) << 20)
#define INSPECT_ENTRY_COST 1024 /* and its names, twice */

/* A feature bit that is set. */
struct inspect_feature {
    uint8_t type; /* FEATURE_TYPE_... of meta/format.h */
    uint8_t bit;
    bool known;
    char name[EXTENSION_FEATURE_NAME_MAX]; /* an unknown one's from the image; or empty */
};

struct inspect_extension {
    uint32_t type;
    uint32_t length; /* bytes of data */
    uint64_t offset; /* of its data, bytes */
};

/* Bytes [begin, end) of the image file. */
struct inspect_range {
    uint64_t begin, end;
};

/* What a problem is about: a part of the header, by its number, or one of these. */
enum inspect_subject {
    INSPECT_SNAPSHOTS = HEADER_PARTS,
    INSPECT_BITMAPS,
    INSPECT_ENCRYPTION_HEADER,
    INSPECT_DATA_FILE,
    INSPECT_BACKING_FILE,
};

struct inspect_problem {
    int subject; /* enum header_part or enum inspect_subject */
    int code;    /* a positive errno */
    char *text;  /* a sentence that begins with a file name */
};

struct inspection {
    char *path; /* as it was opened */
    enum image_format format;
    /* Open in the active image alone, as long as the inspection lives. */
    struct store *file;
    bool is_active;         /* the image that the user named */
    bool borrowed;          /* the file belongs to an image */
    struct store_info info; /* of the file */
    uint64_t virtual_size;  /* bytes; not known where PART_START failed */

    struct inspect_problem *problems;
    size_t problem_count;
    struct inspection *backing; /* NULL at the end, or where it cannot be looked at */

    /* qcow2 only */
    struct header *header; /* see struct header_examination */
    uint32_t failed;       /* its parts with a problem: bits of 1 << enum header_part */

    struct inspect_feature *features;
    size_t feature_count;
    struct inspect_extension *extensions;
    size_t extension_count;  /* that are listed */
    size_t extensions_total; /* that there are */
    /* What no field, extension or name of the first cluster uses. */
    struct inspect_range slack[2];

    struct snapshot_table *snapshots; /* NULL where none can be read */
    bool snapshots_whole;
    struct bitmap_directory *bitmaps; /* the same */
    /* How many more there are, which are not listed here: see INSPECT_LISTS_MAX. */
    size_t snapshots_unlisted, bitmaps_unlisted;
    struct luks *luks; /* NULL without, or where it cannot be read */

    char *data_file_path; /* NULL without an external data file, or where it has no path */
    bool data_file_found;
    struct store_info data_file_info;
    char *backing_path;  /* NULL without, or where it is no file */
    bool backing_probed; /* its format was guessed */
};

struct inspect_options {
    enum store_access access; /* STORE_READ or STORE_READ_SHARED */
    struct image_names names; /* with whose rights its names are opened */
    bool no_locks;
};

/*
 * Opens, locks and describes the image at `path`, and what is behind it. Fails, with a sentence,
 * when the file itself cannot be opened or read, or is no qcow2 image; -ENOMEM.
 */
int inspect_open(const char *path, const struct inspect_options *options,
                 struct inspection **inspection, struct error *error);

/* Describes a chain that is open. The result must go before the image does. -ENOMEM. */
int inspect_image(const struct image *image, struct inspection **inspection);

/* Frees the whole chain. `inspection` may be NULL. */
void inspect_close(struct inspection *inspection);

/* The first problem of the chain, from the active image on; NULL when there is none. */
const char *inspect_problem(const struct inspection *inspection);

/* Problems of the whole chain. */
size_t inspect_problem_count(const struct inspection *inspection);

/* Why the clusters of this qcow2 image cannot be counted (check/check.h); NULL where they can. */
const char *inspect_obstacle(const struct inspection *inspection);

static inline bool inspect_part_failed(const struct inspection *inspection, enum header_part part)
{
    return (inspection->failed & (UINT32_C(1) << part)) != 0;
}

/* Whether tables can be looked for at the offsets that the header names. */
static inline bool inspect_has_geometry(const struct inspection *inspection)
{
    return inspection->header != NULL && !inspect_part_failed(inspection, HEADER_PART_START) &&
           !inspect_part_failed(inspection, HEADER_PART_CLUSTER_SIZE);
}

#endif
