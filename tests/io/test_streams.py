import io
import os
import tarfile
from pathlib import Path

import pytest

from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io.streams import END_NAME, START_NAME, StreamWriter, read_stream

CUT = "(the command before it failed: run it again)"
FILES = [
    ("a b.tif", b"first"),
    ("größe.01.h5", bytes(512)),
    ("l" * 150 + ".tif", b""),
    ("z.tif", os.urandom(1)),
]


def ours(files=FILES):
    stream = io.BytesIO()
    with StreamWriter(stream) as writer:
        for name, data in files:
            writer.write(name, data)
    return stream.getvalue()


def plain(files=FILES, form=tarfile.PAX_FORMAT, change=None):
    """What ``tar c`` makes of a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("in")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files:
            info = tarfile.TarInfo("in/" + name)
            info.size = len(data)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def read(data):
    return list(read_stream(io.BytesIO(data)))


def error_of(data):
    with pytest.raises(InputError) as caught:
        read(data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("-: ")


def test_what_is_written_is_read():
    assert read(ours()) == FILES
    assert read(ours([])) == []


def test_tar_unpacks_our_stream():
    with tarfile.open(fileobj=io.BytesIO(ours())) as archive:
        found = [(item.name, archive.extractfile(item).read()) for item in archive]
    assert found[1:-1] == FILES
    assert (found[0][0], found[-1][0]) == (START_NAME, END_NAME)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_plain_archive_is_read(form):
    assert read(plain(form=form)) == [("in/" + name, data) for name, data in FILES]


def test_an_archive_of_the_oldest_kind_is_read():
    files = [("a" * 90 + "/" + "b" * 60 + ".tif", b"x")]
    assert read(plain(files, tarfile.USTAR_FORMAT)) == [("in/" + files[0][0], b"x")]


def test_large_sizes_in_a_pax_header():
    def large(info):
        info.pax_headers = {"size": str(info.size), "comment": "a = b\n c"}

    assert read(plain(change=large)) == [("in/" + name, data) for name, data in FILES]


def test_global_headers_and_hidden_files_are_passed_over():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        for name in ("in/.DS_Store", "in/._a.tif", "./in/a.tif"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert read(stream.getvalue()) == [("./in/a.tif", b"abc")]


def test_our_stream_cut_at_every_byte_is_an_error():
    data = ours()
    for length in range(len(data)):
        with pytest.raises(
            InputError, match=r"^-: is (cut after \d files|empty or cut) \(the command before it failed"
        ):
            read(data[:length])


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_plain_archive_cut_at_every_byte_is_an_error(form):
    data = plain(form=form)
    end = len(data.rstrip(b"\0"))
    end += -end % 512 + 1024  # its two blocks of zeros; what follows is padding
    for length in range(end):
        with pytest.raises(
            InputError, match=r"^-: is (cut after \d files|empty or cut) \(the command before it failed"
        ):
            read(data[:length])
    assert read(data[:end]) == read(data)


def test_members_come_before_the_cut_is_known():
    found = read_stream(io.BytesIO(ours()[:-2048]))
    assert [next(found) for _ in FILES] == FILES
    with pytest.raises(InputError, match="is cut after 4 files"):
        next(found)


def test_a_writer_that_fails_writes_no_end():
    stream = io.BytesIO()

    def fail():
        with StreamWriter(stream) as writer:
            writer.write("a.tif", b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert error_of(stream.getvalue() + bytes(1024)) == f"is cut after 1 files {CUT}"


def test_nothing_came():
    assert error_of(b"") == f"is empty or cut {CUT}"


def test_what_is_no_archive():
    assert error_of(b"x" * 2000) == "is no valid tar archive (pipe what 'tar c' makes)"
    assert error_of(b"\x1f\x8b" + b"x" * 2000) == "is no valid tar archive (decompress it first, e.g. with zcat)"
    assert error_of(bytes(512) + b"x" * 512) == "is no valid tar archive: its end is damaged (make it again)"


def test_two_archives_in_one_pipe():
    assert error_of(plain() + plain()) == "goes on after its end (pipe one archive at a time)"
    assert error_of(ours() + ours()) == "goes on after its end (pipe one archive at a time)"


def members_of(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(item.name, archive.extractfile(item).read()) for item in archive]


def bare(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_a_stream_that_does_not_agree_with_its_end():
    start, *files, end = members_of(ours())
    again = "(run the command before it again)"
    assert read(bare([start, *files, end])) == FILES
    assert error_of(bare([start, *files[1:], end])) == f"is damaged: its digest is wrong {again}"
    assert error_of(bare([start, *files[::-1], end])) == f"is damaged: its digest is wrong {again}"
    assert error_of(bare([start, ("a b.tif", b"other"), *files[1:], end])) == f"is damaged: its digest is wrong {again}"
    assert error_of(bare([start, *files])) == f"is cut after 4 files {CUT}"
    assert error_of(bare([start, *files, end, end])) == "goes on after its end (pipe one stream at a time)"
    assert error_of(bare([start, *files, (END_NAME, b"[]")])) == f"is a damaged stream {again}"
    assert error_of(bare([(START_NAME, b"{"), *files, end])) == f"is a damaged stream {again}"
    assert error_of(bare([(START_NAME, b"{}"), *files, end])) == f"is a damaged stream: no format version {again}"
    newer = error_of(bare([(START_NAME, b'{"format": 2}'), *files, end]))
    assert newer == "is a stream of format 2; this cellkit reads up to 1 (upgrade cellkit)"


@pytest.mark.parametrize("name", ["../x.tif", "in/../../x.tif", "/etc/x.tif"])
def test_members_that_would_leave_the_folder(name):
    expected = f"the member {name!r} would leave the output folder (make the archive with plain relative names)"
    assert error_of(bare([(name, b"x")])) == expected


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(kind):
    def change(info):
        info.type, info.linkname = kind, "/etc/passwd"

    text = error_of(plain([("a.tif", b"")], change=change))
    problem = "the member 'in/a.tif' is a link, a device or a sparse file"
    assert text == f"{problem} (make the archive of plain files, e.g. with tar ch)"


def test_sparse_files():
    def change(info):
        info.pax_headers = {"GNU.sparse.major": "1"}

    assert "is a link, a device or a sparse file" in error_of(plain(change=change))


def test_a_size_that_is_a_lie_costs_no_memory():
    header = tarfile.TarInfo("a.tif")
    header.size = 1 << 60
    assert error_of(header.tobuf(tarfile.GNU_FORMAT) + b"short") == f"is empty or cut {CUT}"
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    expected = "is no valid tar archive: a size of 1073741824 (make it again)"
    assert error_of(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048)) == expected


def test_a_damaged_pax_header():
    for records in (b"no length\n", b"99 path=x\n", b"9 path=x"):
        header = tarfile.TarInfo("a.tif")
        header.type, header.size = tarfile.XHDTYPE, len(records)
        data = header.tobuf() + records.ljust(512, b"\0") + bytes(2048)
        assert error_of(data) == "is no valid tar archive: a damaged pax header (make it again)"


def test_names_that_are_no_names():
    writer = StreamWriter(io.BytesIO())
    for name in ("../x.tif", "a/b.tif", ".hidden", ""):
        with pytest.raises(InputError):
            writer.write(name, b"")


def test_a_name_of_broken_bytes_comes_back():
    name = os.fsdecode(b"gr\xf6\xdfe.tif")
    assert read(ours([(name, b"x")])) == [(name, b"x")]


def test_each_member_has_left_when_it_is_written():
    receiving, sending = os.pipe()
    with open(receiving, "rb", buffering=0) as reader, open(sending, "wb") as stream:
        writer = StreamWriter(stream)
        reader.read(1 << 16)
        writer.write("a.tif", b"x" * 600)
        assert len(reader.read(1 << 16)) == 512 + 1024


def test_a_closed_pipe_is_passed_on():
    receiving, sending = os.pipe()
    os.close(receiving)
    with open(sending, "wb", buffering=0) as stream, pytest.raises(BrokenPipeError):
        StreamWriter(stream)


def test_a_full_disk():
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(OutputError) as caught:
        StreamWriter(stream)
    expected = "-: could not be written: no space is left on the device"
    assert str(caught.value) == f"{expected} (free some space, or write elsewhere with -o)"


def test_no_binary_to_a_terminal():
    controller, terminal = os.openpty()
    with open(terminal, "wb", buffering=0) as stream, pytest.raises(UsageError) as caught:
        StreamWriter(stream)
    os.close(controller)
    assert str(caught.value) == "-: refuse to write binary to a terminal (add > FILE, | COMMAND or -o DIR)"


def test_short_reads_of_a_pipe():
    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 7))

    assert list(read_stream(Dripping(ours()))) == FILES


def test_a_file_is_as_good_as_a_pipe(tmp_path):
    path = Path(tmp_path / "a.tar")
    path.write_bytes(ours())
    with path.open("rb") as stream:
        assert list(read_stream(stream, str(path))) == FILES
    path.write_bytes(ours()[:-1])
    with path.open("rb") as stream, pytest.raises(InputError, match=r"a\.tar: is cut after 4 files"):
        list(read_stream(stream, str(path)))
