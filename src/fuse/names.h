/* SPDX-License-Identifier: MIT */
/*
 * File names for what an image names: snapshots, and partitions. Such a name is any
 * string of bytes, and two may share one; a file name may not. Pure functions, no state.
 *
 *     quoting    '/', '%', controls and what is not UTF-8: each byte -> %XX
 *                "." -> "%2E", ".." -> "%2E%2E", no name at all -> "id-ID"
 *     length     cut to NAMES_MAX bytes, never inside a character or a %XX
 *     equal      every one of a group of equal names -> "NAME@ID"
 *     still so   (hostile images) -> "NAME%#INDEX": quoting leaves no % that is
 *                not followed by two hexadecimal digits, so no other name can
 *                look like this one
 */
#ifndef FUSE_NAMES_H
#define FUSE_NAMES_H

#include "meta/snapshot.h"

#include <stddef.h>

#define NAMES_MAX 255 /* bytes, without the NUL; what Linux allows in a directory */

/* What a file name is made of. */
struct names_source {
    const char *name, *id;
};

/*
 * Makes one name for each source, in their order, as below. 0 or -ENOMEM. For names_free().
 */
int names_make_unique(const struct names_source *sources, size_t count, char ***names);

/*
 * Makes one name for each snapshot, in their order: (*names)[i] is that of
 * snapshots[i], and no two are equal. Takes n log n time. 0 or -ENOMEM. For
 * names_free().
 */
int names_make(const struct snapshot *snapshots, size_t count, char ***names);

/*
 * The name that a snapshot must have to be shown as `file_name`, where nothing else has that name:
 * 0; -EINVAL where none is shown so (a '%' that begins no escape, a control, what is not UTF-8);
 * -ENAMETOOLONG.
 */
int names_unquote(const char *file_name, char name[NAMES_MAX + 1]);

/* `names` may be NULL. */
void names_free(char **names, size_t count);

#endif
