/* SPDX-License-Identifier: MIT */
/* What is shown of snapshots, and of their partitions, when a change of them fails half-way. */
#include "config.h"

#include "suite.h"
#include "writer_case.h"

#include "fuse/own_mount.h"
#include "fuse/snapshots.h"

#include <errno.h>
#include <string.h>

#define CLUSTER UINT64_C(4096)

/* --- The rest of the mount ------------------------------------------------------------------- */

bool files_are_written(struct files *files)
{
    (void)files;
    return false;
}

int own_mount_hand_over(struct own_mount *own)
{
    (void)own;
    return 0;
}

void tree_begin_change(struct tree *tree)
{
    (void)tree;
}

void tree_end_change(struct tree *tree)
{
    (void)tree;
}

/* --- One snapshot, with a partition ---------------------------------------------------------- */

struct shown_case {
    struct writer_case disk;
    struct filesystem filesystem;
    struct tree tree;
    uint64_t key;
};

/* A partition table of one partition, at sector 1. */
static void write_table(struct writer_case *disk)
{
    uint8_t sector[512] = {[446 + 4] = 0x83, [446 + 8] = 1, [446 + 12] = 8, [510] = 0x55, 0xaa};

    ck_assert_int_eq(writer_write(disk->writer, 0, sector, sizeof(sector)), 0);
}

static void open_case(struct shown_case *subject)
{
    struct builder_options made = builder_defaults();
    struct error error = {0};

    memset(subject, 0, sizeof(*subject));
    made.cluster_bits = 12;
    made.virtual_size = 1024 * CLUSTER;
    writer_case_build(&subject->disk, builder_create(&made), NULL);
    write_table(&subject->disk);
    subject->filesystem.image = subject->tree.image = subject->disk.image;
    subject->filesystem.writer = subject->disk.writer;
    subject->filesystem.tree = &subject->tree;
    lost_init(&subject->filesystem.lost);
    ck_assert_int_eq(shown_create(subject->disk.image, &subject->tree.shown), 0);
    ck_assert_int_eq(parts_create(subject->disk.image, subject->tree.shown, &subject->disk.log.log,
                                  &subject->tree.parts),
                     0);
    ck_assert_int_eq(snapshots_make(&subject->filesystem, "one", NULL, &subject->key, &error), 0);
}

static void close_case(struct shown_case *subject)
{
    parts_destroy(subject->tree.parts);
    shown_destroy(subject->tree.shown);
    lost_release(&subject->filesystem.lost);
    writer_case_close(&subject->disk);
}

static int find_part(struct shown_case *subject)
{
    struct part part;

    return parts_find(subject->tree.parts, PARTS_SNAPSHOT(subject->key), 1, &part);
}

/* From its n-th write on the host fails. False: the removal did not; *gone counts where it did, and
 * the snapshot was gone nevertheless. */
static bool removal_fails(unsigned n, unsigned *gone)
{
    struct shown_case subject;
    struct error error = {0};
    size_t index;
    bool failed, is_shown;

    open_case(&subject);
    ck_assert_int_eq(find_part(&subject), 0);
    memory_store_fail_from(subject.disk.file, MEMORY_STORE_WRITE, n, EIO);
    failed = snapshots_remove(&subject.filesystem, subject.key, &error) != 0;
    memory_store_fail(subject.disk.file, MEMORY_STORE_WRITE, 0, 0);
    is_shown = shown_index(subject.tree.shown, subject.key, &index);
    ck_assert_uint_eq(is_shown, subject.disk.image->header->snapshot_count);
    ck_assert_int_eq(find_part(&subject), is_shown ? 0 : -ENOENT);
    *gone += failed && !is_shown;
    close_case(&subject);
    return failed;
}

START_TEST(of_a_snapshot_that_is_gone_though_its_removal_failed_nothing_is_kept)
{
    unsigned n = 1, gone = 0;

    while (removal_fails(n, &gone)) {
        n++;
    }
    ck_assert_uint_gt(n, 3);
    ck_assert_uint_gt(gone, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("snapshots-shown");
    TCase *faults = tcase_create("faults");

    tcase_add_test(faults, of_a_snapshot_that_is_gone_though_its_removal_failed_nothing_is_kept);
    suite_add_tcase(suite, faults);
    return suite_main(suite);
}
