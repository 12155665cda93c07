/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "util/directory.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

int directory_is_empty(const char *path, bool *empty)
{
    DIR *stream = opendir(path);
    struct dirent *item;

    if (stream == NULL) {
        return -errno;
    }
    *empty = true;
    while (*empty && (item = readdir(stream)) != NULL) {
        *empty = strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0;
    }
    closedir(stream);
    return 0;
}
