# SPDX-License-Identifier: MIT
"""Reading and editing the structures of a qcow2 file, by the names of its specification.

    with Qcow2(path) as image:
        image["virtual_size"] = 4096
        image.set_l2_entry(0x10000, image.l2_entry(0x10000) | L2_ZERO)
        image.append_extension(0x12345678, b"unknown")

Nothing is checked: these functions write whatever a test wants to see refused. Names
are those of src/meta/format.h. All offsets and sizes are in bytes.
"""

import collections
import struct

MAGIC = 0x514649FB

# name: (offset, size in bytes)
HEADER = {
    "magic": (0, 4),
    "version": (4, 4),
    "backing_file_offset": (8, 8),
    "backing_file_size": (16, 4),
    "cluster_bits": (20, 4),
    "virtual_size": (24, 8),
    "crypt_method": (32, 4),
    "l1_size": (36, 4),
    "l1_table_offset": (40, 8),
    "refcount_table_offset": (48, 8),
    "refcount_table_clusters": (56, 4),
    "nb_snapshots": (60, 4),
    "snapshots_offset": (64, 8),
    "incompatible_features": (72, 8),
    "compatible_features": (80, 8),
    "autoclear_features": (88, 8),
    "refcount_order": (96, 4),
    "header_length": (100, 4),
    "compression_type": (104, 1),
}
HEADER_LENGTH_V2 = 72

DIRTY, CORRUPT, EXTERNAL_DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
LAZY_REFCOUNTS = 1
AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_EXTERNAL_DATA = 1, 2

EXTENSION_END = 0
EXTENSION_BACKING_FORMAT = 0xE2792ACA
EXTENSION_FEATURE_NAMES = 0x6803F857
EXTENSION_BITMAPS = 0x23852875
EXTENSION_ENCRYPTION = 0x0537BE77
EXTENSION_DATA_FILE = 0x44415441

HOST_OFFSET_MASK = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
L2_COMPRESSED = 1 << 62
L2_ZERO = 1

SNAPSHOT = {
    "l1_table_offset": (0, 8),
    "l1_size": (8, 4),
    "id_length": (12, 2),
    "name_length": (14, 2),
    "date_sec": (16, 4),
    "date_nsec": (20, 4),
    "vm_clock_nsec": (24, 8),
    "vm_state_size": (32, 4),
    "extra_data_size": (36, 4),
    "extra_vm_state_size": (40, 8),  # the extra data begins here
    "extra_disk_size": (48, 8),
    "extra_icount": (56, 8),
}
SNAPSHOT_FIXED_LENGTH = 40

BITMAPS_HEADER = {"nb_bitmaps": (0, 4), "reserved": (4, 4), "directory_size": (8, 8),
                  "directory_offset": (16, 8)}
BITMAP = {"table_offset": (0, 8), "table_size": (8, 4), "flags": (12, 4), "type": (16, 1),
          "granularity_bits": (17, 1), "name_size": (18, 2), "extra_data_size": (20, 4)}

Extension = collections.namedtuple("Extension", "type position data")
Snapshot = collections.namedtuple("Snapshot", "position length id name")

_CODES = {1: ">B", 2: ">H", 4: ">I", 8: ">Q"}


def _padded(length):
    return (length + 7) & ~7


