# SPDX-License-Identifier: MIT

# The programs and what they are made of: a new source is added here, and nowhere else.

# Everything below src/fuse and src/ctl; it knows nothing of FUSE.
noinst_LIBRARIES = src/libqcow2.a
src_libqcow2_a_CPPFLAGS = $(PROJECT_CPPFLAGS)
src_libqcow2_a_CFLAGS = $(PROJECT_CFLAGS) $(ZLIB_CFLAGS) $(ZSTD_CFLAGS) $(LIBDEFLATE_CFLAGS) \
	$(JANSSON_CFLAGS) $(GCRYPT_CFLAGS) $(BLAKE3_CFLAGS) $(LIBNBD_CFLAGS) $(SECCOMP_CFLAGS)
src_libqcow2_a_SOURCES = \
	src/util/bytes.h src/util/checked.h \
	src/util/box.c src/util/box.h src/util/box_calls.c src/util/box_calls.h \
	src/util/directory.c src/util/directory.h \
	src/util/error.c src/util/error.h \
	src/util/fuse_device.c src/util/fuse_device.h \
	src/util/id_map.c src/util/id_map.h \
	src/util/journal.c src/util/journal.h \
	src/util/json.c src/util/json.h \
	src/util/log.c src/util/log.h \
	src/util/dead_mount.c src/util/dead_mount.h \
	src/util/loop.c src/util/loop.h \
	src/util/mounts.c src/util/mounts.h \
	src/util/memory.c src/util/memory.h \
	src/util/options.c src/util/options_find.c src/util/options_help.c src/util/options.h \
	src/util/printable.c src/util/printable.h \
	src/util/helpers.c src/util/helpers.h \
	src/util/process.c src/util/process.h \
	src/util/team.c src/util/team.h \
	src/util/prompt.c src/util/prompt.h \
	src/util/range_lock.h \
	src/util/control.c src/util/control.h \
	src/util/deadline.h \
	src/util/registry.c src/util/registry.h \
	src/util/registry_belief.c src/util/registry_belief.h \
	src/util/registry_places.c src/util/registry_places.h \
	src/util/size.c src/util/size.h \
	src/util/stop.h \
	src/util/workers.c src/util/workers.h \
	src/util/zeros.h \
	src/store/store.h \
	src/store/ahead.c src/store/ahead.h \
	src/store/barrier.c src/store/barrier.h \
	src/store/direct.c src/store/direct.h \
	src/store/file.c src/store/file.h \
	src/store/holders.c src/store/holders.h \
	src/store/kernel_files.c src/store/kernel_files.h \
	src/store/limited.c src/store/limited.h \
	src/store/lock.c src/store/lock.h \
	src/store/nbd.c src/store/nbd.h \
	src/store/nbd_connecting.c src/store/nbd_connection_internal.h \
	src/store/nbd_connection.c src/store/nbd_connection.h \
	src/store/nbd_internal.h src/store/nbd_open.c \
	src/store/nbd_library.c src/store/nbd_library.h \
	src/store/nbd_readers.c src/store/nbd_readers.h \
	src/store/nbd_unflushed.c src/store/nbd_unflushed.h \
	src/store/nbd_waiters.c src/store/nbd_waiters.h \
	src/store/nbdkit.c src/store/nbdkit.h \
	src/store/nbdkit_keeper.c src/store/nbdkit_internal.h \
	src/store/new_file.c src/store/new_file.h \
	src/store/open.c src/store/open.h src/store/open_failed.c src/store/open_internal.h \
	src/store/opener.c src/store/opener.h src/store/opener_internal.h src/store/opener_run.c \
	src/store/patched.c src/store/patched.h \
	src/store/place.c src/store/place.h \
	src/store/read_cache.c src/store/read_cache.h src/store/read_cache_internal.h \
	src/store/read_cache_file.c src/store/read_cache_file.h \
	src/store/read_cache_kept.c src/store/read_cache_places.c \
	src/store/owners.c src/store/owners.h \
	src/store/rights.c src/store/rights.h \
	src/store/scratch.c src/store/scratch.h \
	src/store/through.c src/store/through.h \
	src/codec/codec.c src/codec/codec.h \
	src/codec/compress.c src/codec/compress.h \
	src/codec/deflate.c src/codec/zstd.c src/codec/backend.h \
	src/crypto/cipher.c src/crypto/cipher.h \
	src/crypto/blake3.c src/crypto/blake3.h \
	src/crypto/digest.c src/crypto/digest.h \
	src/crypto/keyslot.c src/crypto/keyslot.h \
	src/crypto/library.c src/crypto/library.h src/crypto/library_internal.h \
	src/crypto/missing.c \
	src/crypto/secret.c src/crypto/secret.h \
	src/cache/cache.c src/cache/cache.h \
	src/cache/change.c src/cache/change.h \
	src/cache/pool.c src/cache/pool.h src/cache/pool_internal.h \
	src/cache/sizes.c src/cache/sizes.h \
	src/cache/slab.c src/cache/slab.h \
	src/guest/gpt.c src/guest/internal.h src/guest/mbr.c \
	src/guest/label.c src/guest/label.h \
	src/guest/partitions.c src/guest/partitions.h \
	src/meta/format.h \
	src/meta/allocator.c src/meta/allocator.h \
	src/meta/allocator_free.c src/meta/allocator_internal.h \
	src/meta/allocator_pack.c \
	src/meta/allocator_share.c \
	src/meta/bitmap.c src/meta/bitmap.h \
	src/meta/bitmap_write.c src/meta/bitmap_write.h \
	src/check/check.c src/check/check.h src/check/internal.h \
	src/check/bitmaps.c \
	src/check/copied.c \
	src/check/counts.c src/check/counts.h \
	src/check/encryption.c \
	src/check/header.c \
	src/check/rebuild.c \
	src/check/references.c \
	src/check/ranges.c \
	src/check/refcounts.c \
	src/check/snapshots.c \
	src/check/walk.c \
	src/check/width.c \
	src/meta/extension.c src/meta/extension.h \
	src/meta/feature.c src/meta/feature.h \
	src/meta/gate.c src/meta/gate.h \
	src/meta/header.c src/meta/header.h \
	src/meta/header_replace.c src/meta/header_replace.h \
	src/meta/header_tables.c \
	src/meta/header_write.c src/meta/header_write.h \
	src/meta/hollow.c src/meta/hollow.h \
	src/meta/luks.c src/meta/luks.h \
	src/meta/luks_faults.c \
	src/meta/luks_unlock.c \
	src/meta/luks_write.c src/meta/luks_write.h \
	src/meta/mapping.c src/meta/mapping.h src/meta/mapping_internal.h \
	src/meta/mapping_open.c \
	src/meta/mapping_share.c \
	src/meta/mapping_write.c src/meta/mapping_write.h \
	src/meta/refcount.c src/meta/refcount.h src/meta/refcount_block.h \
	src/meta/refcount_grow.c src/meta/refcount_internal.h \
	src/meta/snapshot.c src/meta/snapshot.h \
	src/meta/snapshot_write.c src/meta/snapshot_write.h \
	src/admin/amend.c src/admin/amend.h src/admin/amend_internal.h \
	src/admin/amend_keys.c src/admin/amend_keys.h \
	src/admin/amend_names.c src/admin/amend_zeros.c \
	src/admin/audit.c src/admin/audit.h src/admin/audit_internal.h \
	src/admin/audit_clusters.c src/admin/audit_contents.c src/admin/audit_names.c \
	src/admin/audit_slack.c src/admin/audit_tables.c \
	src/disk/at_snapshot.c src/disk/at_snapshot.h \
	src/disk/bitmap_change.c src/disk/bitmap_merge.c src/disk/bits.c \
	src/disk/bitmaps.c src/disk/bitmaps.h src/disk/bitmaps_internal.h \
	src/disk/changed.c src/disk/changed.h \
	src/disk/chain.c src/disk/chain.h \
	src/disk/commit.c src/disk/commit.h \
	src/disk/compressing.c src/disk/compressing.h \
	src/disk/seams.c src/disk/seams.h \
	src/disk/traces.c src/disk/traces.h \
	src/disk/compressed.c src/disk/compressed.h \
	src/admin/evidence.c src/admin/evidence.h src/admin/pieces.c src/admin/pieces.h \
	src/admin/salvage.c src/admin/salvage.h src/admin/salvage_internal.h \
	src/admin/salvage_entries.c src/admin/salvage_header.c src/admin/salvage_places.c \
	src/admin/salvage_copies.c src/admin/salvage_repair.c src/admin/salvage_size.c src/admin/salvage_tables.c \
	src/admin/slack.c src/admin/slack.h src/admin/uses.c src/admin/uses.h \
	src/admin/create.c src/admin/create.h src/admin/create_write.c \
	src/admin/create_files.c src/admin/create_files.h \
	src/disk/encrypted.c src/disk/encrypted.h \
	src/disk/filename.c src/disk/filename.h \
	src/disk/header_state.c \
	src/disk/image.c src/disk/image.h \
	src/disk/inflight.h \
	src/disk/keys.c src/disk/keys.h \
	src/admin/chain_compare.c src/admin/chain_compare.h \
	src/admin/chain_work.c src/admin/chain_work.h \
	src/admin/commit.c src/admin/commit.h \
	src/admin/info.c src/admin/info.h \
	src/admin/inspect.c src/admin/inspect.h \
	src/admin/inspect_problems.c \
	src/admin/new_image.c src/admin/new_image.h src/admin/new_image_internal.h \
	src/admin/new_image_bitmaps.c \
	src/admin/new_image_places.c \
	src/admin/new_image_refcounts.c \
	src/admin/overlay.c src/admin/overlay.h src/admin/overlay_kept.c src/admin/overlay_internal.h \
	src/admin/preallocated.c src/admin/preallocated.h \
	src/admin/rebase.c src/admin/rebase.h \
	src/disk/pause.c \
	src/disk/preallocate.c \
	src/disk/prefetch.c src/disk/prefetch.h \
	src/disk/probe.c src/disk/probe.h \
	src/disk/look.h \
	src/disk/lookup.h \
	src/disk/placing.c \
	src/disk/plan.c src/disk/plan.h \
	src/disk/references.c src/disk/references.h \
	src/disk/repair.c \
	src/disk/resolved.c src/disk/resolved.h \
	src/disk/salvage.c src/disk/salvage.h \
	src/disk/reserve.c \
	src/disk/resize.c \
	src/disk/sectors.c src/disk/sectors.h \
	src/disk/snapshot_back.c \
	src/disk/snapshot_make.c \
	src/disk/snapshot_share.c \
	src/disk/snapshot_table.c \
	src/disk/snapshots.c src/disk/snapshots.h src/disk/snapshots_internal.h \
	src/disk/ticker.c src/disk/ticker.h \
	src/disk/tracking.c src/disk/tracking.h src/disk/tracking_internal.h \
	src/disk/view.c src/disk/view.h \
	src/disk/view_ahead.c src/disk/view_internal.h \
	src/disk/walk.c src/disk/walk.h \
	src/disk/write.c \
	src/disk/writer.c src/disk/writer.h src/disk/writer_internal.h \
	src/disk/zero.c

