/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/audit_internal.h"

#include "disk/filename.h"
#include "meta/header.h"
#include "store/opener.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file that an image names. */
struct named {
    struct audit *audit;
    const struct inspection *image;
    const char *what; /* "backing file" */
    const char *name; /* as it is recorded */
    const char *path; /* of the file, NULL where it is none */
    /* The codes of what is found. */
    const char *protocol, *absolute, *outside, *symlink;
};

/* The directory in which the file really lies; NULL when that cannot be told. */
static char *real_directory(const char *path)
{
    char *real = opener_real_path(path);
    char *slash = real != NULL ? strrchr(real, '/') : NULL;

    if (slash != NULL) {
        slash[slash == real ? 1 : 0] = '\0';
    }
    return real;
}

/* Whether `directory` is `top` or below it; both are real paths. */
static bool is_below(const char *directory, const char *top)
{
    size_t length = strlen(top);

    return strncmp(directory, top, length) == 0 &&
           (directory[length] == '\0' || directory[length] == '/' || top[length - 1] == '/');
}

static void find_outside(const struct named *named)
{
    char *top = real_directory(named->image->path);
    char *directory = real_directory(named->path);

    if (top != NULL && directory != NULL && !is_below(directory, top)) {
        audit_add(named->audit, AUDIT_WARNING, named->outside, named->image,
                  "its %s '%s' lies outside of its own directory, in %s", named->what, named->name,
                  directory);
    }
    free(top);
    free(directory);
}

static void find_symlink(struct audit *audit, const struct inspection *image, const char *code,
                         const char *what, const char *path)
{
    char target[PATH_MAX];
    ssize_t length = opener_read_link(path, target, sizeof(target));

    if (length >= 0) {
        audit_add(audit, AUDIT_NOTE, code, image, "%s %s is a symbolic link to '%s'", what, path,
                  target);
    }
}

static void find_name(const struct named *named)
{
    size_t protocol = filename_protocol(named->name);

    if (protocol > 0) {
        audit_add(named->audit, AUDIT_WARNING, named->protocol, named->image,
                  "its %s is '%s': not a path, but for QEMU the protocol '%.*s:'", named->what,
                  named->name, (int)protocol, named->name);
    } else if (named->name[0] == '/') {
        audit_add(named->audit, AUDIT_WARNING, named->absolute, named->image,
                  "its %s is the absolute path '%s': on another host that may be another file",
                  named->what, named->name);
    }
    if (named->path != NULL) {
        char what[64] = "its ";

        strcat(what, named->what);
        find_outside(named);
        find_symlink(named->audit, named->image, named->symlink, what, named->path);
    }
}

void audit_names(struct audit *audit, const struct inspection *image)
{
    const struct header *header = image->header;

    find_symlink(audit, image, "image-symlink", "the path", image->path);
    if (header != NULL && header->backing_file != NULL) {
        const struct named backing = {
            audit,
            image,
            "backing file",
            header->backing_file,
            image->backing_path,
            "backing-file-protocol",
            "backing-file-absolute",
            "backing-file-outside",
            "backing-file-symlink",
        };

        find_name(&backing);
        if (header->backing_format == NULL) {
            audit_add(audit, AUDIT_WARNING, "backing-format-unrecorded", image,
                      "no format is recorded for its backing file: it is guessed from bytes that "
                      "whoever could write to that disk has chosen");
        }
    }
    if (header != NULL && header->data_file != NULL) {
        const struct named data = {
            audit,
            image,
            "data file",
            header->data_file,
            image->data_file_path,
            "data-file-protocol",
            "data-file-absolute",
            "data-file-outside",
            "data-file-symlink",
        };

        find_name(&data);
    }
    if (image->data_file_found && image->data_file_info.size > image->virtual_size) {
        audit_add(audit, AUDIT_NOTE, "data-file-longer", image,
                  "its data file %s is longer than the disk: what lies behind is not shown",
                  image->data_file_path);
    }
}
