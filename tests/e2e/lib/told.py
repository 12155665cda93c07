# SPDX-License-Identifier: MIT
"""What the tables of a damaged image still tell of where its clusters belong.

    tables = told.Tables(path)               # an image in order
    known = told.Told(tables, damaged)       # the bytes of its file, damaged
    known.tells(cluster)                     # of the disk

The place of a cluster is told where

- its L2 entry is as it was, in a table that an L1 entry names that is as it was, be it a snapshot's; or a
  snapshot has the same cluster there;
- the L1 entry was lost, but between the tables that those around it name as many lie in the file, in the
  order of the entries, as were lost or are empty;
- the L2 entry was lost, but between the clusters that those around it name as many lie in the file that
  no entry names, in the order of the entries, as were lost or are empty. Of compressed ones it is not.

Of anything else the bytes are in the file, and nothing in it says where on the disk they were. That an entry
which can be is a wrong one, nothing says either: one whose bitmap of subclusters was damaged, say.
"""

import struct

from . import qcow2

HOST = qcow2.HOST_OFFSET_MASK


def _numbers(data):
    return struct.unpack(">%dQ" % (len(data) // 8), data[:len(data) // 8 * 8])


class Tables:
    """Where the tables of an image are, and what was in them: those of its disk and its snapshots."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        with qcow2.Qcow2(path) as opened:
            self.cluster = opened.cluster_size
            self.step = 16 if opened.extended_l2 else 8
            self.l1 = self._l1_table(opened["l1_table_offset"], opened["l1_size"])
            self.snapshots = [self._l1_table(opened.number(each.position, 8),
                                             opened.number(each.position + 8, 4))
                              for each in opened.snapshots()]
        self.entries = self.cluster // self.step  # in a table

    def _l1_table(self, offset, size):
        """[(where the entry is, the table that it names)]"""
        named = _numbers(self.bytes[offset:offset + 8 * size])
        return [(offset + 8 * index, entry & HOST) for index, entry in enumerate(named)]

    def position(self, table, cluster):
        """Of the L2 entry."""
        return table + cluster % self.entries * self.step

    def entry(self, position):
        return int.from_bytes(self.bytes[position:position + 8], "big") & ~qcow2.COPIED

    def older(self, cluster):
        """What the disk had there when snapshots were taken, as far as it is not compressed."""
        for l1_table in self.snapshots:
            index = cluster // self.entries
            if index < len(l1_table) and l1_table[index][1] != 0:
                host = self.entry(self.position(l1_table[index][1], cluster)) & HOST
                if host != 0:
                    yield self.bytes[host:host + self.cluster]


class Told:
    """What damaged bytes of an image's file tell."""

    def __init__(self, tables, damaged):
        self.tables = tables
        self.damaged = damaged
        self.whole = {}  # whether a table is as it was, by its offset
        self.runs = {}   # whether it is told where what was lost belongs, by its first cluster
        self.known = {}  # L2 tables by the index of the L1 entry
        for l1_table in [tables.l1, *tables.snapshots]:
            for index, (position, table) in enumerate(l1_table):
                if table != 0 and self._is_intact(position, 8) and index < len(tables.l1) \
                        and table == tables.l1[index][1]:
                    self.known[index] = table
        self.known.update(self._ordered())
        self.left = self._left()

    def _is_intact(self, position, length):
        end = position + length
        return end <= len(self.damaged) and \
            self.damaged[position:end] == self.tables.bytes[position:end]

    def _is_whole(self, table):
        if table not in self.whole:
            self.whole[table] = self._is_intact(table, self.tables.cluster)
        return self.whole[table]

    def _ordered(self):
        """Tables whose L1 entries were lost, where their order tells which."""
        l1_table = [table for _, table in self.tables.l1]
        lost = sorted(table for index, table in enumerate(l1_table)
                      if table != 0 and index not in self.known
                      and table + self.tables.cluster <= len(self.damaged))
        found, index = {}, 0
        while index < len(l1_table):
            end = index
            while end < len(l1_table) and end not in self.known:
                end += 1
            low, high = self.known.get(index - 1, 0), self.known.get(end, len(self.damaged))
            if end > index and l1_table[index:end] == [each for each in lost if low < each < high]:
                found.update((each, l1_table[each]) for each in range(index, end))
            index = max(end, index + 1)
        return found

    def _left(self):
        """Clusters of the disk that no entry names any more, in the order of the file."""
        tables, lost = self.tables, set()
        for _, table in tables.l1:
            if table == 0 or self._is_whole(table):
                continue
            for position in range(table, table + tables.cluster, tables.step):
                if not self._is_intact(position, tables.step):
                    lost.add(tables.entry(position) & HOST)
        if lost:
            for l1_table in tables.snapshots:
                for _, table in l1_table:
                    lost -= {entry & HOST for entry in
                             _numbers(self.damaged[table:table + tables.cluster])} - {0} \
                        if table != 0 else set()
        return sorted(lost - {0})

    def _position(self, cluster):
        """Of the entry, in a table whose place is known; None."""
        table = self.known.get(cluster // self.tables.entries)
        return self.tables.position(table, cluster) if table is not None and cluster >= 0 else None

    def _is_lost(self, cluster):
        position = self._position(cluster)
        return position is not None and (
            not self._is_intact(position, self.tables.step)
            or self.tables.bytes[position:position + 8] == bytes(8))

    def _is_shared(self, cluster, entry):
        """Whether a snapshot has it there."""
        for l1_table in self.tables.snapshots:
            index = cluster // self.tables.entries
            if index < len(l1_table) and l1_table[index][1] != 0 \
                    and self._is_intact(l1_table[index][0], 8):
                position = self.tables.position(l1_table[index][1], cluster)
                if self._is_intact(position, self.tables.step) \
                        and self.tables.entry(position) == entry:
                    return True
        return False

    def _can_be(self, position, entry):
        """Whether a damaged entry still names its cluster, and nothing in it contradicts."""
        if self.tables.step == 8 or position + 16 > len(self.damaged):
            return False
        now, bitmap = _numbers(self.damaged[position:position + 16])
        return now & HOST == entry & HOST and bitmap & bitmap >> 32 & 0xFFFFFFFF == 0

    def _is_run_told(self, cluster):
        begin = cluster
        while self._is_lost(begin - 1):
            begin -= 1
        if begin not in self.runs:
            end = cluster + 1
            while self._is_lost(end):
                end += 1
            self.runs[begin] = self._tells_run(begin, end)
        return self.runs[begin]

    def _tells_run(self, begin, end):
        around = [self._position(begin - 1), self._position(end)]
        if None in around:
            return False
        before, behind = (self.tables.entry(position) for position in around)
        if before == 0 or behind == 0 or (before | behind) & qcow2.L2_COMPRESSED:
            return False
        named = [self.tables.entry(self._position(each)) & HOST for each in range(begin, end)]
        return named == [host for host in self.left if before & HOST < host < behind & HOST]

    def tells(self, cluster):
        """Whether the place of a cluster of the disk, which had data, is told."""
        table = self.tables.l1[cluster // self.tables.entries][1]
        position = self.tables.position(table, cluster)
        entry = self.tables.entry(position)
        if cluster // self.tables.entries in self.known:
            if self._is_whole(table) or self._is_intact(position, self.tables.step):
                return True
            if not self._can_be(position, entry) and self._is_run_told(cluster):
                return True
        return self._is_shared(cluster, entry)
