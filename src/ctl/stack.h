/* SPDX-License-Identifier: MIT */
/*
 * What stands on each running qcow2fs: loop devices on its raw disk, the file systems that are
 * mounted from these, and the FUSE programs that have the disk open. Found by looking at
 * the kernel's lists each time; nothing of it is kept anywhere.
 */
#ifndef CTL_STACK_H
#define CTL_STACK_H

#include "util/error.h"
#include "util/loop.h"
#include "util/registry.h"

#include <stddef.h>

enum stack_kind {
    STACK_MOUNT, /* mounted by the kernel from a loop device */
    STACK_FUSE,  /* mounted by a FUSE program that has the disk open */
};

struct stack_mount {
    enum stack_kind kind;
    char *path;  /* where */
    unsigned id; /* of the mount */
    pid_t pid;   /* of the FUSE program */
};

struct stack {
    struct registry_record daemon;
    int descriptor;    /* its file, for registry_wait() */
    int process;       /* for signals (pidfd), or -1 */
    bool is_unmounted; /* its device is not seen (any more): it has no mount point then, ... */
    char *was_at;      /* ... but this, which its record has; or empty */
    unsigned mount_id; /* of what is at its mount point, as that is called now; 0: not seen */
    char *other_place; /* where its disk is mounted as well, or NULL: the first of these; */
    unsigned other_id; /* that mount */
    char *source;      /* what the mount table calls its disk, or NULL: it is not in there */
    struct loop_status *loops;
    size_t loop_count;
    struct stack_mount *mounts; /* in the order of mounting */
    size_t mount_count;
};

struct stacks {
    struct stack *list;
    size_t count;
    struct stack **by_device; /* all whose device is known, in the order of these */
    size_t device_count;
    size_t silent_count; /* loop devices that may be on one of them, which nobody can tell ... */
    char silent[LOOP_NAME_MAX]; /* ... and one of these */
};

/* All of this user, or, for root, of everybody. 0 or -ENOMEM. stacks_release() it. */
int stacks_find(struct stacks *stacks);
void stacks_release(struct stacks *stacks);

/*
 * The one that `path` belongs to: an image, by whatever name it has now, a mount point, a raw file,
 * a loop device or what is mounted from it. NULL with a sentence: -ENOENT, or -ENOTUNIQ for an
 * image that is mounted more than once, or -ESTALE where something else is mounted over it.
 */
struct stack *stacks_choose(struct stacks *stacks, const char *path, struct error *error);

/*
 * The one that `path` belongs to and that writes to its image, in *found; NULL: there is none.
 * Where `path` is the image, the record's is that name then. 0, or a negative errno with a
 * sentence: -ENOTUNIQ as above.
 */
int stacks_find_writer(struct stacks *stacks, const char *path, struct stack **found,
                       struct error *error);

/* Whether the file at `path` is its image. */
bool stack_has_image(const struct stack *stack, const char *path);

/*
 * 0 where the file that its record names is its image still, or nobody can tell; else -ESTALE with
 * a sentence. For who opens that file.
 */
int stack_check_image(const struct stack *stack, struct error *error);

/*
 * Of a path that belongs to none that writes to its image: -EROFS with a sentence where it is a
 * place at which an image is mounted, and not the image itself; else 0.
 */
int stacks_refuse_reader(const struct stacks *stacks, const char *path, struct error *error);

/*
 * Whether its disk is mounted where this process does not see it, in the mount namespace of its
 * daemon; `path` then says where that is, there.
 */
bool stack_is_elsewhere(const struct stack *stack, char *path, size_t size);

/* -EBUSY with a sentence, for what was named and is mounted so. */
int stack_refuse_elsewhere(const struct stack *stack, const char *named, const char *path,
                           struct error *error);

/* Up to three processes that use what is mounted at `path`, as "bash (12), vi (13)"; or "". */
void stack_users(const char *path, char *text, size_t size);

/* Likewise those that use its disk, which may be mounted nowhere any more, ... */
void stack_device_users(const struct stack *stack, char *text, size_t size);

/* ... and those that have the loop device, or a partition of it, open. */
void stack_loop_users(const struct loop_status *loop, char *text, size_t size);

#endif
