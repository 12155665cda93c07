/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "store/owners.h"

#include "store/rights.h"
#include "util/mounts.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

#define NOBODY 65534

bool owners_add(struct owners *owners, uid_t uid)
{
    if (!rights_differ(uid)) {
        return true;
    }
    for (unsigned i = 0; i < owners->count; i++) {
        if (owners->users[i] == uid) {
            return true;
        }
    }
    if (owners->count == OWNERS_MAX) {
        return false;
    }
    owners->users[owners->count++] = uid;
    return true;
}

struct search {
    const struct stat *status;
    uid_t owner;
};

/* Others that have the same magic, as virtiofs, are mounted by root alone. */
static int find_mounter(void *context, const struct mount_entry *entry)
{
    struct search *search = context;

    if (entry->device != search->status->st_dev) {
        return 0;
    }
    if (strncmp(entry->type, "fuse", strlen("fuse")) != 0 || entry->user == 0) {
        search->owner = search->status->st_uid;
    } else if (entry->user > 0) {
        search->owner = (uid_t)entry->user;
    }
    return 1;
}

uid_t owners_of_file(int fd, const struct stat *status)
{
    struct search search = {.status = status, .owner = NOBODY};
    struct statfs host;

    if (S_ISBLK(status->st_mode) || (fstatfs(fd, &host) == 0 && host.f_type != FUSE_SUPER_MAGIC)) {
        return status->st_uid;
    }
    (void)mounts_visit(find_mounter, &search);
    return search.owner;
}
