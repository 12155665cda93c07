/* SPDX-License-Identifier: MIT */
/*
 * What a file looks like: to refuse what is not a qcow2 image by its name, and
 * to guess the format of a backing file for which none is recorded.
 */
#ifndef IMAGE_PROBE_H
#define IMAGE_PROBE_H

#include "store/store.h"

#include <stdint.h>

enum probe_class {
    PROBE_QCOW2,      /* of any version from 2 on */
    PROBE_DISK_IMAGE, /* another format of disk images, which QEMU would not take for raw */
    PROBE_RAW,        /* the contents of a disk, or of a partition */
    PROBE_OTHER,      /* compressed, encrypted, a program ...: to QEMU it is raw, too */
};

struct probe {
    enum probe_class class;
    const char *description; /* with its article: "a VMDK image"; a static string */
};

/* 0, or the negative errno of a read that failed. `file_size` is in bytes. */
int probe_store(struct store *file, uint64_t file_size, struct probe *probe);

#endif
