# SPDX-License-Identifier: MIT

# --- tests: every new one is added to UNIT_TESTS or E2E_TESTS, and nowhere else ---------

UNIT_TESTS =
if HAVE_CHECK
UNIT_TESTS += \
	tests/unit/meta/test-allocator \
	tests/unit/meta/test-allocator-bound \
	tests/unit/meta/test-allocator-faults \
	tests/unit/meta/test-allocator-fill \
	tests/unit/meta/test-allocator-pack \
	tests/unit/admin/test-amend \
	tests/unit/admin/test-amend-crash \
	tests/unit/admin/test-audit \
	tests/unit/admin/test-audit-clusters \
	tests/unit/store/test-barrier \
	tests/unit/util/test-box \
	tests/unit/util/test-bytes \
	tests/unit/cache/test-cache \
	tests/unit/cache/test-change \
	tests/unit/cache/test-change-writeback \
	tests/unit/check/test-check \
	tests/unit/check/test-check-counts \
	tests/unit/check/test-check-qemu \
	tests/unit/check/test-check-tables \
	tests/unit/codec/test-codec \
	tests/unit/codec/test-compress \
	tests/unit/crypto/test-cipher \
	tests/unit/disk/test-commit \
	tests/unit/disk/test-compressing \
	tests/unit/admin/test-create \
	tests/unit/util/test-control \
	tests/unit/util/test-error \
	tests/unit/meta/test-extension \
	tests/unit/meta/test-gate \
	tests/unit/meta/test-hollow \
	tests/unit/disk/test-filename \
	tests/unit/guest/test-label \
	tests/unit/guest/test-partitions \
	tests/unit/meta/test-header \
	tests/unit/meta/test-luks \
	tests/unit/meta/test-header-examine \
	tests/unit/meta/test-header-write \
	tests/unit/disk/test-image \
	tests/unit/disk/test-key-memory \
	tests/unit/disk/test-header-state \
	tests/unit/disk/test-inflight \
	tests/unit/admin/test-info \
	tests/unit/admin/test-inspect \
	tests/unit/admin/test-pieces \
	tests/unit/store/test-store-patched \
	tests/unit/util/test-json \
	tests/unit/store/test-ahead \
	tests/unit/store/test-limited \
	tests/unit/store/test-read-cache \
	tests/unit/store/test-opener \
	tests/unit/util/test-log \
	tests/unit/meta/test-mapping \
	tests/unit/meta/test-mapping-exact \
	tests/unit/meta/test-mapping-random \
	tests/unit/util/test-memory \
	tests/unit/util/test-memory-size \
	tests/unit/fuse/test-long-requests \
	tests/unit/fuse/test-later \
	tests/unit/fuse/test-lost \
	tests/unit/fuse/test-names \
	tests/unit/fuse/test-snapshots-shown \
	tests/unit/store/test-nbd-unflushed \
	tests/unit/store/test-nbd-waiters \
	tests/unit/store/test-new-file \
	tests/unit/util/test-options \
	tests/unit/util/test-options-choice \
	tests/unit/cache/test-pool \
	tests/unit/cache/test-pool-threads \
	tests/unit/disk/test-prefetch \
	tests/unit/disk/test-probe \
	tests/unit/meta/test-refcount \
	tests/unit/disk/test-resize \
	tests/unit/disk/test-seams \
	tests/unit/util/test-range-lock \
	tests/unit/util/test-registry \
	tests/unit/util/test-registry-places \
	tests/unit/util/test-size \
	tests/unit/util/test-stop \
	tests/unit/util/test-team \
	tests/unit/util/test-workers \
	tests/unit/cache/test-sizes \
	tests/unit/cache/test-slab \
	tests/unit/meta/test-snapshot \
	tests/unit/store/test-store \
	tests/unit/store/test-store-direct \
	tests/unit/store/test-store-direct-threads \
	tests/unit/store/test-store-lock \
	tests/unit/store/test-store-lock-qemu \
	tests/unit/store/test-place \
	tests/unit/store/test-store-open \
	tests/unit/disk/test-snapshots \
	tests/unit/disk/test-bits \
	tests/unit/disk/test-tracking \
	tests/unit/disk/test-view \
	tests/unit/disk/test-view-seek \
	tests/unit/disk/test-view-threads \
	tests/unit/disk/test-writer \
	tests/unit/disk/test-writer-faults \
	tests/unit/disk/test-writer-order \
	tests/unit/disk/test-writer-races \
	tests/unit/disk/test-writer-rules \
	tests/unit/disk/test-writer-damage
