/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "suite.h"
#include "util/log.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NEVER UINT64_MAX /* as refilled_at_ns: no token is added, however long a test takes */

/* A sink that remembers the last line. */
struct memory {
    unsigned lines;
    bool busy;
    bool overlapped;
    enum log_level level;
    char last[8192];
};

static void remember(void *context, enum log_level level, const char *line)
{
    struct memory *memory = context;

    memory->overlapped = memory->overlapped || memory->busy;
    memory->busy = true;
    memory->lines++;
    memory->level = level;
    snprintf(memory->last, sizeof(memory->last), "%s", line);
    memory->busy = false;
}

static struct memory memory;
static struct log log_;

static void setup(void)
{
    memset(&memory, 0, sizeof(memory));
    log_init(&log_, remember, &memory);
    log_.refilled_at_ns = NEVER;
}

static void teardown(void)
{
    log_release(&log_);
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

START_TEST(a_line_reaches_the_sink_with_its_level)
{
    log_line(&log_, LOG_LEVEL_INFO, "mounted %s", "disk.qcow2");
    ck_assert_uint_eq(memory.lines, 1);
    ck_assert_int_eq(memory.level, LOG_LEVEL_INFO);
    ck_assert_str_eq(memory.last, "mounted disk.qcow2");

    log_limited(&log_, LOG_LEVEL_ERROR, "%s", "broken");
    ck_assert_uint_eq(memory.lines, 2);
    ck_assert_int_eq(memory.level, LOG_LEVEL_ERROR);
    ck_assert_str_eq(memory.last, "broken");
}
END_TEST

START_TEST(without_a_log_nothing_happens)
{
    log_line(NULL, LOG_LEVEL_ERROR, "%s", "nobody reads this");
    log_limited(NULL, LOG_LEVEL_ERROR, "%s", "nor this");
}
END_TEST

START_TEST(control_characters_do_not_reach_the_sink)
{
    log_line(&log_, LOG_LEVEL_WARNING, "snapshot '%s'", "a\x1b[2J\nb\xc2\x9b\xc3\xa9\xff");
    ck_assert_str_eq(memory.last, "snapshot 'a?[2J?b??\xc3\xa9?'");
}
END_TEST

START_TEST(a_very_long_line_is_cut_and_still_says_what_was_suppressed)
{
    log_.suppressed = UINT64_MAX;
    log_line(&log_, LOG_LEVEL_ERROR, "%0100000d", 0);
    ck_assert_uint_lt(strlen(memory.last), 4200);
    ck_assert_ptr_nonnull(
        strstr(memory.last, "000 (18446744073709551615 earlier lines were suppressed)"));
}
END_TEST

START_TEST(redirected_lines_go_to_the_new_sink_alone)
{
    struct memory other = {0};

    log_redirect(&log_, remember, &other);
    log_line(&log_, LOG_LEVEL_INFO, "here");
    ck_assert_uint_eq(memory.lines, 0);
    ck_assert_uint_eq(other.lines, 1);
    ck_assert_str_eq(other.last, "here");
}
END_TEST

START_TEST(a_new_log_has_a_full_burst)
{
    for (unsigned i = 0; i < 3 * LOG_LIMIT_BURST; i++) {
        log_limited(&log_, LOG_LEVEL_ERROR, "line %u", i);
    }
    ck_assert_uint_eq(memory.lines, LOG_LIMIT_BURST);
    ck_assert_uint_eq(log_.suppressed, 2 * LOG_LIMIT_BURST);
}
END_TEST

START_TEST(unlimited_lines_are_never_suppressed)
{
    log_.tokens = 0;
    for (unsigned i = 0; i < 3 * LOG_LIMIT_BURST; i++) {
        log_line(&log_, LOG_LEVEL_INFO, "line %u", i);
    }
    ck_assert_uint_eq(memory.lines, 3 * LOG_LIMIT_BURST);
}
END_TEST

START_TEST(the_next_line_says_how_many_were_suppressed_once)
{
    log_.tokens = 0;
    log_limited(&log_, LOG_LEVEL_ERROR, "lost");
    log_limited(&log_, LOG_LEVEL_ERROR, "lost");
    ck_assert_uint_eq(memory.lines, 0);

    log_.tokens = 2;
    log_limited(&log_, LOG_LEVEL_ERROR, "seen");
    ck_assert_str_eq(memory.last, "seen (2 earlier lines were suppressed)");
    log_limited(&log_, LOG_LEVEL_ERROR, "seen");
    ck_assert_str_eq(memory.last, "seen");

    log_limited(&log_, LOG_LEVEL_ERROR, "lost");
    log_line(&log_, LOG_LEVEL_INFO, "unmounted");
    ck_assert_str_eq(memory.last, "unmounted (1 earlier line was suppressed)");
}
END_TEST

START_TEST(tokens_come_back_at_the_rate_of_the_limit)
{
    uint64_t before = monotonic_ns() - UINT64_C(1000000000);
    double expected;

    /* In debt, so that however slow this test runs, the burst is not reached. */
    log_.tokens = -1e6;
    log_.refilled_at_ns = before;
    log_limited(&log_, LOG_LEVEL_ERROR, "lost");
    ck_assert_uint_eq(memory.lines, 0);
    ck_assert_uint_ge(log_.refilled_at_ns - before, UINT64_C(1000000000));
    expected = -1e6 + (double)(log_.refilled_at_ns - before) * 1e-9 * LOG_LIMIT_PER_SECOND;
    ck_assert_double_eq_tol(log_.tokens, expected, 1e-6);
}
END_TEST

START_TEST(a_token_that_came_back_writes_a_line)
{
    log_.tokens = 0.9;
    log_.refilled_at_ns = monotonic_ns() - UINT64_C(1000000000);
    log_limited(&log_, LOG_LEVEL_ERROR, "seen");
    ck_assert_uint_eq(memory.lines, 1);
}
END_TEST

START_TEST(tokens_never_exceed_the_burst)
{
    log_.refilled_at_ns = monotonic_ns() - UINT64_C(1000000000);
    log_limited(&log_, LOG_LEVEL_ERROR, "seen");
    ck_assert_double_eq(log_.tokens, LOG_LIMIT_BURST - 1);
}
END_TEST

#define WRITERS          4
#define LINES_PER_WRITER 500

static void *write_lines(void *context)
{
    (void)context;
    for (unsigned i = 0; i < LINES_PER_WRITER; i++) {
        log_line(&log_, LOG_LEVEL_INFO, "line %u", i);
        log_limited(&log_, LOG_LEVEL_ERROR, "limited %u", i);
    }
    return NULL;
}

START_TEST(the_sink_is_called_by_one_thread_at_a_time)
{
    pthread_t writers[WRITERS];

    for (unsigned i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(pthread_create(&writers[i], NULL, write_lines, NULL), 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(writers[i], NULL);
    }
    ck_assert(!memory.overlapped);
    ck_assert_uint_eq(memory.lines, WRITERS * LINES_PER_WRITER + LOG_LIMIT_BURST);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_line_reaches_the_sink_with_its_level);
    tcase_add_test(tests, without_a_log_nothing_happens);
    tcase_add_test(tests, control_characters_do_not_reach_the_sink);
    tcase_add_test(tests, a_very_long_line_is_cut_and_still_says_what_was_suppressed);
    tcase_add_test(tests, redirected_lines_go_to_the_new_sink_alone);
    tcase_add_test(tests, a_new_log_has_a_full_burst);
    tcase_add_test(tests, unlimited_lines_are_never_suppressed);
    tcase_add_test(tests, the_next_line_says_how_many_were_suppressed_once);
    tcase_add_test(tests, tokens_come_back_at_the_rate_of_the_limit);
    tcase_add_test(tests, a_token_that_came_back_writes_a_line);
    tcase_add_test(tests, tokens_never_exceed_the_burst);
    tcase_add_test(tests, the_sink_is_called_by_one_thread_at_a_time);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