LIBQCOW2_LIBS = src/libqcow2.a $(ZLIB_LIBS) $(ZSTD_LIBS) $(LIBDEFLATE_LIBS) $(JANSSON_LIBS)

# The commands; the fuzz target of texts has them, too.
CTL_SOURCES = \
	src/ctl/amend.c \
	src/ctl/amend_keys.c src/ctl/amend_keys.h \
	src/ctl/attach.c \
	src/ctl/chain_work.c src/ctl/chain_work.h \
	src/ctl/check.c \
	src/ctl/command.c src/ctl/command.h \
	src/ctl/contents.c src/ctl/contents.h \
	src/ctl/commit.c \
	src/ctl/compare.c \
	src/ctl/compare_disks.c src/ctl/compare_disks.h \
	src/ctl/convert.c \
	src/ctl/convert_bitmaps.c \
	src/ctl/convert_copy.c src/ctl/convert_copy.h \
	src/ctl/convert_files.c src/ctl/convert_internal.h \
	src/ctl/convert_target.c src/ctl/convert_target.h \
	src/ctl/convert_usage.c \
	src/ctl/create.c \
	src/ctl/create_print.c src/ctl/create_print.h \
	src/ctl/create_values.c src/ctl/create_values.h \
	src/ctl/diff.c \
	src/ctl/disk.c src/ctl/disk.h \
	src/ctl/hash.c \
	src/ctl/hash_files.c src/ctl/hash_files.h \
	src/ctl/hash_one.c src/ctl/hash_one.h \
	src/ctl/helper.c src/ctl/helper.h \
	src/ctl/info.c \
	src/ctl/info_text.c src/ctl/info_text.h \
	src/ctl/key_options.c src/ctl/key_options.h \
	src/ctl/new_key.c src/ctl/new_key.h \
	src/ctl/interrupt.c src/ctl/interrupt.h \
	src/ctl/dead_files.c src/ctl/dead_files.h \
	src/ctl/list.c \
	src/ctl/top.c \
	src/ctl/top_screen.c src/ctl/top_screen.h \
	src/ctl/map.c \
	src/ctl/map_list.c src/ctl/map_list.h \
	src/ctl/map_output.c src/ctl/map_output.h \
	src/ctl/map_picture.c src/ctl/map_picture.h \
	src/ctl/map_svg.c src/ctl/map_svg.h \
	src/ctl/map_walk.c src/ctl/map_walk.h \
	src/ctl/measure.c \
	src/ctl/mount.c \
	src/ctl/mount_filesystem.c src/ctl/mount_filesystem.h \
	src/ctl/mount_image.c src/ctl/mount_image.h \
	src/ctl/open.c src/ctl/open.h \
	src/ctl/passing_mount.c src/ctl/passing_mount.h \
	src/ctl/raw_disk.c src/ctl/raw_disk.h \
	src/ctl/rebase.c \
	src/ctl/resize.c src/ctl/resize.h \
	src/ctl/backup_point.c \
	src/ctl/bitmap.c \
	src/ctl/box.c src/ctl/box.h \
	src/ctl/salvage.c src/ctl/salvage_map.c src/ctl/salvage_map.h \
	src/ctl/snapshot.c src/ctl/timeline.c \
	src/ctl/told_traces.c src/ctl/told_traces.h \
	src/ctl/run.c src/ctl/run.h \
	src/ctl/daemon.c src/ctl/daemon.h \
	src/ctl/freeze.c src/ctl/freeze.h \
	src/ctl/stack.c src/ctl/stack.h src/ctl/stack_internal.h \
	src/ctl/stack_choose.c src/ctl/stack_programs.c src/ctl/stack_users.c \
	src/ctl/teardown.c src/ctl/teardown.h \
	src/ctl/umount.c \
	src/fuse/names.c src/fuse/names.h \
	src/guest/filesystem.c src/guest/filesystem.h

