/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "fuse/server_box.h"

#include "store/nbd.h"
#include "store/nbdkit.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES_MAX 48
#define NAMED_MAX 8 /* that addresses and the user's home name */

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
    char *named[NAMED_MAX];
    size_t named_count;
};

static void release(struct files *files)
{
    while (files->named_count > 0) {
        free(files->named[--files->named_count]);
    }
    free(files);
}

static void add(struct files *files, const char *path)
{
    if (files->count < FILES_MAX - 1) {
        files->list[files->count++] = path;
    }
}

static void add_named(struct files *files, const char *directory, size_t length, const char *rest)
{
    char *path;

    if (files->named_count < NAMED_MAX &&
        asprintf(&path, "%.*s%s", (int)length, directory, rest) >= 0) {
        files->named[files->named_count++] = path;
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

/*
 * To end a thread by pthread_cancel(), as libfuse ends its workers, glibc loads a library then, and
 * aborts the process where it cannot, for want of a descriptor say. So that is done now, where it
 * could not be linked.
 */
static int load_what_ends_threads(void)
{
#if defined(__GLIBC__) && !defined(HAVE_LINKED_LIBGCC_S)
    if (dlopen("libgcc_s.so.1", RTLD_NOW) == NULL) {
        return -EMFILE;
    }
#endif
    return 0;
}

/* 0 or a negative errno. */
static int seal_and_load(struct steward *steward, const struct box_needs *needs,
                         struct error *error)
{
    int r = steward_seal(steward, needs);

    r = r == 0 ? load_what_ends_threads() : r;
    return r == 0 ? 0 : error_set(error, -r, "the server cannot begin: %s", strerror(-r));
}

static int enter(const struct image *image, struct steward *steward, bool is_strict,
                 const struct box_needs *needs, struct box *box, struct error *error)
{
    const struct box_helper helper = {.take = steward_take_filter, .context = steward};
    const char *missing;
    int r = seal_and_load(steward, needs, error);

    if (r != 0) {
        return r;
    }
    box_enter(needs, &helper, box);
    missing = box_missing(box);
    if (missing != NULL && is_strict) {
        return error_set(error, EPERM, "sandbox=strict: %s; sandbox=on does without", missing);
    }
    if (missing != NULL) {
        log_line(image->log, LOG_LEVEL_WARNING,
                 "the sandbox is not whole: %s; all else of it holds (sandbox=off does without it)",
                 missing);
    }
    return 0;
}

int server_box_enter(const struct image *image, const struct mount_options *options,
                     struct steward *steward, struct box *box, struct error *error)
{
    struct box_needs needs = {.fuse_device = true, .io_uring = options->io_uring.value};
    struct files *files;
    int r;

    *box = (struct box){0};
    if (options->sandbox.value == MOUNT_SANDBOX_OFF) {
        return seal_and_load(steward, NULL, error);
    }
    files = calloc(1, sizeof(*files));
    if (files == NULL) {
        return error_set(error, ENOMEM, "out of memory for the mount");
    }
    needs.network = add_network(files, image, &needs.local_server);
    needs.read = files->list;
    r = enter(image, steward, options->sandbox.value == MOUNT_SANDBOX_STRICT, &needs, box, error);
    release(files);
    return r;
}

bool server_box_opens_device(const struct box *box)
{
    return box->landlock || !box->calls;
}