endif

E2E_TESTS = \
	tests/e2e/project/test-as-user.py \
	tests/e2e/bad/test-bad-behind.py \
	tests/e2e/bad/test-bad-counts.py \
	tests/e2e/bad/test-bad-cut.py \
	tests/e2e/bad/test-bad-image.py \
	tests/e2e/bad/test-bad-mutated.py \
	tests/e2e/bad/test-bad-follow.py \
	tests/e2e/bad/test-bad-names.py \
	tests/e2e/bad/test-bad-runtime.py \
	tests/e2e/bad/test-bad-usage.py \
	tests/e2e/project/test-completion.py \
	tests/e2e/project/test-completion-shells.py \
	tests/e2e/crash/test-crash-breaks.py \
	tests/e2e/crash/test-crash-faults.py \
	tests/e2e/crash/test-crash-states.py \
	tests/e2e/project/test-bench.py \
	tests/e2e/ctl/test-ctl-amend.py \
	tests/e2e/ctl/test-ctl-audit.py \
	tests/e2e/ctl/test-ctl-bitmap-damaged.py \
	tests/e2e/ctl/test-ctl-bitmap.py \
	tests/e2e/ctl/test-ctl-bitmaps-kept.py \
	tests/e2e/ctl/test-ctl-amend-keys.py \
	tests/e2e/ctl/test-ctl-check.py \
	tests/e2e/ctl/test-ctl-check-mutated.py \
	tests/e2e/ctl/test-ctl-commit.py \
	tests/e2e/ctl/test-ctl-compare.py \
	tests/e2e/ctl/test-ctl-convert.py \
	tests/e2e/ctl/test-ctl-convert-bitmaps.py \
	tests/e2e/ctl/test-ctl-convert-encrypted.py \
	tests/e2e/ctl/test-ctl-convert-bitmaps-killed.py \
	tests/e2e/ctl/test-ctl-create.py \
	tests/e2e/ctl/test-ctl-create-bad.py \
	tests/e2e/ctl/test-ctl-devices.py \
	tests/e2e/ctl/test-ctl-diff.py \
	tests/e2e/ctl/test-ctl-evidence-untouched.py \
	tests/e2e/ctl/test-ctl-examples.py \
	tests/e2e/ctl/test-ctl-encrypted.py \
	tests/e2e/ctl/test-ctl-hash.py \
	tests/e2e/ctl/test-ctl-hostile-names.py \
	tests/e2e/ctl/test-ctl-info.py \
	tests/e2e/ctl/test-ctl-interrupted.py \
	tests/e2e/ctl/test-ctl-map.py \
	tests/e2e/ctl/test-ctl-map-svg.py \
	tests/e2e/ctl/test-ctl-measure.py \
	tests/e2e/ctl/test-ctl-output.py \
	tests/e2e/ctl/test-ctl-rebase.py \
	tests/e2e/ctl/test-ctl-registry-lies.py \
	tests/e2e/ctl/test-ctl-resize.py \
	tests/e2e/ctl/test-ctl-salvage.py \
	tests/e2e/ctl/test-ctl-salvage-cut.py \
	tests/e2e/ctl/test-ctl-salvage-deduced.py \
	tests/e2e/ctl/test-ctl-salvage-measured.py \
	tests/e2e/ctl/test-ctl-sandbox.py \
	tests/e2e/ctl/test-ctl-snapshot.py \
	tests/e2e/ctl/test-ctl-timeline.py \
	tests/e2e/bad/test-bad-costs.py \
	tests/e2e/bad/test-fuzz-differential.py \
	tests/e2e/project/test-forensics.py \
	tests/e2e/project/test-forensics-tools.py \
	tests/e2e/project/test-hardening.py \
	tests/e2e/project/test-harness.py \
	tests/e2e/crash/test-kill-filesystem.py \
	tests/e2e/project/test-libvirt.py \
	tests/e2e/mount/test-evidence.py \
	tests/e2e/mount/test-evidence-shown.py \
	tests/e2e/mount/test-journal.py \
	tests/e2e/mount/test-limits.py \
	tests/e2e/mount/test-locks.py \
	tests/e2e/mount/test-long-requests.py \
	tests/e2e/mount/test-overlay.py \
	tests/e2e/mount/test-overlay-kept.py \
	tests/e2e/mount/test-overlay-media.py \
	tests/e2e/project/test-manpage.sh \
	tests/e2e/project/test-packages.py \
	tests/e2e/project/test-picture-book.py \
	tests/e2e/write/test-model-chains.py \
	tests/e2e/write/test-model-plain.py \
	tests/e2e/write/test-model-shared.py \
	tests/e2e/mount/test-ctl-attach.py \
	tests/e2e/mount/test-ctl-mount.py \
	tests/e2e/mount/test-ctl-top.py \
	tests/e2e/mount/test-ctl-mount-ended.py \
	tests/e2e/mount/test-ctl-mount-kill.py \
	tests/e2e/mount/test-ctl-mount-kinds.py \
	tests/e2e/mount/test-ctl-mount-missing.py \
	tests/e2e/mount/test-ctl-mount-words.py \
	tests/e2e/mount/test-ctl-named.py \
	tests/e2e/mount/test-ctl-waiting.py \
	tests/e2e/mount/test-backup-point-frozen.py \
	tests/e2e/mount/test-backup-point-stopped.py \
	tests/e2e/mount/test-backup-point-user.py \
	tests/e2e/mount/test-ctl-snapshot-mounted.py \
	tests/e2e/mount/test-mount.py \
	tests/e2e/mount/test-mount-fstab.py \
	tests/e2e/mount/test-mount-user.py \
	tests/e2e/mount/test-sandbox.py \
	tests/e2e/mount/test-service.py \
	tests/e2e/mount/test-mount-moved.py \
	tests/e2e/mount/test-unmount.py \
	tests/e2e/mount/test-partitions.py \
	tests/e2e/mount/test-partitions-written.py \
	tests/e2e/races/test-races.py \
	tests/e2e/races/test-races-mounted.py \
	tests/e2e/read/test-metrics.py \
	tests/e2e/read/test-read-access.py \
	tests/e2e/read/test-read-chains.py \
	tests/e2e/read/test-read-clusters.py \
	tests/e2e/read/test-read-formats.py \
	tests/e2e/read/test-read-headers.py \
	tests/e2e/read/test-read-layouts.py \
	tests/e2e/read/test-read-random.py \
	tests/e2e/read/test-read-snapshots.py \
	tests/e2e/read/test-readers.py \
	tests/e2e/project/test-quickstart.py \
	tests/e2e/project/test-readme.py \
	tests/e2e/project/test-release.sh \
	tests/e2e/project/test-terminal.py \
	tests/e2e/read/test-tree.py \
	tests/e2e/remote/test-model-nbd.py \
	tests/e2e/remote/test-nbd-asked.py \
	tests/e2e/remote/test-nbd-bursts.py \
	tests/e2e/remote/test-nbd-engines.py \
	tests/e2e/remote/test-nbd-read.py \
	tests/e2e/remote/test-nbd.py \
	tests/e2e/remote/test-nbdkit.py \
	tests/e2e/remote/test-nbdkit-ssh.py \
	tests/e2e/remote/test-read-cache.py \
	tests/e2e/remote/test-nbd-write.py \
	tests/e2e/write/test-compress.py \
	tests/e2e/write/test-backup-point.py \
	tests/e2e/write/test-bitmaps-kept.py \
	tests/e2e/write/test-bitmaps-mounted.py \
	tests/e2e/write/test-bitmaps-daemon.py \
	tests/e2e/read/test-bitmaps-shown.py \
	tests/e2e/write/test-encrypted.py \
	tests/e2e/write/test-encrypted-kinds.py \
	tests/e2e/project/test-try-debian.py \
	tests/e2e/write/test-snapshots-mounted.py \
	tests/e2e/write/test-write-basic.py \
	tests/e2e/write/test-write-blkdiscard.py \
	tests/e2e/write/test-write-end.py \
	tests/e2e/write/test-write-filesystems.py \
	tests/e2e/write/test-write-fill.py \
	tests/e2e/write/test-write-fio.py \
	tests/e2e/write/test-write-kill.py \
	tests/e2e/write/test-write-lazy.py \
	tests/e2e/write/test-write-limits.py \
	tests/e2e/write/test-write-lost.py \
	tests/e2e/write/test-write-space.py
