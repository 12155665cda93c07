/* SPDX-License-Identifier: MIT */
/* The server's box (util/box.h): what it needs for the mount that it serves, and what -o sandbox=
 * asks for. */
#ifndef FUSE_SERVER_BOX_H
#define FUSE_SERVER_BOX_H

#include "disk/image.h"
#include "fuse/options.h"
#include "fuse/steward.h"
#include "util/box.h"
#include "util/error.h"

/*
 * Enters it, unless it is off, before the first thread starts; `box` says what is in force. The
 * steward is sealed: from here on nothing is opened, and nothing is looked for, that is not there
 * yet. -EPERM with a sentence where the box has to be complete (strict) and is not.
 */
int server_box_enter(const struct image *image, const struct mount_options *options,
                     struct steward *steward, struct box *box, struct error *error);

/* Whether a thread can open /dev/fuse for itself. */
bool server_box_opens_device(const struct box *box);

#endif
