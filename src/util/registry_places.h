/* SPDX-License-Identifier: MIT */
/*
 * Where the files of util/registry are: /run/qcow2fs for root, $XDG_RUNTIME_DIR/qcow2fs for others,
 * and for whom that cannot be had, /tmp/qcow2fs-UID. Anybody can take that name first; then it is
 * /tmp/qcow2fs-UID.XXXXXX, of which nobody can take all. So what is there is known by its owner,
 * and the name only says where to look. The UID is that outside of the user namespace, where root
 * of one is somebody else.
 *
 * No directory is opened that is another's, that others may write to, or that a link or a mount
 * leads to. A leaf.
 */
#ifndef UTIL_REGISTRY_PLACES_H
#define UTIL_REGISTRY_PLACES_H

/*
 * The directory of this user's, made where it is not there: a descriptor, or a negative errno.
 */
int registry_place_make(void);

/*
 * Calls `each` for every directory that this process is to look at, of this user or, for root, of
 * all. The descriptor is `each`'s to close. Ends early, and returns that, when it returns what is
 * not 0.
 */
int registry_places_visit(int (*each)(void *context, int directory), void *context);

#endif
