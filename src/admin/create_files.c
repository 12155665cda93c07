/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "admin/create_files.h"

#include "disk/filename.h"
#include "disk/image.h"
#include "disk/probe.h"
#include "store/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- Which file a name means ------------------------------------------------------------- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

/* The directory that the path's last part is in; 0 or a negative errno. */
static int stat_directory(const char *path, struct stat *status)
{
    int length = (int)(base_name(path) - path);
    char *directory;
    int result;

    if (length == 0) {
        return stat(".", status) == 0 ? 0 : -errno;
    }
    if (asprintf(&directory, "%.*s", length, path) < 0) {
        return -ENOMEM;
    }
    result = stat(directory, status) == 0 ? 0 : -errno;
    free(directory);
    return result;
}

/* Whether both are, or would become, one file. */
static bool is_same_path(const char *a, const char *b)
{
    struct stat of_a, of_b;
    bool a_exists = stat(a, &of_a) == 0, b_exists = stat(b, &of_b) == 0;

    if (!a_exists && !b_exists) {
        if (strcmp(base_name(a), base_name(b)) != 0) {
            return false;
        }
        a_exists = stat_directory(a, &of_a) == 0;
        b_exists = stat_directory(b, &of_b) == 0;
    }
    return a_exists && b_exists && of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

static bool is_same_store(struct store *store, const char *path)
{
    struct store_info info;
    struct stat status;

    return path != NULL && stat(path, &status) == 0 && store_info(store, &info) == 0 &&
           info.device == status.st_dev && info.inode == status.st_ino;
}

/* --- The data file ------------------------------------------------------------------------ */

int create_files_resolve(struct create_files *files, struct error *error)
{
    const char *name = files->data_file;
    struct stat here, beside;
    int result;

    if (name == NULL) {
        return 0;
    }
    result = filename_resolve(files->image, "data file", name, false, &files->data_path, error);
    if (result < 0 || name[0] == '/') {
        return result;
    }
    if (stat(".", &here) == 0 && stat_directory(files->image, &beside) == 0 &&
        (here.st_dev != beside.st_dev || here.st_ino != beside.st_ino)) {
        return error_set(error, EINVAL,
                         "%s: the data file's name '%s' is relative: QEMU looks for it in the "
                         "current directory, qcow2fs beside the image, and these are not the same "
                         "here; give its absolute path, or work in the image's directory",
                         files->image, name);
    }
    return 0;
}

void create_files_release(struct create_files *files)
{
    free(files->data_path);
    files->data_path = NULL;
}

int create_files_check_names(const struct create_files *files, struct error *error)
{
    char *backing = NULL;
    int result = 0;

    if (files->data_path != NULL && is_same_path(files->image, files->data_path)) {
        return error_set(error, EINVAL,
                         "%s: is named as its own data file, too; give the data file another name",
                         files->image);
    }
    if (files->backing_file == NULL ||
        filename_resolve(files->image, "backing file", files->backing_file, false, &backing,
                         error) < 0) {
        return 0; /* a name that is not of a file here; checking it says so */
    }
    if (is_same_path(files->image, backing)) {
        result = error_set(error, ELOOP,
                           "%s: is named as its own backing file, too; give the new image another "
                           "name",
                           files->image);
    } else if (files->data_path != NULL && is_same_path(files->data_path, backing)) {
        result = error_set(error, EINVAL,
                           "%s: %s is named as its data file and as its backing file; give the "
                           "data file another name",
                           files->image, files->data_path);
    }
    free(backing);
    return result;
}

/* --- The backing file --------------------------------------------------------------------- */

static int unusable(const struct create_files *files, int result, const char *cause,
                    struct error *error)
{
    return error_set(error, -result, "%s: its backing file cannot be used: %s%s%s", files->image,
                     cause, files->remedy != NULL ? "; " : "",
                     files->remedy != NULL ? files->remedy : "");
}

/* No file of the chain may be one that will be written. */
static int check_chain(const struct create_files *files, const struct image *backing,
                       struct error *error)
{
    size_t count = 0;

    for (const struct image *each = backing; each != NULL; each = each->backing) {
        const char *written[] = {files->image, files->data_path};

        count++;
        for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++) {
            if (is_same_store(each->file, written[i]) ||
                is_same_store(each->data_file, written[i])) {
                return error_set(error, ELOOP,
                                 "%s: %s is a part of its backing chain already, through %s; give "
                                 "it another name",
                                 files->image, written[i], files->backing_file);
            }
        }
    }
    if (count + 1 > IMAGE_CHAIN_MAX) {
        return error_set(error, EMFILE,
                         "%s: would have %zu images behind it, at most %d are supported; shorten "
                         "the chain with qcow2ctl commit or rebase of one that is behind",
                         files->image, count, IMAGE_CHAIN_MAX - 1);
    }
    return 0;
}