E2E_HELPERS = \
	tests/crash/README.md \
	tests/races/README.md \
	tests/e2e/README.md \
	tests/e2e/run \
	tests/e2e/lib/__init__.py \
	tests/e2e/lib/as_user.py \
	tests/e2e/lib/at_unmount.c \
	tests/e2e/lib/backups.py \
	tests/e2e/lib/bad.py \
	tests/e2e/lib/bitmaps.py \
	tests/e2e/lib/busy_clock.c \
	tests/e2e/lib/inside.c \
	tests/e2e/lib/casefile.py \
	tests/e2e/lib/ceph.py \
	tests/e2e/lib/chains.py \
	tests/e2e/lib/changed.py \
	tests/e2e/lib/checks.py \
	tests/e2e/lib/compare.py \
	tests/e2e/lib/crash.py \
	tests/e2e/lib/ctl.py \
	tests/e2e/lib/damage.py \
	tests/e2e/lib/encrypted.py \
	tests/e2e/lib/evidence.py \
	tests/e2e/lib/files.py \
	tests/e2e/lib/frozen.py \
	tests/e2e/lib/image.py \
	tests/e2e/lib/infos.py \
	tests/e2e/lib/intruder.py \
	tests/e2e/lib/maps.py \
	tests/e2e/lib/matrix.py \
	tests/e2e/lib/model.py \
	tests/e2e/lib/mount.py \
	tests/e2e/lib/nbd.py \
	tests/e2e/lib/private.py \
	tests/e2e/lib/qcow2.py \
	tests/e2e/lib/partitions.py \
	tests/e2e/lib/races.py \
	tests/e2e/lib/recorded.py \
	tests/e2e/lib/run.py \
	tests/e2e/lib/salvaging.py \
	tests/e2e/lib/stamps.py \
	tests/e2e/lib/tap.py \
	tests/e2e/lib/terminal.py \
	tests/e2e/lib/told.py \
	tests/e2e/lib/tools.py \
	tests/e2e/lib/tracing.py \
	tests/e2e/lib/tree.py \
	tests/e2e/lib/twin.py \
	tests/e2e/lib/web.py \
	tests/e2e/lib/write.py

