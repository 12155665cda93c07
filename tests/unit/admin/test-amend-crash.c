/* SPDX-License-Identifier: MIT */
/* Amending an image in memory: what a crash leaves, at any moment. */
#include "config.h"

#include "amend_case.h"

#include "memory_store.h"
#include "suite.h"

#include "meta/format.h"
#include "meta/header.h"

#include <stdlib.h>
#include <string.h>

struct exploration {
    struct store *before, *after;
    const struct amend_change *change;
    struct amend_shown *shown;
    struct memory_log *log;
    unsigned states;
};

/* The fields that are amended: the version, the width of the refcounts, the features. */
static bool same_facts(struct store *a, struct store *b)
{
    struct header *of_a, *of_b;
    struct error error = {0};
    bool same;

    ck_assert_msg(header_read(a, memory_store_size(a), "a", &of_a, &error) == 0, "%s", error.text);
    ck_assert_msg(header_read(b, memory_store_size(b), "b", &of_b, &error) == 0, "%s", error.text);
    same = of_a->version == of_b->version && of_a->refcount_order == of_b->refcount_order &&
           of_a->compatible_features == of_b->compatible_features &&
           of_a->incompatible_features == of_b->incompatible_features &&
           (of_a->backing_file == NULL) == (of_b->backing_file == NULL) &&
           (of_a->backing_format == NULL) == (of_b->backing_format == NULL) &&
           (of_a->backing_file == NULL || strcmp(of_a->backing_file, of_b->backing_file) == 0);
    header_free(of_a);
    header_free(of_b);
    return same;
}

/* R6: what had a meaning before has changed only if the unknown bit is not there any more. */
static void expect_autoclear(struct store *before, struct store *state)
{
    size_t size = memory_store_size(before);

    if (disk_u32(state, HEADER_VERSION) > 2 &&
        (memory_store_size(state) < size || !same_facts(before, state) ||
         memcmp(memory_store_data(before) + AMEND_CLUSTER, memory_store_data(state) + AMEND_CLUSTER,
                size - AMEND_CLUSTER) != 0)) {
        ck_assert_uint_eq(disk_u64(state, HEADER_AUTOCLEAR_FEATURES), 0);
    }
}

/* Old or new, sound but for leaks, showing the same; and the second run completes it. */
static void judge(struct exploration *exploration, struct store *state, bool again)
{
    struct store *completed;

    exploration->states++;
    expect_autoclear(exploration->before, state);
    amend_case_expect(state, exploration->shown);
    if (again) {
        completed = amend_case_apply(state, exploration->change, NULL, 0);
        expect_sound(completed, true);
        ck_assert(same_facts(completed, exploration->after));
        amend_case_expect(completed, exploration->shown);
        store_close(completed);
    }
    amend_case_mend(state);
    expect_sound(state, true);
    ck_assert(same_facts(state, exploration->before) || same_facts(state, exploration->after));
    amend_case_expect(state, exploration->shown);
    store_close(state);
}

static struct store *state_at(const struct exploration *exploration, const struct store *of,
                              size_t count)
{
    struct store *before = exploration->before;
    struct store *state = memory_store_from(memory_store_data(before), memory_store_size(before));

    memory_log_replay(exploration->log, 0, count, of, state);
    return state;
}

/* Of a write the first sector alone, and all but it: no host promises more. */
static void judge_torn(struct exploration *exploration, const struct store *of, size_t stable,
                       size_t at)
{
    const struct memory_log_entry *entry = memory_log_at(exploration->log, at);
    size_t first = AMEND_SECTOR - entry->offset % AMEND_SECTOR;
    struct store *state;

    if (entry->kind != MEMORY_LOG_WRITE || entry->length <= first) {
        return;
    }
    state = state_at(exploration, of, stable);
    ck_assert_int_eq(store_write(state, entry->offset, entry->data, first), 0);
    judge(exploration, state, false);
    state = state_at(exploration, of, stable);
    ck_assert_int_eq(store_write(state, entry->offset + first, (uint8_t *)entry->data + first,
                                 entry->length - first),
                     0);
    judge(exploration, state, false);
}