bin_PROGRAMS = src/qcow2ctl src/qcow2fs
src_qcow2ctl_CPPFLAGS = $(PROJECT_CPPFLAGS)
src_qcow2ctl_CFLAGS = $(PROJECT_CFLAGS) $(JANSSON_CFLAGS) $(BLKID_CFLAGS)
src_qcow2ctl_SOURCES = \
	src/util/progress.c src/util/progress.h \
	src/qcow2ctl.c \
	$(CTL_SOURCES)
src_qcow2ctl_LDFLAGS = $(AM_LDFLAGS) $(SANITIZE_LDFLAGS)
src_qcow2ctl_LDADD = $(LIBQCOW2_LIBS) $(BLKID_LIBS)

src_qcow2fs_CPPFLAGS = $(PROJECT_CPPFLAGS)
src_qcow2fs_CFLAGS = $(PROJECT_CFLAGS) $(FUSE3_CFLAGS) $(JANSSON_CFLAGS)
src_qcow2fs_SOURCES = \
	src/util/progress.c src/util/progress.h \
	src/qcow2fs.c \
	src/fuse/above_disk.c src/fuse/above_disk.h \
	src/fuse/announce.c src/fuse/announce.h \
	src/fuse/copies.c src/fuse/copies.h \
	src/fuse/files.c src/fuse/files.h \
	src/fuse/help.c src/fuse/help.h \
	src/fuse/inherited.c src/fuse/inherited.h \
	src/fuse/io_uring.c src/fuse/io_uring.h \
	src/fuse/control.c src/fuse/control.h \
	src/fuse/kernel_options.c src/fuse/kernel_options.h \
	src/fuse/later.c src/fuse/later.h \
	src/fuse/old_end.c src/fuse/old_end.h \
	src/fuse/listing.c src/fuse/listing.h \
	src/fuse/lost.c src/fuse/lost.h \
	src/fuse/long_requests.c src/fuse/long_requests.h \
	src/fuse/messages.c src/fuse/messages.h \
	src/fuse/mount_point.c src/fuse/mount_point.h \
	src/fuse/names.c src/fuse/names.h \
	src/fuse/ops.c src/fuse/ops.h src/fuse/ops_internal.h \
	src/fuse/ops_open.c src/fuse/ops_read.c \
	src/fuse/ops_snapshots.c \
	src/fuse/ops_table.c \
	src/fuse/ops_write.c \
	src/fuse/options.c src/fuse/options.h \
	src/fuse/options_together.c \
	src/fuse/own_disk.c src/fuse/own_disk.h \
	src/fuse/own_mount.c src/fuse/own_mount.h \
	src/fuse/page_cache.c src/fuse/page_cache.h \
	src/fuse/parts.c src/fuse/parts.h \
	src/fuse/server_box.c src/fuse/server_box.h \
	src/fuse/session.c src/fuse/session.h \
	src/fuse/source.c src/fuse/source.h \
	src/fuse/shown.c src/fuse/shown.h \
	src/fuse/signals.c src/fuse/signals.h \
	src/fuse/bitmaps.c src/fuse/bitmaps.h \
	src/fuse/shown_bitmaps.c src/fuse/shown_bitmaps.h \
	src/fuse/tree_bitmaps.c \
	src/fuse/snapshots.c src/fuse/snapshots.h \
	src/fuse/stats.c src/fuse/stats.h \
	src/fuse/stats_metrics.c \
	src/fuse/steward.c src/fuse/steward.h src/fuse/steward_internal.h src/fuse/steward_run.c \
	src/fuse/tree.c src/fuse/tree.h src/fuse/tree_internal.h \
	src/fuse/tree_evidence.c src/fuse/tree_info.c src/fuse/tree_names.c src/fuse/tree_partitions.c \
	src/fuse/unmount.c src/fuse/unmount.h
src_qcow2fs_LDFLAGS = $(AM_LDFLAGS) $(SANITIZE_LDFLAGS)
src_qcow2fs_LDADD = $(LIBQCOW2_LIBS) $(FUSE3_LIBS) $(CANCEL_LIBS)
