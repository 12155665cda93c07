/* SPDX-License-Identifier: MIT */
/*
 * Which users and groups this process's user namespace knows, and who they are outside of it. The
 * kernel lets nobody at a file of FUSE whose owner or group its namespace does not know. A leaf.
 */
#ifndef UTIL_ID_MAP_H
#define UTIL_ID_MAP_H

#include <stdbool.h>
#include <sys/types.h>

/* True, too, where that cannot be found out. */
bool id_map_knows_user(uid_t user);
bool id_map_knows_group(gid_t group);

/* Who `user` is outside of it, in the one around; false where it knows nobody of that number. */
bool id_map_outside(uid_t user, uid_t *outside);

#endif
