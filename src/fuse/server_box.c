/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/server_box.h"

#include "store/nbd.h"
#include "store/nbdkit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX  48
#define NAMED_MAX  8 /* that addresses and the user's home name */
#define NAME_BYTES 4096

/* What the C library reads to find a server by its name, and libnbd to trust it. */
static const char *const network_files[] = {
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl/certs",
    "/etc/pki",
    "/etc/gnutls",
    "/etc/crypto-policies",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/ca-certificates",
    "/usr/share/crypto-policies",
    "/dev/null",
    "/dev/urandom",
};

struct files {
    const char *list[FILES_MAX];
    size_t count;
    char named[NAMED_MAX][NAME_BYTES];
    size_t named_count;
};

static void add(struct files *files, const char *path)
{
    if (files->count < FILES_MAX - 1) {
        files->list[files->count++] = path;
    }
}

static void add_named(struct files *files, const char *directory, size_t length, const char *rest)
{
    if (files->named_count < NAMED_MAX && length + strlen(rest) < NAME_BYTES) {
        char *path = files->named[files->named_count++];

        snprintf(path, NAME_BYTES, "%.*s%s", (int)length, directory, rest);
        add(files, path);
    }
}

/* The files that an address names for TLS. */
static void add_of_address(struct files *files, const char *address)
{
    static const char *const names[] = {"tls-certificates=", "tls-psk-file="};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *found = strstr(address, names[i]);

        if (found != NULL) {
            found += strlen(names[i]);
            add_named(files, found, strcspn(found, "&#"), "");
        }
    }
}

/* Of each file of the chain that is on a server. *local: one is on a server of our own. */
static bool add_network(struct files *files, const struct image *image, bool *local)
{
    const char *home = getenv("HOME");
    bool any = false;

    for (; image != NULL; image = image->backing) {
        const char *const names[] = {image->path, image->data_file_path};

        for (size_t i = 0; i < 2; i++) {
            if (names[i] != NULL && nbdkit_is_address(names[i])) {
                *local = true;
            } else if (names[i] != NULL && store_nbd_is_address(names[i])) {
                add_of_address(files, names[i]);
                any = true;
            }
        }
    }
    for (size_t i = 0; any && i < sizeof(network_files) / sizeof(network_files[0]); i++) {
        add(files, network_files[i]);
    }
    if (any && home != NULL) {
        add_named(files, home, strlen(home), "/.pki");
        add_named(files, home, strlen(home), "/.config/pki");
    }
    return any;
}

int server_box_enter(const struct image *image, const struct mount_options *options,
                     struct box *box, struct error *error)
{
    struct box_needs needs = {.fuse_device = true, .io_uring = options->io_uring.value};
    struct files *files;
    const char *missing;

    *box = (struct box){0};
    if (options->sandbox.value == MOUNT_SANDBOX_OFF) {
        return 0;
    }
    files = calloc(1, sizeof(*files));
    if (files == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    needs.network = add_network(files, image, &needs.local_server);
    needs.read = files->list;
    box_enter(&needs, box);
    free(files);
    missing = box_missing(box);
    if (missing != NULL && options->sandbox.value == MOUNT_SANDBOX_STRICT) {
        return error_set(error, EPERM, "sandbox=strict: %s; sandbox=on does without", missing);
    }
    if (missing != NULL) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "the sandbox is not whole: %s; all else of it holds (sandbox=off does without it)",
                 missing);
    }
    return 0;
}

bool server_box_opens_device(const struct box *box)
{
    return box->landlock || !box->calls;
}
