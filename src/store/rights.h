/* SPDX-License-Identifier: MIT */
/*
 * What another user may do with a file, for one who opens files in his name:
 * what an image names is opened with the rights of the image's owner.
 *
 * Asking the kernel is the sure way (rights_assume): it knows of groups, access
 * control lists, directories that cannot be searched, and of what is renamed
 * meanwhile. Only root can ask so. Others get the answer of the modes
 * (rights_by_mode), which is no where it is not certain. Takes no locks.
 * Internal to the store.
 */
#ifndef STORE_RIGHTS_H
#define STORE_RIGHTS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Whether this process may do what this user may not. */
bool rights_differ(uid_t uid);

/*
 * Runs work(context) with the rights of this user on the file system: his user
 * id, his groups as the user and group databases have them, and no capability.
 * In a thread of its own, which ends with it: nothing of the caller changes,
 * and descriptors opened by `work` are the process's.
 * 0 when it has run; -EPERM, and it has not, where this process may not do that;
 * -ENOMEM or -EAGAIN likewise.
 */
int rights_assume(uid_t uid, void (*work)(void *context), void *context);

/*
 * Whether the modes of the open file, and of the directories that its path
 * leads through now, allow this user what is `needed` (S_IROTH, S_IWOTH). False
 * where there is an access control list, or the path cannot be found out.
 */
bool rights_by_mode(uid_t uid, int fd, mode_t needed);

#endif
