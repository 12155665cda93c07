/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "guest/filesystem.h"

#include "util/printable.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef HAVE_BLKID

#include <blkid/blkid.h>

bool filesystem_available(void)
{
    return true;
}

static void take(blkid_probe probe, const char *name, char *to, size_t size)
{
    const char *value;

    if (blkid_probe_lookup_value(probe, name, &value, NULL) == 0) {
        snprintf(to, size, "%s", value);
        to[printable_cut(to, strlen(to))] = '\0';
        printable_clean(to);
    }
}

static void fill(blkid_probe probe, struct filesystem_found *found)
{
    static const struct {
        const char *word;
        enum filesystem_usage usage;
    } usages[] = {
        {"filesystem", FILESYSTEM_MOUNT},
        {"raid", FILESYSTEM_RAID},
        {"crypto", FILESYSTEM_CRYPTO},
        {"other", FILESYSTEM_SWAP},
    };
    const char *usage = "";

    take(probe, "TYPE", found->type, sizeof(found->type));
    take(probe, "LABEL", found->label, sizeof(found->label));
    take(probe, "UUID", found->uuid, sizeof(found->uuid));
    (void)blkid_probe_lookup_value(probe, "USAGE", &usage, NULL);
    for (size_t i = 0; i < sizeof(usages) / sizeof(usages[0]); i++) {
        if (strcmp(usage, usages[i].word) == 0) {
            found->usage = usages[i].usage;
        }
    }
}

int filesystem_recognise(int descriptor, uint64_t offset, uint64_t size,
                         struct filesystem_found *found)
{
    blkid_probe probe;
    int result;

    memset(found, 0, sizeof(*found));
    if (offset > INT64_MAX || size > INT64_MAX) {
        return -EOVERFLOW;
    }
    probe = blkid_new_probe();
    if (probe == NULL) {
        return -ENOMEM;
    }
    errno = 0;
    if (blkid_probe_set_device(probe, descriptor, (blkid_loff_t)offset, (blkid_loff_t)size) != 0) {
        result = errno != 0 ? -errno : -EIO;
        blkid_free_probe(probe);
        return result;
    }
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL |
                                                 BLKID_SUBLKS_UUID | BLKID_SUBLKS_USAGE);
    result = blkid_do_safeprobe(probe); /* 0: found; 1: nothing; -2: several; -1: an error */
    if (result == 0) {
        fill(probe, found);
    } else if (result == -2) {
        found->usage = FILESYSTEM_AMBIGUOUS;
    }
    blkid_free_probe(probe);
    return result == -1 ? -EIO : 0;
}

#else

bool filesystem_available(void)
{
    return false;
}

int filesystem_recognise(int descriptor, uint64_t offset, uint64_t size,
                         struct filesystem_found *found)
{
    (void)descriptor;
    (void)offset;
    (void)size;
    memset(found, 0, sizeof(*found));
    return -ENOTSUP;
}

#endif
