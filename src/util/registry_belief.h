/* SPDX-License-Identifier: MIT */
/*
 * What of a record in the registry is believed that another user wrote: what the kernel says, too.
 * Anybody may write into the directory that is his, and root reads them all: so that what root does
 * upon it, and what root is told, touches nothing but that user's own processes, mounts and images.
 *
 *     the process    its real user is the record's owner
 *     the device     it is a mount that FUSE says that owner made (user_id=); or, of one that is
 *                    not seen, its connection is his, or the process holds it
 *     the path       that mount is what is seen there
 *     the image      the process has that file open, to write where the record says so, and it is
 *                    called what the kernel calls it; or, where nobody may see what that has open,
 *                    it belongs to the owner
 *
 * A leaf, but for util/mounts and util/process.
 */
#ifndef UTIL_REGISTRY_BELIEF_H
#define UTIL_REGISTRY_BELIEF_H

#include "util/registry.h"

/*
 * Whether a record, with its `process`, stands for a daemon of its owner's. Of one that does, a
 * device and a mount point that are not the owner's are taken away, and `is_image_doubted` is set.
 * What this user himself wrote is believed as it is. Where a record does not say which file the
 * image is, it is learnt, if it can be.
 */
bool registry_believes(struct registry_record *record);

#endif
