/* SPDX-License-Identifier: MIT */
/*
 * Files that are no files: what the kernel shows of itself and of its devices
 * under the names of regular files (/proc, /sys ...). Reading one may wait for
 * ever, eat what others want to read, or show this process's own memory; a disk
 * is none of them. Takes no locks. Internal to the store.
 */
#ifndef STORE_KERNEL_FILES_H
#define STORE_KERNEL_FILES_H

#include <sys/types.h>

/*
 * The name of the kernel's file system that an open file is of (O_PATH will do;
 * `device` is its st_dev), or NULL for one that holds what somebody has put there.
 */
const char *kernel_file_system(int fd, dev_t device);

#endif
