/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "owner_case.h"

#include "util/checked.h"

#include <check.h>
#include <string.h>

void owner_open(struct owner *owner, bool discard)
{
    struct builder_options options = write_case_options();

    memset(owner, 0, sizeof(*owner));
    owner->commit = 1;
    write_case_open(&owner->write_case, builder_create(&options), discard);
}

void owner_close(struct owner *owner)
{
    write_case_close(&owner->write_case);
}

struct allocator *owner_allocator(struct owner *owner)
{
    return owner->write_case.allocator;
}

int owner_take(struct owner *owner, uint64_t want, bool exactly, struct allocation *taken)
{
    int result = exactly ? allocator_take_exactly(owner_allocator(owner), want, taken)
                         : allocator_take(owner_allocator(owner), want, taken);
    struct owned new;

    if (result < 0) {
        return result;
    }
    new = (struct owned){
        .first = taken->host_offset / CLUSTER,
        .length = taken->clusters,
        .epoch = taken->epoch,
    };
    if (barrier_is_stable(owner->write_case.barrier, new.epoch)) {
        new.stable = max_u64(memory_log_count(owner->write_case.log), 1);
    }
    ck_assert_uint_eq(taken->host_offset % CLUSTER, 0);
    ck_assert_uint_ge(new.length, 1);
    ck_assert_uint_le(new.length, want);
    ck_assert(!exactly || new.length == want);
    for (unsigned i = 0; i < owner->count; i++) {
        ck_assert_msg(
            !ranges_overlap(owner->owned[i].first, owner->owned[i].length, new.first, new.length),
            "cluster %llu was handed out twice", (unsigned long long)new.first);
    }
    ck_assert_uint_lt(owner->count, OWNED_MAX);
    owner->owned[owner->count++] = new;
    return 0;
}

struct allocation owner_taken(struct owner *owner, uint64_t want)
{
    struct allocation allocation;

    ck_assert_int_eq(owner_take(owner, want, false, &allocation), 0);
    return allocation;
}

int owner_sync(struct owner *owner)
{
    struct barrier *barrier = owner->write_case.barrier;
    int result = barrier_wait(barrier, barrier_epoch(barrier));

    for (unsigned i = 0; i < owner->count && result == 0; i++) {
        if (owner->owned[i].stable == 0) {
            owner->owned[i].stable = memory_log_count(owner->write_case.log);
        }
    }
    return result;
}

uint64_t owner_file_clusters(struct owner *owner)
{
    return memory_store_size(owner->write_case.file) / CLUSTER;
}
