# SPDX-License-Identifier: MIT
"""Damaging the structures of an image, one by one, in ways that mean something.

    done = damage.damage(path, random.Random("seed"))

changes some entries of tables, refcounts, header fields, snapshots or bitmaps, and says
which, for the report of a test that fails.
"""

from . import qcow2
from .qcow2 import COPIED, HOST_OFFSET_MASK, L2_COMPRESSED, L2_ZERO

SNAPSHOT_FIELDS = ["l1_table_offset", "l1_size", "id_length", "name_length", "vm_state_size",
                   "extra_data_size"]
HEADER_FIELDS = ["l1_table_offset", "l1_size", "refcount_table_offset", "refcount_table_clusters",
                 "nb_snapshots", "snapshots_offset", "virtual_size"]


class _Patient(qcow2.Qcow2):
    """An image that does not grow, wherever its own damage may lead."""

    def read(self, position, length):
        if not 0 <= position <= self.end() - length:
            raise ValueError("not in the file")
        return super().read(position, length)

    def write(self, position, data):
        if not 0 <= position <= self.end() - len(data):
            raise ValueError("not in the file")
        super().write(position, data)


def _clusters(opened):
    """Where something lies, by what it is: places that an entry could wrongly name."""
    cluster = opened.cluster_size
    table = opened["refcount_table_offset"]
    places = {"header": 0, "L1 table": opened["l1_table_offset"], "refcount table": table,
              "refcount block": opened.number(table, 8), "end": opened.end() // cluster * cluster,
              "far": (opened.end() // cluster + 100) * cluster, "zero": 0}
    for index in range(opened["l1_size"]):
        if opened.l1_entry(index) & HOST_OFFSET_MASK:
            places["L2 table"] = opened.l1_entry(index) & HOST_OFFSET_MASK
            break
    if opened["nb_snapshots"]:
        places["snapshot table"] = opened["snapshots_offset"]
        places["snapshot L1"] = opened.snapshot_field(0, "l1_table_offset")
    return places


def _offset(opened, generator, present):
    """Another host offset, and how it came about."""
    cluster = opened.cluster_size
    kind = generator.randrange(5)
    if kind == 0:
        name, offset = generator.choice(sorted(_clusters(opened).items()))
        return offset, name
    if kind == 1:
        return present ^ 1 << generator.randrange(9, 40), "a bit"
    if kind == 2:
        return max(0, present + generator.choice((-1, 1, 2)) * cluster), "a neighbour"
    if kind == 3:
        return present + 512 * generator.randrange(1, max(2, cluster // 512)), "misaligned"
    return generator.randrange(opened.end() // cluster) * cluster, "some cluster"


def _entry(opened, generator, entry, compressed_too):
    """An L1 or L2 entry made another."""
    kind = generator.randrange(6 if compressed_too else 4)
    if kind == 0:
        return entry ^ COPIED, "COPIED"
    if kind == 1:
        return 0, "nothing"
    if kind == 2:
        return entry ^ 1 << generator.randrange(64), "any bit"
    if kind == 3:
        offset, how = _offset(opened, generator, entry & HOST_OFFSET_MASK)
        return entry & ~HOST_OFFSET_MASK | offset & HOST_OFFSET_MASK, how
    if kind == 4:
        return entry ^ L2_ZERO, "zero"
    return entry & ~COPIED | L2_COMPRESSED, "compressed"


def _l1(opened, generator):
    used = [index for index in range(opened["l1_size"]) if opened.l1_entry(index)]
    index = generator.choice(used) if used else 0
    entry, how = _entry(opened, generator, opened.l1_entry(index), False)
    opened.set_l1_entry(index, entry)
    return "L1 entry %d: %s" % (index, how)


def _l1_of_snapshot(opened, generator):
    if not opened["nb_snapshots"]:
        return _l1(opened, generator)
    table = opened.snapshot_field(generator.randrange(opened["nb_snapshots"]), "l1_table_offset")
    entry, how = _entry(opened, generator, opened.l1_entry(0, table), False)
    opened.set_l1_entry(0, entry, table)
    return "L1 entry of a snapshot: %s" % how


def _l2(opened, generator):
    used = min(opened["virtual_size"], 64 << 20) // opened.cluster_size
    for _ in range(50):
        guest = generator.randrange(used) * opened.cluster_size
        position = opened.l2_entry_position(guest)
        if position is not None and position + 16 <= opened.end() and opened.l2_entry(guest):
            break
    else:
        return _l1(opened, generator)
    if opened.extended_l2 and generator.random() < 0.3:
        opened.set_l2_bitmap(guest, generator.choice(
            (0, opened.l2_bitmap(guest) ^ 1 << generator.randrange(64), 0xFFFFFFFFFFFFFFFF)))
        return "subcluster bitmap at %d" % guest
    entry, how = _entry(opened, generator, opened.l2_entry(guest), True)
    opened.set_l2_entry(guest, entry)
    return "L2 entry at %d: %s" % (guest, how)


def _refcounts(opened, generator):
    cluster = opened.cluster_size
    most = (1 << (1 << opened["refcount_order"] if opened["version"] > 2 else 16)) - 1
    first = generator.randrange(max(1, opened.end() // cluster))
    count = generator.choice((1, 1, 1, 5))
    value = generator.choice((0, 1, 2, 3, most))
    for index in range(first, first + count):
        if opened.refcount_position(index * cluster) is not None:
            opened.set_refcount(index * cluster, min(value, most))
    return "%d refcounts from cluster %d: %d" % (count, first, value)


def _refcount_table(opened, generator):
    index = generator.choice((0, 0, 0, 1, opened.cluster_size // 8 - 1))
    position = opened.refcount_table_entry_position(index)
    entry, how = _entry(opened, generator, opened.number(position, 8), False)
    opened.set_number(position, 8, entry)
    return "refcount table entry %d: %s" % (index, how)


def _header(opened, generator):
    name = generator.choice(HEADER_FIELDS)
    present = opened[name]
    if name.endswith("_offset"):
        value, how = _offset(opened, generator, present)
    else:
        value = generator.choice((0, 1, present + 1, max(0, present - 1), present * 2,
                                  present ^ 1 << generator.randrange(20)))
        how = str(value)
    opened[name] = value & (1 << 8 * qcow2.HEADER[name][1]) - 1
    return "%s: %s" % (name, how)


def _bits(opened, generator):
    if opened["version"] < 3:
        return _refcounts(opened, generator)
    if generator.random() < 0.3:
        opened["autoclear_features"] |= 1 << generator.randrange(8, 64)
        return "an unknown autoclear feature"
    opened["incompatible_features"] |= generator.choice((qcow2.DIRTY, qcow2.CORRUPT))
    return "incompatible features 0x%x" % opened["incompatible_features"]


def _snapshot(opened, generator):
    if not opened["nb_snapshots"]:
        return _header(opened, generator)
    index = generator.randrange(opened["nb_snapshots"])
    name = generator.choice(SNAPSHOT_FIELDS)
    present = opened.snapshot_field(index, name)
    if name == "l1_table_offset":
        value, how = _offset(opened, generator, present)
    elif name == "extra_data_size":
        value = generator.choice((0, 8, 15, 17, 24, 200, 1024, 1025, 2000, 1 << 31))
        how = str(value)
    else:
        value = generator.choice((0, 1, present + 1, present * 2, 0xFFFF))
        how = str(value)
    opened.set_snapshot_field(index, name, value & (1 << 8 * qcow2.SNAPSHOT[name][1]) - 1)
    return "snapshot %d, %s: %s" % (index, name, how)


def _bitmap(opened, generator):
    try:
        positions = opened.bitmap_positions()
    except KeyError:
        return _l2(opened, generator)
    index = generator.randrange(len(positions))
    table = opened.bitmap_field(index, "table_offset")
    kind = generator.randrange(4)
    if kind == 0:
        value, how = _offset(opened, generator, table)
        opened.set_bitmap_field(index, "table_offset", value)
    elif kind == 1:
        entry, how = _entry(opened, generator, opened.number(table, 8), False)
        opened.set_number(table, 8, entry)
    elif kind == 2:
        name = generator.choice(("table_size", "name_size", "extra_data_size"))
        value = generator.choice((0, 1, 2, 100, 0xFFFF))
        opened.set_bitmap_field(index, name, value)
        how = "%s %d" % (name, value)
    else:
        name = generator.choice(("nb_bitmaps", "directory_size", "directory_offset"))
        present = opened.bitmaps_field(name)
        value = generator.choice((0, 1, present + 1, present + 8, present * 2,
                                  present + opened.cluster_size))
        opened.set_bitmaps_field(name, value & (1 << 8 * qcow2.BITMAPS_HEADER[name][1]) - 1)
        how = "%s %d" % (name, value)
    return "bitmap %d: %s" % (index, how)


def _cut(opened, generator):
    end = generator.randrange(opened.end() // 2, opened.end())
    opened.file.truncate(end)
    return "cut off at %d" % end


_KINDS = [(_l2, 6), (_l1, 3), (_l1_of_snapshot, 2), (_refcounts, 5), (_refcount_table, 3),
          (_header, 3), (_bits, 1), (_snapshot, 3), (_bitmap, 3), (_cut, 1)]


def damage(path, generator):
    """Damages some structures of the image; returns what was done, for the report."""
    done = []
    with _Patient(path) as opened:
        for _ in range(generator.choice((1, 1, 1, 2, 4))):
            kind = generator.choices([kind for kind, _weight in _KINDS],
                                     [weight for _kind, weight in _KINDS])[0]
            try:
                done.append(kind(opened, generator))
            except (TypeError, KeyError, ValueError):
                done.append("(nothing, after what was done before)")
    return ", ".join(done)
