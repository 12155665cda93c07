/* SPDX-License-Identifier: MIT */
/* R8: what the gate knows, of few clusters and of many, and what it lets pass. */
#include "config.h"

#include "builder.h"
#include "header_case.h"
#include "memory_store.h"
#include "meta/format.h"
#include "meta/gate.h"
#include "suite.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLUSTER UINT64_C(512)

struct gate_case {
    struct store *file;
    struct header *header;
    struct gate *gate;
    unsigned hits;
    uint64_t hit_offset;
    const char *hit_table;
};

static void count_hit(void *context, uint64_t host_offset, const char *table)
{
    struct gate_case *gate_case = context;

    gate_case->hits++;
    gate_case->hit_offset = host_offset;
    gate_case->hit_table = table;
}

static void open_case(struct gate_case *gate_case)
{
    struct builder_options options = builder_defaults();
    struct builder *builder;

    options.cluster_bits = 9;
    builder = builder_create(&options);
    *gate_case = (struct gate_case){.file = builder_store(builder)};
    builder_destroy(builder);
    ck_assert_int_eq(header_read(gate_case->file, memory_store_size(gate_case->file),
                                 HEADER_CASE_NAME, &gate_case->header, NULL),
                     0);
    ck_assert_int_eq(gate_create(gate_case->header, gate_case->file, &gate_case->gate), 0);
    gate_set_owner(gate_case->gate, count_hit, gate_case);
}

static void close_case(struct gate_case *gate_case)
{
    gate_destroy(gate_case->gate);
    header_free(gate_case->header);
    store_close(gate_case->file);
}

START_TEST(what_a_write_is_of_says_what_it_may_overwrite)
{
    static const enum gate_use uses[] = {GATE_HEADER,         GATE_L1, GATE_REFCOUNT_TABLE,
                                         GATE_REFCOUNT_BLOCK, GATE_L2, GATE_OTHER};
    const uint64_t block = 1000 * CLUSTER, table = 2000 * CLUSTER, snapshot = 3000 * CLUSTER;
    struct gate_case subject;

    open_case(&subject);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_BLOCK, block), 0);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_L2, table), 0);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_SNAPSHOTS, snapshot), 0);
    for (unsigned i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        const struct {
            uint64_t host_offset;
            bool passes;
        } places[] = {
            {0, uses[i] == GATE_HEADER},
            {subject.header->l1_offset, uses[i] == GATE_L1},
            {subject.header->refcount_table_offset, uses[i] == GATE_REFCOUNT_TABLE},
            {block, uses[i] == GATE_REFCOUNT_BLOCK},
            {table, uses[i] == GATE_L2},
            {snapshot, false},
            {4000 * CLUSTER, true},
        };

        for (unsigned j = 0; j < sizeof(places) / sizeof(places[0]); j++) {
            ck_assert_msg((gate_check(subject.gate, uses[i], places[j].host_offset, 8) == NULL) ==
                              places[j].passes,
                          "use %u, place %u", i, j);
        }
    }
    close_case(&subject);
}
END_TEST

START_TEST(a_range_is_looked_at_as_a_whole)
{
    struct gate_case subject;

    open_case(&subject);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_L2, 1000 * CLUSTER), 0);
    for (uint64_t first = 800; first <= 1000; first++) {
        ck_assert_ptr_null(
            gate_check(subject.gate, GATE_OTHER, first * CLUSTER, (1000 - first) * CLUSTER));
        ck_assert_ptr_nonnull(
            gate_check(subject.gate, GATE_OTHER, first * CLUSTER, (1000 - first) * CLUSTER + 1));
    }
    ck_assert_ptr_nonnull(gate_check(subject.gate, GATE_OTHER, 1000 * CLUSTER + 511, 700));
    ck_assert_ptr_null(gate_check(subject.gate, GATE_OTHER, 1001 * CLUSTER, 700 * CLUSTER));
    gate_forget(subject.gate, GATE_TABLE_L2, 1000 * CLUSTER);
    ck_assert_ptr_null(gate_check(subject.gate, GATE_OTHER, 800 * CLUSTER, 300 * CLUSTER));
    close_case(&subject);
}
END_TEST

