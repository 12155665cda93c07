#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""contrib/libvirt/qcow2fs-domain, and the schema of the element that it reads."""

import json
import os
import re

from lib import bad, compare, image, mount, run, tap, tools
from lib.tap import check, check_equal

CONTRIB = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "contrib", "libvirt")
SCRIPT = os.path.join(CONTRIB, "qcow2fs-domain")
SCHEMA = os.path.join(CONTRIB, "qcow2-driver.rng")
SETTINGS = "<qcow2 l2_cache_size='2097152' refcount_cache_size='524288' " \
           "cache_clean_interval='900'/>"

# As libvirt writes it; the sources are put in.
DOMAIN = """\
<domain type='qemu'>
  <name>QEMUGuest1</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <memory unit='KiB'>219136</memory>
  <currentMemory unit='KiB'>219136</currentMemory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type arch='i686' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <devices>
    <emulator>/usr/bin/qemu-system-i686</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'>
        %s
      </driver>
      <source dev='%s'/>
      <target dev='hda' bus='ide'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='block' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/HostVG/QEMUGuest2'/>
      <target dev='hdc' bus='ide'/>
      <readonly/>
      <address type='drive' controller='0' bus='1' target='0' unit='0'/>
    </disk>
    <memballoon model='none'/>
  </devices>
</domain>
"""