class Qcow2:
    """An image file, open for editing. image[NAME] is a header field."""

    def __init__(self, path):
        self.file = open(path, "r+b", buffering=0)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.file.close()

    # --- bytes and numbers ------------------------------------------------------

    def read(self, position, length):
        self.file.seek(position)
        return self.file.read(length)

    def write(self, position, data):
        self.file.seek(position)
        self.file.write(data)

    def number(self, position, size):
        return struct.unpack(_CODES[size], self.read(position, size))[0]

    def set_number(self, position, size, value):
        self.write(position, struct.pack(_CODES[size], value))

    def end(self):
        """The size of the file."""
        return self.file.seek(0, 2)

    # --- header -------------------------------------------------------------------

    def __getitem__(self, name):
        return self.number(*HEADER[name])

    def __setitem__(self, name, value):
        self.set_number(*HEADER[name], value)

    @property
    def cluster_size(self):
        return 1 << self["cluster_bits"]

    @property
    def header_length(self):
        return HEADER_LENGTH_V2 if self["version"] == 2 else self["header_length"]

    @property
    def extended_l2(self):
        return self["version"] > 2 and bool(self["incompatible_features"] & EXTENDED_L2)

    def backing_file(self):
        """The recorded name, as bytes; None without one."""
        if self["backing_file_offset"] == 0:
            return None
        return self.read(self["backing_file_offset"], self["backing_file_size"])

    # --- header extensions ----------------------------------------------------------

    def extensions(self):
        """All extensions in order, without the end mark."""
        found = []
        position = self.header_length
        while True:
            kind, length = self.number(position, 4), self.number(position + 4, 4)
            if kind == EXTENSION_END:
                return found
            found.append(Extension(kind, position, self.read(position + 8, length)))
            position += 8 + _padded(length)

    def set_extensions(self, extensions):
        """Writes the extensions, (type, data) each; the backing file's name goes behind them."""
        name = self.backing_file()
        written = b""
        for kind, data in [*extensions, (EXTENSION_END, b"")]:
            written += struct.pack(">II", kind, len(data)) + data.ljust(_padded(len(data)), b"\0")
        start = self.header_length
        if name is not None:
            self["backing_file_offset"] = start + len(written)
            written += name
        if start + len(written) > self.cluster_size:
            raise ValueError("the header extensions do not fit in the first cluster")
        self.write(start, written.ljust(self.cluster_size - start, b"\0"))

    def append_extension(self, kind, data):
        self.set_extensions([(old.type, old.data) for old in self.extensions()] + [(kind, data)])

    def remove_extension(self, kind):
        self.set_extensions([(old.type, old.data) for old in self.extensions()
                             if old.type != kind])

    def extension(self, kind):
        """The first extension of that type; KeyError without one."""
        for found in self.extensions():
            if found.type == kind:
                return found
        raise KeyError("no header extension 0x%08x" % kind)

    def set_backing_file(self, name):
        """Records another name of the backing file (bytes), None for no backing file."""
        self["backing_file_offset"] = 0
        kept = [(old.type, old.data) for old in self.extensions()]
        if name is not None:
            room = sum(8 + _padded(len(data)) for _kind, data in kept) + 8
            self["backing_file_offset"] = self.header_length + room
            self["backing_file_size"] = len(name)
            self.write(self["backing_file_offset"], name)
        self.set_extensions(kept)

    # --- L1 and L2 tables ---------------------------------------------------------------

    @property
    def l2_entry_size(self):
        return 16 if self.extended_l2 else 8

    @property
    def l1_entry_covers(self):
        """Bytes of the guest that one L1 entry maps."""
        return self.cluster_size // self.l2_entry_size * self.cluster_size

    def l1_entry_position(self, index, table=None):
        return (self["l1_table_offset"] if table is None else table) + index * 8

    def l1_entry(self, index, table=None):
        return self.number(self.l1_entry_position(index, table), 8)

    def set_l1_entry(self, index, value, table=None):
        self.set_number(self.l1_entry_position(index, table), 8, value)

    def l2_entry_position(self, guest_offset, table=None):
        """Where the L2 entry of a guest offset lies in the file; None without an L2 table.

        `table` is the position of an L1 table other than the active one.
        """
        entry = self.l1_entry(guest_offset // self.l1_entry_covers, table) & HOST_OFFSET_MASK
        if entry == 0:
            return None
        cluster = guest_offset % self.l1_entry_covers // self.cluster_size
        return entry + cluster * self.l2_entry_size

    def l2_entry(self, guest_offset, table=None):
        return self.number(self.l2_entry_position(guest_offset, table), 8)

    def set_l2_entry(self, guest_offset, value, table=None):
        self.set_number(self.l2_entry_position(guest_offset, table), 8, value)

    def l2_bitmap(self, guest_offset):
        """The subcluster bitmap of an extended L2 entry: allocated in bits 0-31, zero in 32-63."""
        return self.number(self.l2_entry_position(guest_offset) + 8, 8)

    def set_l2_bitmap(self, guest_offset, value):
        self.set_number(self.l2_entry_position(guest_offset) + 8, 8, value)

    def compressed_descriptor(self, guest_offset):
        """(host offset, additional 512-byte sectors) of a compressed cluster's entry."""
        entry = self.l2_entry(guest_offset) & (L2_COMPRESSED - 1)
        bits = 62 - (self["cluster_bits"] - 8)
        return entry & ((1 << bits) - 1), entry >> bits

    def set_compressed_descriptor(self, guest_offset, host_offset, additional_sectors):
        bits = 62 - (self["cluster_bits"] - 8)
        self.set_l2_entry(guest_offset, L2_COMPRESSED | additional_sectors << bits | host_offset)

    # --- refcounts ------------------------------------------------------------------------

    def refcount_table_entry_position(self, index):
        return self["refcount_table_offset"] + index * 8

    def refcount_position(self, host_offset):
        """(position, bit in its byte, bits) of a cluster's refcount; None without a block."""
        width = 1 << (self["refcount_order"] if self["version"] > 2 else 4)
        per_block = self.cluster_size * 8 // width
        cluster = host_offset // self.cluster_size
        block = self.number(self.refcount_table_entry_position(cluster // per_block), 8)
        if block == 0:
            return None
        bit = cluster % per_block * width
        return block + bit // 8, bit % 8, width

    def refcount(self, host_offset):
        where = self.refcount_position(host_offset)
        if where is None:
            return 0
        position, bit, width = where
        if width >= 8:
            return self.number(position, width // 8)
        return self.number(position, 1) >> bit & ((1 << width) - 1)

    def set_refcount(self, host_offset, value):
        position, bit, width = self.refcount_position(host_offset)
        if width >= 8:
            self.set_number(position, width // 8, value)
            return
        kept = self.number(position, 1) & ~(((1 << width) - 1) << bit)
        self.set_number(position, 1, kept | value << bit)

    # --- snapshot table ----------------------------------------------------------------------

    def snapshots(self):
        """The entries of the snapshot table."""
        found = []
        position = self["snapshots_offset"]
        for _ in range(self["nb_snapshots"]):
            def field(name, start=position):
                offset, size = SNAPSHOT[name]
                return self.number(start + offset, size)
            names = position + SNAPSHOT_FIXED_LENGTH + field("extra_data_size")
            snapshot_id = self.read(names, field("id_length"))
            name = self.read(names + field("id_length"), field("name_length"))
            length = _padded(names + len(snapshot_id) + len(name) - position)
            found.append(Snapshot(position, length, snapshot_id, name))
            position += length
        return found

    def snapshot_field(self, index, name):
        offset, size = SNAPSHOT[name]
        return self.number(self.snapshots()[index].position + offset, size)

    def set_snapshot_field(self, index, name, value):
        offset, size = SNAPSHOT[name]
        self.set_number(self.snapshots()[index].position + offset, size, value)

    # --- bitmaps --------------------------------------------------------------------------------

    def bitmaps_field(self, name):
        """A field of the bitmaps extension."""
        offset, size = BITMAPS_HEADER[name]
        return self.number(self.extension(EXTENSION_BITMAPS).position + 8 + offset, size)

    def set_bitmaps_field(self, name, value):
        offset, size = BITMAPS_HEADER[name]
        self.set_number(self.extension(EXTENSION_BITMAPS).position + 8 + offset, size, value)

    def bitmap_positions(self):
        """Where each entry of the bitmap directory lies."""
        found = []
        position = self.bitmaps_field("directory_offset")
        for _ in range(self.bitmaps_field("nb_bitmaps")):
            found.append(position)
            name = self.number(position + BITMAP["name_size"][0], 2)
            extra = self.number(position + BITMAP["extra_data_size"][0], 4)
            position += _padded(24 + extra + name)
        return found

    def bitmap_field(self, index, name):
        offset, size = BITMAP[name]
        return self.number(self.bitmap_positions()[index] + offset, size)

    def set_bitmap_field(self, index, name, value):
        offset, size = BITMAP[name]
        self.set_number(self.bitmap_positions()[index] + offset, size, value)