BENCH_FILES = \
	tests/bench/run \
	tests/bench/snapshots \
	tests/bench/unmount \
	tests/bench/speed/__init__.py \
	tests/bench/speed/backups.py \
	tests/bench/speed/chart.py \
	tests/bench/speed/fio.py \
	tests/bench/speed/growth.py \
	tests/bench/speed/images.py \
	tests/bench/speed/jobs.py \
	tests/bench/speed/drawing.py \
	tests/bench/speed/loglog.py \
	tests/bench/speed/rows.py \
	tests/bench/speed/tails.py \
	tests/bench/speed/places.py \
	tests/bench/speed/remote.py \
	tests/bench/speed/results.py \
	tests/bench/speed/slopes.py \
	tests/bench/speed/start.py \
	tests/bench/speed/targets.py \
	tests/bench/speed/trees.py \
	tests/bench/speed/workloads.py

# Which of them the sanitizer builds of tests/run repeat. A pattern of the shell, matched
# against the whole name: what hostile images reach, and what many threads reach.
ASAN_PATTERN = tests/unit/* | tests/fuzz/* | *bad* | *test-model* | *ctl-info* | *ctl-check-mutated* | \
	*/test-nbd.py | */test-nbd-asked.py | */test-nbd-bursts.py | */test-nbd-read.py
# Of one thread, and long.
ASAN_NOT = */test-check-qemu
# What needs none of the optional libraries: no JSON, and no image with compression type zstd.
MINIMAL_PATTERN = tests/unit/* | *bad-behind* | *completion* | *locks* | *test-mount.py | *read-access* | *write-blkdiscard* | \
	*write-fill* | *write-kill* | *write-lazy* | *write-limits* | *write-space*
TSAN_PATTERN = */test-allocator-fill | */test-barrier | */test-cache | */test-change* | */test-codec | */test-commit | */test-inflight | */test-pool* | */test-range-lock | */test-slab | */test-store* | \
	*/test-bits | */test-tracking | */test-view* | */test-team | */test-workers | *test-crash-states* | *test-model* | */test-races.py | */test-resize | */test-writer* | *readers* | \
	*/test-ahead | */test-nbd-unflushed | */test-nbd-waiters | */test-prefetch | */test-nbd.py | */test-nbd-asked.py | */test-nbd-bursts.py | */test-nbd-read.py

check_PROGRAMS = $(UNIT_TESTS) tests/bench/decompress tests/crash/explore tests/crash/explore-r4 \
	tests/crash/faults tests/model/model $(RACES)
# What lib/encrypted.py has qemu-img run with, since otherwise tests take longer; what mount/test-sandbox.py
# has qcow2fs run with.
# And what mount/test-unmount.py has qcow2ctl run with.
check_DATA = tests/e2e/lib/at_unmount.so tests/e2e/lib/busy_clock.so tests/e2e/lib/inside.so
CLEANFILES += tests/e2e/lib/at_unmount.so tests/e2e/lib/busy_clock.so tests/e2e/lib/inside.so
tests/e2e/lib/at_unmount.so: $(srcdir)/tests/e2e/lib/at_unmount.c
	@$(MKDIR_P) tests/e2e/lib
	$(AM_V_CC)$(CC) -O -shared -fPIC -o $@ $(srcdir)/tests/e2e/lib/at_unmount.c
