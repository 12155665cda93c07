/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "session.h"

#include "tools.h"

#include "crypto/cipher.h"
#include "disk/chain.h"
#include "meta/mapping_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- The stack ----------------------------------------------------------------------------- */

void stack_init(struct stack *stack, const char *path)
{
    *stack = (struct stack){.path = grab(strlen(path) + 1), .data_path = grab(strlen(path) + 6)};
    strcpy(stack->path, path);
    strcat(strcpy(stack->data_path, path), ".data");
    disk_init(&stack->disks[DISK_IMAGE], DISK_IMAGE, NULL, 0);
    disk_init(&stack->disks[DISK_DATA], DISK_DATA, NULL, 0);
    disk_init(&stack->backing, DISKS, NULL, 0);
}

void stack_release(struct stack *stack)
{
    disk_release(&stack->disks[DISK_IMAGE]);
    disk_release(&stack->disks[DISK_DATA]);
    disk_release(&stack->backing);
    free(stack->path);
    free(stack->data_path);
}

void stack_copy(struct stack *to, const struct stack *from)
{
    disk_copy(&to->disks[DISK_IMAGE], &from->disks[DISK_IMAGE]);
    disk_copy(&to->disks[DISK_DATA], &from->disks[DISK_DATA]);
    disk_copy(&to->backing, &from->backing);
    to->has_data_file = from->has_data_file;
    to->has_backing = from->has_backing;
    to->is_encrypted = from->is_encrypted;
}

/* --- Opening and closing ------------------------------------------------------------------- */

static void keep_line(void *context, enum log_level level, const char *line)
{
    struct session *session = context;

    (void)level;
    snprintf(session->last_line, sizeof(session->last_line), "%s", line);
}

/* The image opened the real data file, which has nothing to say: ours takes its place. */
static void put_data_file(struct session *session, struct stack *stack)
{
    struct image *image = session->image;

    if (image->data_file != image->file) {
        store_close(image->data_file);
        image->data_file = &stack->disks[DISK_DATA].store;
        image->active->source.data_file = image->data_file;
    }
}

/* As an overlay has a key that nothing in its file tells of; so QEMU can judge the tables. */
static int put_key(struct session *session, const struct stack *stack, struct error *error)
{
    static const struct cipher_kind kind = {"aes", "xts", "plain64", ""};
    static const uint8_t key[CIPHER_KEY_MAX] =
        "the explorer's two keys, which must not be the same";
    int result =
        stack->is_encrypted ? cipher_create(&kind, key, sizeof(key), &session->image->cipher) : 0;

    return result < 0 ? error_set(error, -result, "no key: %s", strerror(-result)) : 0;
}

static int put_backing(struct session *session, struct stack *stack, struct error *error)
{
    const struct image_options options = {.access = STORE_READ};
    const struct image_request request = {
        .path = "backing.raw",
        .what = "backing file",
        .format = IMAGE_RAW,
        .number = 1,
        .file = &stack->backing.store,
    };

    return stack->has_backing
               ? image_open_one(&request, &options, &session->log, &session->image->backing, error)
               : 0;
}

static int attach_cache(struct session *session, const struct session_options *options,
                        struct error *error)
{
    const struct cache_options usual = {.clean_interval = {.set = true}};
    struct cache_options tiny = usual;

    tiny.l2_size = (struct option_number){true, 1024};
    tiny.l2_entry_size = (struct option_number){true, 512};
    tiny.refcount_size = (struct option_number){true, CACHE_REFCOUNT_MIN_CLUSTERS *
                                                          session->image->header->cluster_size};
    return image_attach_cache(session->image, options->tiny_caches ? &tiny : &usual, error);
}

int session_open(struct session *session, struct stack *stack,
                 const struct session_options *options, struct error *error)
{
    const struct image_options image = {.access = options->writable ? STORE_WRITE : STORE_READ,
                                        .data_file =
                                            stack->has_data_file ? stack->data_path : NULL};
    const struct image_request request = {
        .path = stack->path,
        .what = "image",
        .format = IMAGE_QCOW2,
        .file = &stack->disks[DISK_IMAGE].store,
    };
    int result;

    session->writer = NULL;
    session->view = NULL;
    session->last_line[0] = '\0';
    log_init(&session->log, keep_line, session);
    result = image_open_one(&request, &image, &session->log, &session->image, error);
    if (result < 0) {
        log_release(&session->log);
        return result;
    }
    put_data_file(session, stack);
    result = put_backing(session, stack, error);
    if (result == 0) {
        result = put_key(session, stack, error);
    }
    if (result == 0) {
        result = attach_cache(session, options, error);
    }
    if (result == 0) {
        result = view_open_active(session->image, &session->view);
    }
    if (result == 0 && options->writable) {
        result = writer_open(session->image, &options->writer, &session->writer, error);
    }
    if (result < 0) {
        session_close(session);
    }
    return result;
}

int session_close(struct session *session)
{
    int result = 0;

    view_close(session->view);
    if (session->writer != NULL) {
        result = writer_close(session->writer);
    }
    image_close(session->image);
    log_release(&session->log);
    return result;
}
