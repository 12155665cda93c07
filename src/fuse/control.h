/* SPDX-License-Identifier: MIT */
/*
 * Answers what qcow2ctl asks this daemon (util/control): a thread of its own, one question at a
 * time. Snapshots are made by the thread of filesystem->changes, which this one waits for; no
 * request of the kernel's waits for either.
 */
#ifndef FUSE_CONTROL_H
#define FUSE_CONTROL_H

#include "fuse/ops.h"

struct control;

/* `listening` (registry_listen()) belongs to it from here on; -1: nobody asks. After the last
 * fork(). 0 or a negative errno; *control may be NULL then, and where nobody asks. */
int control_start(struct filesystem *filesystem, int listening, struct control **control);

/* What is being asked is answered: that all ends, once filesystem->changes has been stopped. May be
 * NULL. */
void control_stop(struct control *control);

#endif