tests/e2e/lib/inside.so: $(srcdir)/tests/e2e/lib/inside.c
	@$(MKDIR_P) tests/e2e/lib
	$(AM_V_CC)$(CC) -O -shared -fPIC -o $@ $(srcdir)/tests/e2e/lib/inside.c
tests/e2e/lib/busy_clock.so: $(srcdir)/tests/e2e/lib/busy_clock.c
	@$(MKDIR_P) tests/e2e/lib
	$(AM_V_CC)$(CC) -O -shared -fPIC -o $@ $(srcdir)/tests/e2e/lib/busy_clock.c

check_LIBRARIES =
if HAVE_CHECK
check_PROGRAMS += $(FUZZ_TARGETS) tests/fuzz/dump
check_LIBRARIES += tests/fuzz/libfuzz.a
endif
if HAVE_CHECK
check_LIBRARIES += tests/unit/lib/libunit.a
endif
tests_unit_lib_libunit_a_SOURCES = \
	tests/unit/lib/amend_case.c tests/unit/lib/amend_case.h \
	tests/unit/lib/assemble.c tests/unit/lib/assemble.h \
	tests/unit/lib/audit_case.c tests/unit/lib/audit_case.h \
	tests/unit/lib/builder.c tests/unit/lib/builder.h \
	tests/unit/lib/change_case.c tests/unit/lib/change_case.h \
	tests/unit/lib/header_case.c tests/unit/lib/header_case.h \
	tests/unit/lib/lock_case.c tests/unit/lib/lock_case.h \
	tests/unit/lib/mapping_case.c tests/unit/lib/mapping_case.h \
	tests/unit/lib/memory_log.c tests/unit/lib/memory_log.h \
	tests/unit/lib/memory_store.c tests/unit/lib/memory_store.h \
	tests/unit/lib/old_kernel.h \
	tests/unit/lib/owner_case.c tests/unit/lib/owner_case.h \
	tests/unit/lib/pause.h \
	tests/unit/lib/pool_case.c tests/unit/lib/pool_case.h \
	tests/unit/lib/scratch.c tests/unit/lib/scratch.h \
	tests/unit/lib/suite.c tests/unit/lib/suite.h \
	tests/unit/lib/write_case.c tests/unit/lib/write_case.h \
	tests/unit/lib/writer_case.c tests/unit/lib/writer_case.h

# Fuzz targets; tests/fuzz/README.md tells of them. They are tests, too, unless built for the fuzzer.
FUZZ_TARGETS = tests/fuzz/fuzz-bitmaps tests/fuzz/fuzz-image tests/fuzz/fuzz-luks tests/fuzz/fuzz-partitions \
	tests/fuzz/fuzz-snapshots tests/fuzz/fuzz-structure tests/fuzz/fuzz-text
FUZZ_FILES = tests/fuzz/README.md tests/fuzz/corpus
tests_fuzz_libfuzz_a_SOURCES = \
	tests/fuzz/bases.c tests/fuzz/bases.h \
	tests/fuzz/bounded_store.c tests/fuzz/bounded_store.h \
	tests/fuzz/chance.h \
	tests/fuzz/exercise.c tests/fuzz/exercise.h \
	tests/fuzz/guard.c tests/fuzz/guard.h \
	tests/fuzz/mutate.c tests/fuzz/mutate.h \
	tests/fuzz/program.h \
	tests/fuzz/script.c tests/fuzz/script.h \
	tests/fuzz/subject.c tests/fuzz/subject.h