static int check_qcow2(struct create_files *files, const char *path, struct log *log,
                       struct error *error)
{
    const struct image_options options = {
        .access = STORE_READ,
        .cache = STORE_CACHE_WRITEBACK,
        .names = {.rights = IMAGE_NAMES_PRIVATE, /* nothing of it is shown to anybody */
                  .follow = files->follow},
        .codec = CODEC_FASTEST,
    };
    struct error cause = {0};
    struct image *backing;
    int result = image_open(path, &options, log, &backing, &cause);

    if (result < 0) {
        return unusable(files, result, cause.text, error);
    }
    files->backing_size = backing->virtual_size;
    result = check_chain(files, backing, error);
    image_close(backing);
    return result;
}

/* Says what a file looks like; "" where that cannot be told. */
static const char *looks_like(struct store *file, uint64_t size, struct probe *probe)
{
    return probe_store(file, size, probe) == 0 ? probe->description : "";
}

static int open_raw(const struct create_files *files, const char *path, struct store **file,
                    struct store_info *info, struct error *error)
{
    const struct store_file_options options = {.access = STORE_READ,
                                               .cache = STORE_CACHE_WRITEBACK};
    struct error cause = {0};
    int result = store_file_open(path, "backing file", &options, file, &cause);

    if (result < 0) {
        return unusable(files, result, cause.text, error);
    }
    result = store_info(*file, info);
    if (result < 0) {
        store_close(*file);
        return unusable(files, result, strerror(-result), error);
    }
    return 0;
}

static int check_raw(struct create_files *files, const char *path, struct log *log,
                     struct error *error)
{
    struct store_info info;
    struct store *file;
    struct probe probe;
    int result = open_raw(files, path, &file, &info, error);

    if (result < 0) {
        return result;
    }
    files->backing_size = info.size;
    if (probe_store(file, info.size, &probe) == 0 &&
        (probe.class == PROBE_QCOW2 || probe.class == PROBE_DISK_IMAGE)) {
        log_line(log, LOG_LEVEL_WARNING,
                 "%s: its backing file %s looks like %s, but is taken as raw, as -F says",
                 files->image, path, probe.description);
    }
    store_close(file);
    return 0;
}

/* QEMU guessed formats once; a guest that can write to a raw disk can make it look like another. */
static int refuse_without_format(const struct create_files *files, const char *path,
                                 struct error *error)
{
    struct error ignored = {0};
    struct store_info info;
    struct probe probe = {0};
    struct store *file;
    const char *looks = "";

    if (open_raw(files, path, &file, &info, &ignored) == 0) {
        looks = looks_like(file, info.size, &probe);
        store_close(file);
    }
    return error_set(error, EINVAL,
                     "%s: the format of the backing file %s is not given, and guessing it would "
                     "trust whoever wrote to it%s%s; add %s",
                     files->image, files->backing_file, looks[0] != '\0' ? ": it looks like " : "",
                     looks,
                     looks[0] == '\0'             ? "-F raw or -F qcow2"
                     : probe.class == PROBE_QCOW2 ? "-F qcow2"
                                                  : "-F raw if that is what it is");
}

int create_files_check_backing(struct create_files *files, struct log *log, struct error *error)
{
    const char *format = files->backing_format;
    char *path;
    int result =
        filename_resolve(files->image, "backing file", files->backing_file, false, &path, error);

    if (result < 0) {
        return result;
    }
    if (format == NULL) {
        result = refuse_without_format(files, path, error);
    } else if (strcmp(format, "qcow2") == 0) {
        result = check_qcow2(files, path, log, error);
    } else if (strcmp(format, "raw") == 0 || strcmp(format, "file") == 0 ||
               strcmp(format, "host_device") == 0) {
        result = check_raw(files, path, log, error);
    } else {
        result =
            error_set(error, ENOTSUP,
                      "%s: the format '%s' of its backing file %s (-F) is none that qcow2fs "
                      "reads; convert it with qemu-img convert -O qcow2%s%s",
                      files->image, format, files->backing_file, files->remedy != NULL ? ", " : "",
                      files->remedy != NULL ? files->remedy : "");
    }
    free(path);
    return result;
}
