/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "scratch.h"
#include "suite.h"
#include "util/memory.h"

#include <errno.h>
#include <string.h>

#include <sys/stat.h>

#define MACHINE (UINT64_C(8) << 30)

static void directory(const char *name)
{
    ck_assert(mkdir(name, 0700) == 0 || errno == EEXIST);
}

static void file(const char *name, const char *text)
{
    scratch_file(name, text, strlen(text));
}

START_TEST(without_limits_it_is_the_memory_of_the_machine)
{
    ck_assert_uint_eq(memory_size_in(MACHINE, "", "none"), MACHINE);
    ck_assert_uint_eq(memory_size_in(MACHINE, "0::/\n", "none"), MACHINE);
    ck_assert_uint_eq(memory_size_in(MACHINE, "4:memory:/a/b\n0::/\n", "none"), MACHINE);
}
END_TEST

START_TEST(the_least_limit_of_a_group_and_those_around_it_counts)
{
    directory("v2");
    directory("v2/a");
    directory("v2/a/b");
    file("v2/a/memory.max", "1048576\n");
    file("v2/a/b/memory.max", "max\n");
    ck_assert_uint_eq(memory_size_in(MACHINE, "0::/a/b\n", "v2"), 1048576);
    file("v2/a/b/memory.max", "4096\n");
    ck_assert_uint_eq(memory_size_in(MACHINE, "1:cpu:/\n0::/a/b\n", "v2"), 4096);
    file("v2/memory.max", "512\n"); /* of a container, which sees its own group as the root */
    ck_assert_uint_eq(memory_size_in(MACHINE, "0::/", "v2"), 512);
}
END_TEST

START_TEST(groups_of_the_first_version_count_too)
{
    directory("v1");
    directory("v1/memory");
    directory("v1/memory/a");
    file("v1/memory/memory.limit_in_bytes", "9223372036854771712\n");
    file("v1/memory/a/memory.limit_in_bytes", "65536\n");
    ck_assert_uint_eq(memory_size_in(MACHINE, "7:memory:/a\n3:cpu,cpuacct:/a\n", "v1"), 65536);
    ck_assert_uint_eq(memory_size_in(MACHINE, "7:memory:/\n", "v1"), MACHINE);
}
END_TEST

START_TEST(lines_that_are_none_do_no_harm)
{
    ck_assert_uint_eq(memory_size_in(MACHINE, "\n:\n::\n0:\nmemory\n0::a\n", "none"), MACHINE);
}
END_TEST

START_TEST(this_machine_has_some)
{
    ck_assert_uint_gt(memory_size(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory size");
    TCase *tcase = tcase_create("memory size");

    tcase_add_unchecked_fixture(tcase, scratch_enter, scratch_leave);
    tcase_add_test(tcase, without_limits_it_is_the_memory_of_the_machine);
    tcase_add_test(tcase, the_least_limit_of_a_group_and_those_around_it_counts);
    tcase_add_test(tcase, groups_of_the_first_version_count_too);
    tcase_add_test(tcase, lines_that_are_none_do_no_harm);
    tcase_add_test(tcase, this_machine_has_some);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