FUZZ_MAIN = tests/fuzz/seeds.c tests/fuzz/target.h
if !FUZZERS
FUZZ_MAIN += tests/fuzz/replay.c
endif
FUZZ_LIBS = tests/fuzz/libfuzz.a $(LDADD)
FUZZ_LINK_FLAGS = $(AM_LDFLAGS) $(FUZZER_LDFLAGS)
tests_fuzz_fuzz_image_SOURCES = tests/fuzz/fuzz-image.c $(FUZZ_MAIN)
tests_fuzz_fuzz_image_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_image_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_luks_SOURCES = tests/fuzz/fuzz-luks.c $(FUZZ_MAIN)
tests_fuzz_fuzz_luks_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_luks_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_partitions_SOURCES = tests/fuzz/fuzz-partitions.c $(FUZZ_MAIN)
tests_fuzz_fuzz_partitions_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_partitions_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_bitmaps_SOURCES = tests/fuzz/fuzz-bitmaps.c $(FUZZ_MAIN)
tests_fuzz_fuzz_bitmaps_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_bitmaps_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_snapshots_SOURCES = tests/fuzz/fuzz-snapshots.c $(FUZZ_MAIN)
tests_fuzz_fuzz_snapshots_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_snapshots_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_structure_SOURCES = tests/fuzz/fuzz-structure.c $(FUZZ_MAIN)
tests_fuzz_fuzz_structure_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_structure_LDADD = $(FUZZ_LIBS)
tests_fuzz_fuzz_text_SOURCES = tests/fuzz/fuzz-text.c src/fuse/options.c \
	src/fuse/options_together.c \
	src/util/progress.c $(CTL_SOURCES) $(FUZZ_MAIN)
tests_fuzz_fuzz_text_LDFLAGS = $(FUZZ_LINK_FLAGS)
tests_fuzz_fuzz_text_LDADD = $(FUZZ_LIBS) $(BLKID_LIBS)
# What tests/e2e/bad/test-fuzz-differential.py runs.
tests_fuzz_dump_SOURCES = tests/fuzz/dump.c
tests_fuzz_dump_LDADD = $(FUZZ_LIBS)

# What tests/bench/run runs.
tests_bench_decompress_CPPFLAGS = $(PROJECT_CPPFLAGS)
tests_bench_decompress_CFLAGS = $(PROJECT_CFLAGS)
tests_bench_decompress_SOURCES = tests/bench/decompress.c
tests_bench_decompress_LDADD = $(LIBQCOW2_LIBS)
if HAVE_LIBNBD
check_PROGRAMS += tests/bench/far-floor
endif
tests_bench_far_floor_CFLAGS = $(PROJECT_CFLAGS) $(FUSE3_CFLAGS) $(LIBNBD_CFLAGS)
tests_bench_far_floor_SOURCES = tests/bench/far-floor.c
tests_bench_far_floor_LDADD = $(FUSE3_LIBS) $(LIBNBD_LIBS)

# What tests/e2e/crash/test-crash-*.py run; tests/crash/README.md tells of them.
CRASH_SOURCES = \
	tests/crash/bitmaps.c tests/crash/bitmaps.h \
	tests/crash/disk.c tests/crash/disk.h \
	tests/crash/log.c tests/crash/log.h \
	tests/crash/model.c tests/crash/model.h \
	tests/crash/run.c tests/crash/run.h \
	tests/crash/scripts.c tests/crash/scripts.h \
	tests/crash/session.c tests/crash/session.h \
	tests/crash/states.c tests/crash/states.h \
	tests/crash/tools.c tests/crash/tools.h \
	tests/crash/verify.c tests/crash/verify.h \
	tests/crash/workloads.c tests/crash/workloads.h
tests_crash_explore_CPPFLAGS = $(PROJECT_CPPFLAGS)
tests_crash_explore_CFLAGS = $(PROJECT_CFLAGS)
tests_crash_explore_SOURCES = tests/crash/breaks.c tests/crash/breaks.h tests/crash/explore.c \
	$(CRASH_SOURCES)
tests_crash_explore_LDADD = $(LIBQCOW2_LIBS)
# With an allocator of its own, which breaks R4.
tests_crash_explore_r4_CPPFLAGS = $(PROJECT_CPPFLAGS) -DQCOW2FS_BREAK_R4
tests_crash_explore_r4_CFLAGS = $(PROJECT_CFLAGS)
tests_crash_explore_r4_SOURCES = $(tests_crash_explore_SOURCES) \
	src/meta/allocator.c src/meta/allocator_free.c
tests_crash_explore_r4_LDADD = $(LIBQCOW2_LIBS)
tests_crash_faults_CPPFLAGS = $(PROJECT_CPPFLAGS)
tests_crash_faults_CFLAGS = $(PROJECT_CFLAGS)
tests_crash_faults_SOURCES = tests/crash/faults.c $(CRASH_SOURCES)
tests_crash_faults_LDADD = $(LIBQCOW2_LIBS)

# What tests/e2e/races/test-races.py runs; tests/races/README.md tells of it.
RACES = tests/races/fsx tests/races/mounted tests/races/races tests/races/races-bitmaps \
	tests/races/races-grow tests/races/races-preallocate
