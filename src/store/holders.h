/* SPDX-License-Identifier: MIT */
/*
 * Who has a file open, for a sentence that tells the user which program to
 * close. Best effort: only what /proc shows to this user. Internal to the store.
 */
#ifndef STORE_HOLDERS_H
#define STORE_HOLDERS_H

#include <sys/types.h>

#define HOLDERS_MAX      4   /* processes that are named */
#define HOLDERS_TEXT_MAX 512 /* bytes of text, enough for all of them */

/*
 * Writes "qemu-nbd (pid 1234), qemu-img (pid 1300)" to `text` and returns it:
 * the processes other than this one that have the file open and hold a lock on
 * it or, where no lock is to be seen, that have it open. An empty string when
 * none was found. Gives up after about half a second, with what it has by then.
 */
const char *holders_find(dev_t device, ino_t inode, char text[HOLDERS_TEXT_MAX]);

#endif
