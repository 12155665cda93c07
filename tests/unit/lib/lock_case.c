/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "lock_case.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

struct store *lock_open(enum store_access access)
{
    struct store *store = NULL;
    struct error error;

    ck_assert_msg(store_file_open("a", "image", &(struct store_file_options){.access = access},
                                  &store, &error) == 0,
                  "%s", error.text);
    return store;
}

void lock_expect_busy(enum store_access access, const char *sentence)
{
    struct store *store = NULL;
    struct error error = {0};

    ck_assert_int_eq(store_file_open("a", "image", &(struct store_file_options){.access = access},
                                     &store, &error),
                     -EBUSY);
    ck_assert_int_eq(error.code, EBUSY);
    ck_assert_str_eq(error.text, sentence);
    ck_assert_ptr_null(store);
}

void lock_end_child(pid_t child)
{
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}