RACES_SOURCES = \
	tests/crash/tools.c tests/crash/tools.h \
	tests/races/bitmaps.c tests/races/bitmaps.h \
	tests/races/bitmaps_check.c \
	tests/races/history.c tests/races/history.h \
	tests/races/host.c tests/races/host.h \
	tests/races/kinds.c tests/races/kinds.h \
	tests/races/plan.c \
	tests/races/races.c \
	tests/races/remote.c tests/races/remote.h \
	tests/races/run.c tests/races/run.h \
	tests/races/schedule.c tests/races/schedule.h \
	tests/races/snapshots.c \
	tests/races/verify.c \
	tests/races/worker.c
RACES_INCLUDES = $(PROJECT_CPPFLAGS) -I$(top_srcdir)/tests
# Each lock is a place where the schedule may let others run.
RACES_LINK_FLAGS = $(AM_LDFLAGS) \
	-Wl,--wrap=pthread_mutex_lock,--wrap=pthread_mutex_unlock \
	-Wl,--wrap=pthread_cond_wait,--wrap=pthread_cond_timedwait \
	-Wl,--wrap=pthread_cond_signal,--wrap=pthread_cond_broadcast \
	-Wl,--wrap=pthread_create,--wrap=pthread_join,--wrap=process_processors,--wrap=cipher_piece
tests_races_races_CPPFLAGS = $(RACES_INCLUDES)
tests_races_races_CFLAGS = $(PROJECT_CFLAGS)
tests_races_races_SOURCES = $(RACES_SOURCES)
tests_races_races_LDFLAGS = $(RACES_LINK_FLAGS)
tests_races_races_LDADD = $(LIBQCOW2_LIBS)

# Without what the brackets of a write around its bits, the orders of growing, and of preallocation,
# are for: it must be seen.
tests_races_races_bitmaps_CPPFLAGS = $(RACES_INCLUDES) -DQCOW2FS_BREAK_BITMAPS
tests_races_races_bitmaps_CFLAGS = $(PROJECT_CFLAGS)
tests_races_races_bitmaps_SOURCES = $(RACES_SOURCES) src/disk/write.c
tests_races_races_bitmaps_LDFLAGS = $(RACES_LINK_FLAGS)
tests_races_races_bitmaps_LDADD = $(LIBQCOW2_LIBS)
tests_races_races_grow_CPPFLAGS = $(RACES_INCLUDES) -DQCOW2FS_BREAK_GROW
tests_races_races_grow_CFLAGS = $(PROJECT_CFLAGS)
tests_races_races_grow_SOURCES = $(RACES_SOURCES) src/disk/resize.c
tests_races_races_grow_LDFLAGS = $(RACES_LINK_FLAGS)
tests_races_races_grow_LDADD = $(LIBQCOW2_LIBS)
tests_races_races_preallocate_CPPFLAGS = $(RACES_INCLUDES) -DQCOW2FS_BREAK_PREALLOCATE
tests_races_races_preallocate_CFLAGS = $(PROJECT_CFLAGS)
tests_races_races_preallocate_SOURCES = $(RACES_SOURCES) src/disk/plan.c
tests_races_races_preallocate_LDFLAGS = $(RACES_LINK_FLAGS)
tests_races_races_preallocate_LDADD = $(LIBQCOW2_LIBS)
# Through a mount; tests/e2e/races/test-races-mounted.py runs them.
tests_races_fsx_CPPFLAGS = $(RACES_INCLUDES)
tests_races_fsx_CFLAGS = $(PROJECT_CFLAGS)
tests_races_fsx_LDADD =
tests_races_fsx_SOURCES = tests/crash/tools.c tests/crash/tools.h tests/races/fsx.c
tests_races_mounted_CPPFLAGS = $(RACES_INCLUDES)
tests_races_mounted_CFLAGS = $(PROJECT_CFLAGS)
tests_races_mounted_LDADD =
tests_races_mounted_SOURCES = tests/crash/tools.c tests/crash/tools.h \
	tests/races/history.c tests/races/history.h tests/races/mounted.c

# What tests/e2e/write/test-model-*.py run.
tests_model_model_CPPFLAGS = $(PROJECT_CPPFLAGS)
tests_model_model_CFLAGS = $(PROJECT_CFLAGS)
tests_model_model_SOURCES = tests/model/bitmaps.c tests/model/model.c tests/model/model.h \
	tests/model/other.c tests/model/snapshots.c tests/model/worker.c
tests_model_model_LDADD = $(LIBQCOW2_LIBS)