START_TEST(many_tables_are_known_wherever_they_lie)
{
    struct gate_case subject;

    open_case(&subject);
    for (uint64_t i = 1; i <= 20000; i++) {
        ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_L2, i * 641 * CLUSTER), 0);
    }
    for (uint64_t i = 1; i <= 20000; i++) {
        ck_assert_ptr_nonnull(gate_check(subject.gate, GATE_OTHER, i * 641 * CLUSTER, 1));
        ck_assert_ptr_null(
            gate_check(subject.gate, GATE_OTHER, (i * 641 + 1) * CLUSTER, 640 * CLUSTER));
    }
    close_case(&subject);
}
END_TEST

START_TEST(what_is_two_tables_is_remembered)
{
    struct gate_case subject;
    const char *table;
    uint64_t host_offset;

    open_case(&subject);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_BLOCK, 70 * CLUSTER), 0);
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_L2, 71 * CLUSTER), 0);
    ck_assert(!gate_conflict(subject.gate, &host_offset, &table));
    ck_assert_int_eq(gate_know(subject.gate, GATE_TABLE_L2, 70 * CLUSTER), 0);
    ck_assert(gate_conflict(subject.gate, &host_offset, &table));
    ck_assert_uint_eq(host_offset, 70 * CLUSTER);
    ck_assert_str_eq(table, "refcount blocks");
    close_case(&subject);
}
END_TEST

START_TEST(a_hit_is_told_once_and_nothing_is_written)
{
    struct gate_case subject;
    unsigned writes;

    open_case(&subject);
    writes = memory_store_calls(subject.file, MEMORY_STORE_WRITE);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_int_eq(
            gate_write(subject.gate, GATE_L2, subject.header->l1_offset, "12345678", 8), -EIO);
    }
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_WRITE), writes);
    ck_assert_uint_eq(subject.hits, 1);
    ck_assert_uint_eq(subject.hit_offset, subject.header->l1_offset);
    ck_assert_str_eq(subject.hit_table, "L1 table");
    ck_assert_int_eq(gate_write(subject.gate, GATE_L1, subject.header->l1_offset, "12345678", 8),
                     0);
    ck_assert_uint_eq(memory_store_calls(subject.file, MEMORY_STORE_WRITE), writes + 1);
    close_case(&subject);
}
END_TEST

/* From a place of 64 clusters to one of one cluster, and back. */
#define MOVES        2000000
#define LONG_PLACE   (100 * CLUSTER)
#define SHORT_PLACE  (1000 * CLUSTER)
#define LONG_LENGTH  (64 * CLUSTER)
#define SHORT_LENGTH CLUSTER

struct mover {
    struct header *header;
    _Atomic bool ended;
};

static void *move_tables(void *context)
{
    struct mover *mover = context;

    for (unsigned i = 0; i < MOVES; i++) {
        uint64_t offset = i % 2 == 0 ? SHORT_PLACE : LONG_PLACE;
        uint64_t length = i % 2 == 0 ? SHORT_LENGTH : LONG_LENGTH;

        header_move_l1(mover->header, offset, (uint32_t)(length / 8));
        header_move_refcount_table(mover->header, offset, (uint32_t)(length / CLUSTER));
        header_move_bitmaps(mover->header, offset, length, 1);
    }
    atomic_store(&mover->ended, true);
    return NULL;
}

START_TEST(a_table_that_moves_is_at_no_third_place)
{
    struct gate_case subject;
    struct mover mover;
    pthread_t thread;

    open_case(&subject);
    mover = (struct mover){.header = subject.header};
    ck_assert_int_eq(pthread_create(&thread, NULL, move_tables, &mover), 0);
    while (!atomic_load(&mover.ended)) {
        ck_assert_ptr_null(header_overlap(subject.header, HEADER_TABLE_NONE,
                                          SHORT_PLACE + SHORT_LENGTH, LONG_LENGTH - SHORT_LENGTH));
    }
    pthread_join(thread, NULL);
    ck_assert_str_eq(gate_check(subject.gate, GATE_OTHER, LONG_PLACE + LONG_LENGTH - 1, 1),
                     "L1 table");
    close_case(&subject);
}
END_TEST

/* What a traced process looks at, and what it has found; shared with its tracer. */
struct steps {
    struct header header;
    _Atomic bool looking;
    _Atomic unsigned looks, found;
};

static void look_for_ever(struct steps *steps)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    for (;;) {
        steps->looking = true;
        if (header_overlap(&steps->header, HEADER_TABLE_NONE, SHORT_PLACE + SHORT_LENGTH,
                           LONG_LENGTH - SHORT_LENGTH) != NULL) {
            steps->found++;
        }
        steps->looking = false;
        steps->looks++;
    }
}