# Each is one disk: what stands in <disk>, and what the command must hold.
DISK = "<domain><devices><disk %s>%s<target dev='vda' bus='virtio'/></disk></devices></domain>"
SOURCE = "<source file='/a.qcow2'/>"
ACCEPTED = {
    "a file without settings":
        ("type='file'", "<driver type='qcow2'/>" + SOURCE, "-- /a.qcow2 /mnt"),
    "a disk without a type, which is a file":
        ("", "<driver type='qcow2'/>" + SOURCE, "-- /a.qcow2 /mnt"),
    "<readonly/>":
        ("type='file'", "<driver type='qcow2'/><readonly/>" + SOURCE, "-o ro -- /a.qcow2 /mnt"),
    "a CD-ROM":
        ("type='file' device='cdrom'", "<driver type='qcow2'/>" + SOURCE,
         "-o ro -- /a.qcow2 /mnt"),
    "<transient/> that is read-only":
        ("type='file'", "<driver type='qcow2'/><transient/><readonly/>" + SOURCE,
         "-o ro -- /a.qcow2 /mnt"),
    "a cache mode, and discarding":
        ("type='file'", "<driver type='qcow2' cache='unsafe' discard='ignore'/>" + SOURCE,
         "-o cache=unsafe,discard=ignore -- /a.qcow2 /mnt"),
    "defaults that are written out":
        ("type='file'", "<driver type='qcow2' cache='default'/>" + SOURCE, "-- /a.qcow2 /mnt"),
    "sizes of 0, which are the default, and an interval of 0, which is never":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='0' refcount_cache_size='0' "
         "cache_clean_interval='0'/></driver>" + SOURCE,
         "-o cache-clean-interval=0 -- /a.qcow2 /mnt"),
    "several <qcow2/> elements":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='1048576'/>"
         "<qcow2 refcount_cache_size='65536'/></driver>" + SOURCE,
         "-o l2-cache-size=1048576,refcount-cache-size=65536 -- /a.qcow2 /mnt"),
    "<metadata_cache>":
        ("type='file'", "<driver type='qcow2'><metadata_cache><max_size unit='MiB'> 4 </max_size>"
         "</metadata_cache></driver>" + SOURCE, "-o cache-size=4194304 -- /a.qcow2 /mnt"),
    "<metadata_cache> beside the size of one of the two caches":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='1048576'/><metadata_cache>"
         "<max_size unit='KiB'>4096</max_size></metadata_cache></driver>" + SOURCE,
         "-o l2-cache-size=1048576,cache-size=4194304 -- /a.qcow2 /mnt"),
    "a path with blanks and quotes":
        ("type='file'", "<driver type='qcow2'/><source file='/a b&quot;,c.qcow2'/>",
         "-- '/a b\",c.qcow2' /mnt"),
}
REFUSED = {
    "a cache size that is no number":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='2M'/></driver>" + SOURCE,
         "l2_cache_size", "2M"),
    "a cache size below 0":
        ("type='file'", "<driver type='qcow2'><qcow2 refcount_cache_size='-1'/></driver>" + SOURCE,
         "refcount_cache_size", "-1"),
    "an interval that is empty":
        ("type='file'", "<driver type='qcow2'><qcow2 cache_clean_interval=''/></driver>" + SOURCE,
         "cache_clean_interval"),
    "a number of 80 digits":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='%s'/></driver>%s"
         % ("9" * 80, SOURCE), "l2_cache_size"),
    "a number of 80000 digits":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='%s'/></driver>%s"
         % ("9" * 80000, SOURCE), "l2_cache_size"),
    "an attribute that <qcow2/> has not":
        ("type='file'", "<driver type='qcow2'><qcow2 l1_cache_size='1'/></driver>" + SOURCE,
         "l1_cache_size"),
    "l2_cache_size for a raw disk":
        ("type='file'", "<driver type='raw'><qcow2 l2_cache_size='1'/></driver>" + SOURCE,
         "l2_cache_size", "'raw'"),
    "refcount_cache_size for a VMDK disk":
        ("type='file'", "<driver type='vmdk'><qcow2 refcount_cache_size='1'/></driver>" + SOURCE,
         "refcount_cache_size", "'vmdk'"),
    "cache_clean_interval without a type":
        ("type='file'", "<driver><qcow2 cache_clean_interval='1'/></driver>" + SOURCE,
         "cache_clean_interval", "'raw'"),
    "<metadata_cache> for a raw disk":
        ("type='file'", "<driver type='raw'><metadata_cache/></driver>" + SOURCE,
         "metadata_cache"),
    "a raw disk": ("type='file'", "<driver type='raw'/>" + SOURCE, "'raw'", "qcow2"),
    "a disk without a driver": ("type='file'", SOURCE, "'raw'"),
    "a disk in the network":
        ("type='network'", "<driver type='qcow2'/><source protocol='nbd'/>", "'network'"),
    "a disk without a source": ("type='file'", "<driver type='qcow2'/>", "<source file="),
    "a block device without a device":
        ("type='block'", "<driver type='qcow2'/>" + SOURCE, "<source dev="),
    "a relative path":
        ("type='file'", "<driver type='qcow2'/><source file='a'/>", "absolute"),
    "an encrypted disk":
        ("type='file'", "<driver type='qcow2'/><source file='/a'><encryption/></source>",
         "encrypted"),
    "a slice":
        ("type='file'", "<driver type='qcow2'/><source file='/a'><slices/></source>", "slice"),
    "<transient/>":
        ("type='file'", "<driver type='qcow2'/><transient/>" + SOURCE, "<transient/>"),
    "an unknown cache mode":
        ("type='file'", "<driver type='qcow2' cache='fast'/>" + SOURCE, "cache='fast'"),
    "an unknown way to discard":
        ("type='file'", "<driver type='qcow2' discard='on'/>" + SOURCE, "discard='on'"),
    "<metadata_cache> beside the sizes of both caches":
        ("type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='1' refcount_cache_size='1'/>"
         "<metadata_cache><max_size>1</max_size></metadata_cache></driver>" + SOURCE, "l2_cache_size",
         "metadata_cache"),
    "a unit that is none":
        ("type='file'", "<driver type='qcow2'><metadata_cache><max_size unit='acre'>1</max_size>"
         "</metadata_cache></driver>" + SOURCE, "acre"),
}

suite = tap.Suite(needs=[tools.fuse, tools.QEMU])


def write(directory, text, name="domain.xml"):
    """A file with the text; its path."""
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def script(*arguments, status=0, **keywords):
    """Runs the script, for the program under test."""
    return tools.run(SCRIPT, *arguments, status=status,
                     env={"QCOW2FS": run.program(), run.MARK: run.directory}, **keywords)