/* Every prefix; and upon what is stable each later write alone, whole and torn. */
static void explore(struct exploration *exploration, const struct store *of)
{
    size_t stable = 0, at;

    for (at = 0; at < memory_log_count(exploration->log); at++) {
        judge(exploration, state_at(exploration, of, at), true);
        if (memory_log_at(exploration->log, at)->kind == MEMORY_LOG_SYNC) {
            stable = at;
        } else {
            struct store *state = state_at(exploration, of, stable);

            memory_log_replay(exploration->log, at, at + 1, of, state);
            judge(exploration, state, false);
            judge_torn(exploration, of, stable, at);
        }
    }
    judge(exploration, state_at(exploration, of, at), true);
}

/* As amend_case_apply(), with the log, whose entries are of a store that is gone by then. */
static struct store *amend_logged(struct exploration *exploration, const struct store **of)
{
    exploration->log = memory_log_create();
    exploration->after =
        amend_case_apply(exploration->before, exploration->change, exploration->log, 0);
    ck_assert_uint_gt(memory_log_count(exploration->log), 0);
    *of = memory_log_at(exploration->log, 0)->store;
    return exploration->after;
}

/* `file` is closed. */
static void survive(struct store *file, const struct amend_change *change)
{
    struct exploration exploration = {.before = file, .change = change};
    const struct store *of;

    exploration.shown = calloc(1, sizeof(*exploration.shown));
    ck_assert_ptr_nonnull(exploration.shown);
    amend_case_show(file, exploration.shown);
    expect_sound(amend_logged(&exploration, &of), false);
    ck_assert(!same_facts(exploration.before, exploration.after));
    amend_case_expect(exploration.after, exploration.shown);
    explore(&exploration, of);
    ck_assert_uint_gt(exploration.states, memory_log_count(exploration.log));
    memory_log_destroy(exploration.log);
    store_close(exploration.after);
    store_close(file);
    free(exploration.shown);
}

START_TEST(a_crash_on_the_way_down_leaves_the_old_image_or_the_new_one)
{
    const struct amend_change change = {.version = 2};

    survive(amend_case_make_of(3, _i % 2 == 1, _i >= 2), &change);
}
END_TEST

START_TEST(a_crash_on_the_way_up_leaves_the_old_image_or_the_new_one)
{
    const struct amend_change change = {
        .version = 3,
        .lazy_refcounts = {.set = true, .value = true},
    };

    survive(amend_case_make(2, _i == 1), &change);
}
END_TEST

START_TEST(a_crash_while_refcounts_change_their_width_leaves_one_of_both)
{
    const struct amend_change change = {.refcount_bits = _i == 0 ? 64 : 4};

    survive(amend_case_make(3, true), &change);
}
END_TEST

START_TEST(a_crash_while_lazy_refcounts_are_switched_leaves_one_of_both)
{
    const struct amend_change change = {.lazy_refcounts = {.set = true, .value = true}};

    survive(amend_case_make(3, true), &change);
}
END_TEST

START_TEST(a_crash_while_the_backing_file_is_renamed_leaves_one_of_both)
{
    static const char *const names[] = {"b", "a name that is longer than the one before it was, "
                                             "so that all moves.raw"};
    const struct amend_change change = {.backing_file = names[_i], .backing_format = "raw"};

    survive(amend_case_make(3, true), &change);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("amend, crash");
    TCase *tcase = tcase_create("amend");

    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, a_crash_on_the_way_down_leaves_the_old_image_or_the_new_one, 0, 4);
    tcase_add_loop_test(tcase, a_crash_on_the_way_up_leaves_the_old_image_or_the_new_one, 0, 2);
    tcase_add_loop_test(tcase, a_crash_while_refcounts_change_their_width_leaves_one_of_both, 0, 2);
    tcase_add_test(tcase, a_crash_while_lazy_refcounts_are_switched_leaves_one_of_both);
    tcase_add_loop_test(tcase, a_crash_while_the_backing_file_is_renamed_leaves_one_of_both, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
