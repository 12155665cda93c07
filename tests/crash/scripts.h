/* SPDX-License-Identifier: MIT */
/* What workloads do to their disks, in requests of run.h. */
#ifndef CRASH_SCRIPTS_H
#define CRASH_SCRIPTS_H

struct run;

void script_again_and_again(struct run *run);
void script_append(struct run *run);
void script_fill(struct run *run);
void script_fragment(struct run *run);
void script_grow_l1(struct run *run);
void script_grow_refcounts(struct run *run);
void script_half(struct run *run);
void script_mixed(struct run *run);
void script_one_by_one(struct run *run);
void script_preallocate(struct run *run);
void script_repair_and_go_on(struct run *run);
void script_resize(struct run *run);
void script_reuse(struct run *run);
void script_small(struct run *run);
void script_bitmaps(struct run *run);
void script_bitmaps_written(struct run *run);
void script_bitmaps_large(struct run *run);
void script_snapshots(struct run *run);
void script_snapshots_resize(struct run *run);
void script_snapshots_back(struct run *run);
void script_threads(struct run *run);
void script_threads_grow(struct run *run);
void script_unaligned(struct run *run);
void script_flush_each(struct run *run);
void script_unflushed(struct run *run);
void script_zero(struct run *run);

#endif
