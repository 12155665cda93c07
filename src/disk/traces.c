/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "disk/traces.h"

void traces_add(struct traces *traces, const char *path, const struct store_info *info)
{
    if (info->changes_atime) {
        traces->first = traces->count++ == 0 ? path : traces->first;
    }
}

void traces_add_image(struct traces *traces, const struct image *image)
{
    for (; image != NULL; image = image->backing) {
        struct store_info info;

        if (store_info(image->file, &info) == 0) {
            traces_add(traces, image->path, &info);
        }
        if (image->data_file != image->file && store_info(image->data_file, &info) == 0) {
            traces_add(traces, image->data_file_path, &info);
        }
    }
}

void traces_tell(const struct traces *traces, struct log *log, const char *how)
{
    if (traces->count > 0) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: reading it may change its time of access%s: only its owner, and root, can "
                 "prevent that; %s to leave no trace",
                 traces->first, traces->count > 1 ? " (and those of other files)" : "", how);
    }
}
