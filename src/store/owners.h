/* SPDX-License-Identifier: MIT */
/*
 * Whose word a file is: what an image names is opened for those who made it be named. They are the
 * owner of the image, and the owners of all images by way of which that was reached: an image of
 * root's that another user's image names says what root wrote there, or what a guest wrote to a raw
 * disk of root's, but it was he who made it an image.
 */
#ifndef STORE_OWNERS_H
#define STORE_OWNERS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#define OWNERS_MAX 16

/* Users that may do less than this process (store/rights.h), each once; all zero: there is none. */
struct owners {
    unsigned count;
    uid_t users[OWNERS_MAX];
};

/* False where there is no room for one who has to be among them. */
bool owners_add(struct owners *owners, uid_t uid);

/*
 * Whose the open file is: the user that the host says, but on a FUSE file system the one who has
 * mounted it, since he is whoever he wants to be there; nobody (65534) where that cannot be told.
 * What root has mounted says root.
 */
uid_t owners_of_file(int fd, const struct stat *status);

#endif
