/* SPDX-License-Identifier: MIT */
/*
 * What stack.c (daemons, loop devices, mounts), stack_programs.c (who has a disk open) and
 * stack_choose.c (which one is meant) share.
 */
#ifndef CTL_STACK_INTERNAL_H
#define CTL_STACK_INTERNAL_H

#include "ctl/stack.h"

#include <sys/types.h>

/* Room for one more of `size` bytes, all zero; NULL when memory ran out. */
void *stack_append(void **list, size_t *count, size_t size);

/* st_dev of the files of its mount; 0: unknown. */
dev_t stack_device(const struct stack *stack);

/* Whose disk has that device, or NULL. */
struct stack *stacks_of_device(const struct stacks *stacks, dev_t device);

/* `path` is copied. 0 or -ENOMEM. */
int stack_add_mount(struct stack *stack, enum stack_kind kind, const char *path, unsigned id,
                    pid_t pid);

/*
 * What a process that has a disk open has mounted, as its arguments say. Whose arguments name no
 * such mount is looked at further, as its open files are many more, only where nobody's name one of
 * the mounts. 0 or a negative errno.
 */
int stacks_add_programs(struct stacks *stacks);

#endif
