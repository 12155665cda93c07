/* SPDX-License-Identifier: MIT */
/*
 * From an image to the one behind it: which file that is, which format it has,
 * and whether it may be opened at all. Used by image_open() and, for what it
 * must judge alike, by admin/inspect.h.
 *
 * image.c and chain.c are one module in two files: an image opens what is behind it, and that are
 * images.
 */
#ifndef IMAGE_CHAIN_H
#define IMAGE_CHAIN_H

#include "disk/image.h"

/*
 * Opens one image without what is behind it. `probed` says that its format was
 * guessed, not recorded: unless options->allow_probed, it may then name no
 * further file. `what` is its part in sentences ("image", "backing file").
 */
struct image_request {
    const char *path;
    const char *what;
    enum image_format format;
    bool probed;
    uint64_t number;
    enum store_access access;
    uint64_t l1_room; /* of an image behind another: bytes of memory for its L1 table; a larger one
                         is read in pieces */
    struct store *file; /* already open: belongs to the image from then on, or is closed */
};

int image_open_one(const struct image_request *request, const struct image_options *options,
                   struct log *log, struct image **image, struct error *error);

/*
 * Where the next file of the chain, whose images from `active` on are open, keeps what is read of
 * it: NULL where another one does already.
 */
const struct read_cache_options *chain_read_cache(const struct image *active,
                                                  const struct image_options *options);

/*
 * Where the file is that the image at `image` records as `name`, as filename_resolve() says it,
 * in *path for the caller to free; an address of a server is itself. `active`: the image is the one
 * that the user named. -EACCES, with a sentence and before anything is looked at, where `follow`
 * keeps that from being opened.
 */
struct chain_name {
    const char *image;
    const char *what; /* "backing file", "data file" */
    const char *name;
    bool active;
};

int chain_find(const struct chain_name *recorded, enum image_follow follow, char **path,
               struct error *error);

/* A file that belongs to an image: its backing file or its data file. */
struct chain_file {
    const char *image;    /* the path of the image */
    struct store *of;     /* its file, or NULL; whose it is, its owners are asked for */
    struct owners owners; /* of the image, where `of` is NULL */
    const char *path;
    const char *what; /* "backing file", "data file" */
    bool given;       /* named by the user, not by the image */
    bool known;  /* recorded, but the user has given that name, too: where it leads is his affair */
    bool active; /* the image is the one that the user named */
};

/*
 * Opens it with the rights that `names` says, of all whose images led there (store/owners.h); the
 * only way in which a file is opened that an image names. The sentence begins with the image's
 * path, and says how a file that has moved is named. Errors as store_file_open()'s; -EACCES, too,
 * for what an image of a server names, unless `names` trusts it, and for what lies outside of the
 * image's directory with IMAGE_FOLLOW_BESIDE.
 */
int chain_open_file(const struct chain_file *wanted, const struct store_file_options *how,
                    struct image_names names, struct store **file, struct error *error);

/*
 * Opens all that is behind `image`, one after the other. On failure what was
 * opened stays linked to `image`, to be closed with it.
 */
int chain_open_backing(struct image *image, const struct image_options *options, struct log *log,
                       struct error *error);

/*
 * The format of the backing file at `path` that the image `overlay` (both names
 * are for sentences) records as `name`; *known is false where that is NULL, and
 * it must be guessed. -ENOTSUP with a sentence for one that cannot be read.
 */
int chain_recorded_format(const char *overlay, const char *name, const char *path,
                          enum image_format *format, bool *known, struct error *error);

/* Guesses the format. -ENOTSUP with a sentence when it is one that cannot be read; -EIO. */
int chain_probe_format(const char *overlay, const char *path, struct store *file,
                       enum image_format *format, struct error *error);

/* The sentence for a backing file of `overlay` that is the image `again` of the chain, or, where
 * that is NULL, the overlay. -ELOOP. */
int chain_refuse_cycle(const char *overlay, const char *path, const char *again,
                       struct error *error);

/*
 * The path of the data file of the image at `path`, in *data_file for the caller
 * to free: the one that was given or, where that is NULL, the recorded one.
 * -EINVAL or -ENOTSUP with a sentence where there is none; -EACCES as chain_find(); -ENOMEM.
 */
struct chain_data {
    const char *image;
    const char *given;
    bool active;
};

int chain_data_file(const struct chain_data *wanted, const struct header *header,
                    enum image_follow follow, char **data_file, struct error *error);

/*
 * Refuses a file that is not a qcow2 image, with a sentence that says what it
 * looks like; `is_backing` says that it is behind another image.
 */
int chain_check_qcow2(struct store *file, uint64_t file_size, const char *path, bool is_backing,
                      struct error *error);

/*
 * Guessed to be qcow2, an image may not make us open further files: -EACCES with
 * a sentence where this one would.
 */
int chain_check_probed(const struct header *header, const char *path, struct error *error);

#endif