/* Who looks stands still between two instructions, for as long as some moves take. */
START_TEST(a_table_that_moved_several_times_is_at_no_third_place)
{
    struct steps *steps =
        mmap(NULL, sizeof(*steps), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned seed = 1, undisturbed = 0;
    int status;
    pid_t child;

    ck_assert_ptr_ne(steps, MAP_FAILED);
    steps->header.cluster_size = CLUSTER;
    header_move_l1(&steps->header, LONG_PLACE, LONG_LENGTH / 8);
    child = fork();
    if (child == 0) {
        look_for_ever(steps);
    }
    ck_assert_int_gt(child, 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL), 0);
    while (steps->looks < 60 && steps->found == 0) {
        ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFSTOPPED(status));
        undisturbed += steps->looking && steps->looks == 0;
        if (steps->looking && steps->looks > 0 && (unsigned)rand_r(&seed) % undisturbed < 10) {
            bool is_long = steps->header.l1_offset == LONG_PLACE;

            header_move_l1(&steps->header, is_long ? SHORT_PLACE : LONG_PLACE,
                           (uint32_t)((is_long ? SHORT_LENGTH : LONG_LENGTH) / 8));
        }
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    ck_assert_uint_eq(steps->found, 0);
    munmap(steps, sizeof(*steps));
}
END_TEST

/* `_i`: whether the write that failed was done. */
START_TEST(a_field_of_the_header_is_sure_again_once_it_is_written_as_memory_has_it)
{
    struct gate_case subject;
    struct barrier *barrier;
    uint8_t size[8], was[512];

    open_case(&subject);
    memcpy(was, memory_store_data(subject.file), sizeof(was));
    ck_assert_int_eq(barrier_create(subject.file, subject.file, false, &barrier), 0);
    memory_store_set_lands(subject.file, _i != 0);
    memory_store_fail_times(subject.file, MEMORY_STORE_WRITE, 1, 2, EIO);
    store_be64(size, 4096);
    ck_assert_int_eq(gate_write(subject.gate, GATE_HEADER, HEADER_SIZE, size, sizeof(size)), -EIO);
    ck_assert(!gate_is_sure(subject.gate, HEADER_SIZE, sizeof(size)));
    ck_assert(gate_is_sure(subject.gate, HEADER_INCOMPATIBLE_FEATURES, sizeof(size)));
    ck_assert_int_eq(gate_settle(subject.gate, barrier), -EIO);
    ck_assert(!gate_is_sure(subject.gate, HEADER_SIZE, sizeof(size)));
    ck_assert_int_eq(gate_settle(subject.gate, barrier), 0);
    ck_assert(gate_is_sure(subject.gate, 0, sizeof(was)));
    ck_assert_mem_eq(memory_store_data(subject.file), was, sizeof(was));
    ck_assert_int_eq(gate_write(subject.gate, GATE_HEADER, HEADER_SIZE, size, sizeof(size)), 0);
    memory_store_fail(subject.file, MEMORY_STORE_WRITE, 1, EIO);
    ck_assert_int_eq(gate_write(subject.gate, GATE_HEADER, HEADER_SIZE, was, sizeof(size)), -EIO);
    ck_assert_int_eq(gate_settle(subject.gate, barrier), 0);
    ck_assert_mem_eq(memory_store_data(subject.file) + HEADER_SIZE, size, sizeof(size));
    barrier_destroy(barrier);
    close_case(&subject);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gate");
    TCase *tcase = tcase_create("gate");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, what_a_write_is_of_says_what_it_may_overwrite);
    tcase_add_test(tcase, a_range_is_looked_at_as_a_whole);
    tcase_add_test(tcase, many_tables_are_known_wherever_they_lie);
    tcase_add_test(tcase, what_is_two_tables_is_remembered);
    tcase_add_test(tcase, a_hit_is_told_once_and_nothing_is_written);
    tcase_add_test(tcase, a_table_that_moves_is_at_no_third_place);
    tcase_add_test(tcase, a_table_that_moved_several_times_is_at_no_third_place);
    tcase_add_loop_test(
        tcase, a_field_of_the_header_is_sure_again_once_it_is_written_as_memory_has_it, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