# It is libfuse, as far as that is needed.
tests_unit_fuse_test_long_requests_CFLAGS = $(AM_CFLAGS) $(FUSE3_CFLAGS)
tests_unit_fuse_test_long_requests_SOURCES = tests/unit/fuse/test-long-requests.c \
	src/fuse/long_requests.c
tests_unit_fuse_test_later_SOURCES = tests/unit/fuse/test-later.c src/fuse/later.c
tests_unit_fuse_test_later_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=process_start_thread
tests_unit_fuse_test_lost_SOURCES = tests/unit/fuse/test-lost.c src/fuse/lost.c
tests_unit_fuse_test_names_SOURCES = tests/unit/fuse/test-names.c src/fuse/names.c
# It is the tree, the open files and the mount, as far as a change of the snapshots needs them.
tests_unit_fuse_test_snapshots_shown_SOURCES = tests/unit/fuse/test-snapshots-shown.c \
	src/fuse/lost.c src/fuse/names.c src/fuse/parts.c src/fuse/shown.c src/fuse/snapshots.c
# With calls of the C library that can be made to fail.
tests_unit_store_test_store_direct_SOURCES = tests/unit/store/test-store-direct.c \
	tests/unit/lib/direct_case.c tests/unit/lib/direct_case.h
tests_unit_store_test_store_direct_threads_SOURCES = tests/unit/store/test-store-direct-threads.c \
	tests/unit/lib/direct_case.c tests/unit/lib/direct_case.h
# It sees each secret before it is wiped, and its pages when they are given back.
tests_unit_disk_test_key_memory_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=secret_destroy -Wl,--wrap=munmap
# Other threads run behind each unlock.
tests_unit_disk_test_writer_races_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=pthread_mutex_unlock

# For the suites, the only programs without flags of their own.
AM_CPPFLAGS = $(PROJECT_CPPFLAGS) -I$(top_srcdir)/tests/unit/lib
AM_CFLAGS = $(PROJECT_CFLAGS) $(CHECK_CFLAGS) $(ZLIB_CFLAGS) $(ZSTD_CFLAGS) $(JANSSON_CFLAGS) $(BLKID_CFLAGS)
LDADD = tests/unit/lib/libunit.a $(LIBQCOW2_LIBS) $(CHECK_LIBS)

TESTS = $(UNIT_TESTS)
if HAVE_CHECK
if !FUZZERS
TESTS += $(FUZZ_TARGETS)
endif
endif
if HAVE_PYTHON
TESTS += $(E2E_TESTS)
endif
TEST_EXTENSIONS = .py .sh
TAP_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
LOG_DRIVER = $(TAP_DRIVER)
PY_LOG_DRIVER = $(TAP_DRIVER)
PY_LOG_COMPILER = $(PYTHON)
SH_LOG_DRIVER = $(TAP_DRIVER)
SH_LOG_COMPILER = $(SHELL)

# libcheck's default of 4 seconds a test is for idle machines; its limit here is for hangs.
AM_TESTS_ENVIRONMENT = \
	CK_TAP_LOG_FILE_NAME=-; export CK_TAP_LOG_FILE_NAME; \
	CK_DEFAULT_TIMEOUT=120; export CK_DEFAULT_TIMEOUT; \
	QCOW2CTL='$(abs_top_builddir)/src/qcow2ctl'; export QCOW2CTL; \
	QCOW2FS='$(abs_top_builddir)/src/qcow2fs'; export QCOW2FS; \
	QCOW2FS_SANITIZE='$(SANITIZE)'; export QCOW2FS_SANITIZE; \
	QCOW2FS_SRCDIR='$(abs_top_srcdir)'; export QCOW2FS_SRCDIR; \
	QCOW2FS_TMP='$(abs_top_builddir)/tests/tmp'; export QCOW2FS_TMP; \
	PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE; \
	PYTHONPATH='$(abs_top_srcdir)/tests/e2e'; export PYTHONPATH;

# For tests/run: the names of the tests, one a line.
list-tests:
	@for name in $(TESTS); do echo "$$name"; done
list-asan-tests:
	@for name in $(TESTS); do case $$name in $(ASAN_NOT)) ;; $(ASAN_PATTERN)) echo "$$name" ;; esac; done
list-minimal-tests:
	@for name in $(TESTS); do case $$name in $(MINIMAL_PATTERN)) echo "$$name" ;; esac; done
list-user-tests:
	@for name in $(TESTS); do case $$name in *test-as-user*) echo "$$name" ;; esac; done
list-tsan-tests:
	@for name in $(TESTS); do case $$name in $(TSAN_PATTERN)) echo "$$name" ;; esac; done