def printed(*arguments, **keywords):
    """The command that it would run, without the program."""
    done = script("--print", *arguments, **keywords)
    check(done.stdout.startswith(run.program()), "it would run %r", done.stdout)
    return done.stdout[len(run.program()):].strip()


def check_refused(*arguments, words=(), **keywords):
    """Status 1, and one sentence with all the words."""
    done = script(*arguments, status=1, **keywords)
    check_equal(done.stdout, "", "standard output")
    bad.check_sentence(done.stderr, *words, program="qcow2fs-domain")


@suite.test("the example domain is mounted with its cache mode and its cache sizes",
            needs=[tools.root])
def _(directory):
    path = bad.sample("plain", directory)
    expected = bad.contents(path)
    # A loop device has no part of a sector, in which compressed data may end.
    os.truncate(path, -(-os.path.getsize(path) // 512) * 512)
    at = os.path.join(directory, "mnt")
    os.mkdir(at)
    with mount.loop_device(path, writable=True) as device:
        domain = write(directory, DOMAIN % (SETTINGS, device))
        check_equal(printed(domain, "hda", at),
                    "-o cache=none,l2-cache-size=2097152,refcount-cache-size=524288,"
                    "cache-clean-interval=900 -- %s %s" % (device, at), "the command")
        with bad.unmounted_at_the_end(at):
            script(domain, "hda", at)
            bad.check_disk(at, "disk.raw", expected)
            with open(os.path.join(at, "stats.json"), encoding="utf-8") as file:
                stats = json.dumps(json.load(file))
            check("2097152" in stats, "no cache of the size asked for in %s", stats)
            tools.run("umount", at)
        bad.wait_gone(at)


@suite.test("its values hold for every image of the backing chain")
def _(directory):
    base = image.create(os.path.join(directory, "base.qcow2"), 64 * image.MiB)
    image.io(base, image.write(0, 65536, seed=1))
    top = image.create(os.path.join(directory, "top.qcow2"), 64 * image.MiB, backing=base,
                       backing_format="qcow2")
    domain = write(directory, DISK % (
        "type='file'", "<driver type='qcow2'><qcow2 l2_cache_size='65536'/></driver>"
        "<readonly/><source file='%s'/>" % top))
    at = os.path.join(directory, "disk.raw")
    open(at, "wb").close()
    with bad.unmounted_at_the_end(at):
        script(domain, "vda", at)
        with open(at, "rb") as disk:
            compare.check_bytes(disk.read(65536), image.pattern(65536, 1), 0)
        tools.run("fusermount3", "-u", at)


for name, (attributes, inside, command) in ACCEPTED.items():
    @suite.test("%s is understood" % name)
    def _(directory, attributes=attributes, inside=inside, command=command):
        check_equal(printed(write(directory, DISK % (attributes, inside)), "vda", "/mnt"), command,
                    "the command")

for name, (attributes, inside, *words) in REFUSED.items():
    @suite.test("%s is refused, by name" % name)
    def _(directory, attributes=attributes, inside=inside, words=words):
        domain = write(directory, DISK % (attributes, inside))
        for arguments in ((), ("--print",)):
            check_refused(*arguments, domain, "vda", directory, words=words)


@suite.test("a domain is read from standard input")
def _(_directory):
    text = DISK % ("type='file'", "<driver type='qcow2'/>" + SOURCE)
    check_equal(printed("-", "vda", "/mnt", input=text), "-- /a.qcow2 /mnt", "the command")


@suite.test("-o adds options behind those of the domain")
def _(directory):
    domain = write(directory, DISK % ("type='file'", "<driver type='qcow2'/><readonly/>" + SOURCE))
    check_equal(printed("-o", "cache-size=1M", "-o", "mode=600", domain, "vda", "/mnt"),
                "-o ro,cache-size=1M,mode=600 -- /a.qcow2 /mnt", "the command")


@suite.test("a target that the domain has not is refused, and those that it has are named")
def _(directory):
    check_refused(write(directory, DOMAIN % ("", "/a")), "vdz", directory,
                  words=("vdz", "hda", "hdc"))


@suite.test("what is no domain is refused")
def _(directory):
    check_refused(os.path.join(directory, "missing"), "vda", directory, words=("missing",))
    check_refused(directory, "vda", directory, words=(directory,))
    for text in ("", "no XML", "<domain>", "<network/>", "\x7fELF\x01",
                 "<?xml version='1.0' encoding='no-such'?><domain/>"):
        check_refused(write(directory, text), "vda", directory, words=("domain.xml",))


@suite.test("entities that grow without end are refused at once")
def _(directory):
    levels = "".join("<!ENTITY a%d \"%s\">" % (i, "&a%d;" % (i - 1) * 10) for i in range(1, 12))
    text = "<!DOCTYPE domain [<!ENTITY a0 \"aaaaaaaaaa\">%s]><domain>&a11;</domain>" % levels
    check_refused(write(directory, text), "vda", directory, words=("domain.xml",))


@suite.test("letters of a domain that a terminal would obey are not printed")
def _(directory):
    done = script(write(directory, DISK % ("type='\u009b31m'", "<driver type='qcow2'/>")), "vda",
                  directory, status=1)
    check("\u009b" not in done.stderr, "%r", done.stderr)
    path = "/a\u009b31m\u202eb's.qcow2"
    done = script("--print", write(directory, DISK % (
        "type='file'", '<driver type="qcow2"/><source file="%s"/>' % path)), "vda", "/mnt\x1b[2J")
    check(done.stdout[:-1].isprintable(), "%r", done.stdout)
    words = tools.run("bash", "-c", "printf '%%s\\0' %s" % done.stdout).stdout.split("\0")
    check_equal(words[1:], ["--", path, "/mnt\x1b[2J", ""], "what a shell reads")
    for arguments in (("a", "b", "c", "--\x1b[2J"), ("--\u202e", "a", "b", "c", "d")):
        done = script(*arguments, status=2)
        check(done.stderr.replace("\n", "").isprintable(), "%r", done.stderr)


@suite.test("a command that cannot be printed is told, and qcow2fs is not called missing")
def _(directory):
    path = write(directory, DISK % ("type='file'", '<driver type="qcow2"/><source file="/a"/>'))
    done = tools.run("sh", "-c", 'exec "$@" >/dev/full', "sh", SCRIPT, "--print", path, "vda", "/mnt",
                     status=1)
    check_equal(done.stderr, "qcow2fs-domain: the command could not be printed: No space left on device\n",
                "what it said")


@suite.test("a wrong command line is told with status 2")
def _(directory):
    for arguments in ((), ("domain.xml",), ("a", "b", "c", "d"), ("--no-such", "a", "b", "c")):
        script(*arguments, status=2)
    check("examples:" in script("--help").stdout, "the help has no examples")
    _ = directory


@suite.test("the schema accepts what the script does, and nothing else",
            needs=[tools.tool("xmllint")])
def _(directory):
    def status(text):
        return tools.run("xmllint", "--noout", "--relaxng", SCHEMA, write(directory, text),
                         status=None).returncode

    for text in (SETTINGS, "<qcow2/>", "<qcow2 l2_cache_size='0'/>",
                 "<qcow2 cache_clean_interval='9223372036854775807'/>"):
        check_equal(status(text), 0, text)
    for value in ("-1", "2M", "", "1.5", "+1", "0x10", "9223372036854775808"):
        for attribute in ("l2_cache_size", "refcount_cache_size", "cache_clean_interval"):
            text = "<qcow2 %s='%s'/>" % (attribute, value)
            check(status(text) != 0, "the schema accepts %s", text)
            domain = DISK % ("", "<driver type='qcow2'>%s</driver>%s" % (text, SOURCE))
            check_refused(write(directory, domain), "vda", directory, words=(attribute,))
    for text in ("<qcow2 other='1'/>", "<qcow2>1</qcow2>", "<raw/>"):
        check(status(text) != 0, "the schema accepts %s", text)
    element = re.search("<qcow2 .*/>", DOMAIN % (SETTINGS, "/a")).group()
    check_equal(status(element), 0, "the element of the example domain")


if __name__ == "__main__":
    suite.main()
