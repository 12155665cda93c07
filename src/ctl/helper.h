/* SPDX-License-Identifier: MIT */
/*
 * What mount(8) and umount(8) call: qcow2ctl under other names, which are links to it.
 *
 *     mount.qcow2            IMAGE DIR [-sfnv] [-o OPTIONS]: as qcow2ctl mount
 *     umount.fuse.qcow2fs    MOUNTPOINT [-lnfrv]: umount(2) of a raw disk, and the wait for
 *                            its daemon's end
 */
#ifndef CTL_HELPER_H
#define CTL_HELPER_H

#include <stdbool.h>

/* Whether the program was started under one of the names. */
bool helper_is_meant(const char *program);

/* The exit status, in the manner of mount(8): 0, or 1 for wrong words, 32 for a failure. */
int helper_run(int count, char **arguments);

#endif
