"""What evaluate prints of two predictions, and of groups of images."""

from __future__ import annotations

import json
import math

import pytest

from cellkit.cli.comparing import (
    comparison_document,
    group_report,
    groups_document,
    read_groups,
    write_comparison,
    write_groups,
)
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.metrics import SetReport, score, summarise
from cellkit.metrics.comparisons import compare
from cellkit.metrics.groups import grouped


@pytest.fixture
def truths(two_touching_cells, cell_on_border, crowded_field, empty_field):
    return {"touching": two_touching_cells, "border": cell_on_border, "crowd": crowded_field, "[red]x": empty_field}


@pytest.fixture
def perfect(truths):
    return summarise(score(labels, labels, key=key) for key, labels in truths.items())


@pytest.fixture
def worse(truths):
    """One cell of every image is lost; border is not there, another is."""
    images = [score(labels, labels * (labels != 1), key=key) for key, labels in truths.items() if key != "border"]
    return summarise([*images, score(truths["border"], truths["border"], key="other")])


def test_document_is_the_comparison(perfect, worse):
    document = comparison_document(perfect, worse, names=("perfect/", "worse/"))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["first"], document["second"], document["n_images"]) == ("perfect/", "worse/", 3)
    assert (document["only_first"], document["only_second"]) == (["border"], ["other"])
    ap = document["metrics"]["ap_dsb@0.5"]
    theirs = compare(perfect, worse)["ap_dsb@0.5"]
    assert (ap["n"], ap["first"], ap["second"], ap["p"]) == (2, 1.0, theirs.second, theirs.p)
    assert (ap["improved"], ap["worse"], ap["equal"]) == (0, 2, 0)
    assert document["metrics"]["n_true"]["improved"] is None
    assert document["pooled"]["n_true"]["difference"] == 0
    assert [change["image"] for change in document["changed"]] == ["touching", "crowd"]
    assert document["changed"][0] == {"image": "touching", "first": 1.0, "second": 0.5, "difference": -0.5}


def test_undefined_values_are_null(perfect):
    alone = summarise(perfect.images[:1])
    dice = comparison_document(alone, alone)["metrics"]["dice"]
    assert (dice["low"], dice["high"], dice["difference"]) == (None, None, 0.0)


def test_json_is_one_document(perfect, worse, capsys):
    write_comparison(perfect, worse, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"comparison": comparison_document(perfect, worse)}


def test_table_is_for_people(perfect, worse, capsys):
    write_comparison(perfect, worse, names=("old", "new"))
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert out.splitlines()[0].split() == "3 images n old new difference 95 % interval p better worse".split()
    assert lines["ap_dsb@0.5"][1:5] == ["2", "1.0000", "0.7361", "-0.2639"]
    assert lines["ap_dsb@0.5"][-3:] == ["0.5000", "0", "2"]
    assert lines["n_true"][-2:] == ["-", "-"]
    assert "ap_dsb@0.55" not in lines
    assert "only in old: border\nonly in new: other" in out.replace("\n\n", "\n")
    assert "changed most by ap_dsb" in out
    assert lines["touching"] == ["touching", "1.0000", "0.5000", "-0.5000"]
    assert max(map(len, out.splitlines())) <= 100
    write_comparison(worse, perfect)
    assert "+0.2639" in capsys.readouterr().out


def test_table_has_the_metrics_that_are_asked_for(perfect, worse, capsys):
    write_comparison(perfect, worse, metrics=["dice", "recall@0.55"], changed_by="dice")
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["recall@0.55", "dice"]
    assert "changed most by dice" in out


def test_values_of_the_set_alone_are_compared_too(perfect, worse, capsys):
    def with_coco(report, value):
        return SetReport(report.images, report.mean, report.pooled | {"coco/segm/AP": value}, report.defined)

    write_comparison(with_coco(perfect, 1.0), with_coco(worse, 0.75))
    out = capsys.readouterr().out
    assert next(line.split() for line in out.splitlines() if line.startswith("coco")) == [
        "coco/segm/AP",
        "1.0000",
        "0.7500",
        "-0.2500",
    ]


def test_names_are_text(perfect, worse, truths, capsys):
    odd = summarise([score(truths["crowd"], truths["crowd"] * 0, key="[bold]:smile:")])
    right = summarise([score(truths["crowd"], truths["crowd"], key="[bold]:smile:")])
    write_comparison(odd, right, names=("[link]a", "b:bug:"))
    out = capsys.readouterr().out
    assert "[bold]:smile:" in out
    assert "[link]a" in out
    assert "b:bug:" in out


def test_nothing_changed(perfect, capsys):
    write_comparison(perfect, perfect)
    out = capsys.readouterr().out
    assert "no image changed" in out
    assert "only in" not in out


def test_no_common_image(perfect, truths):
    other = summarise([score(truths["crowd"], truths["crowd"], key="elsewhere")])
    with pytest.raises(NoInputError) as error:
        comparison_document(perfect, other, names=("old/", "new/"))
    assert str(error.value) == "old/, new/: no image is in both (names must be equal but for suffixes)"


def test_unknown_metric_of_change(perfect, worse):
    with pytest.raises(UsageError, match=r"dise: no such metric \(did you mean dice\?"):
        write_comparison(perfect, worse, changed_by="dise")


# groups


@pytest.fixture
def table(tmp_path):
    def write(text: str, encoding: str = "utf-8") -> str:
        path = tmp_path / "plates.csv"
        path.write_bytes(text.encode(encoding))
        return str(path)

    return write


@pytest.mark.parametrize(
    "text",
    [
        "image,plate\na,P1\nb,P2\n",
        "plate,image\nP1,a.tif\nP2,images/b.ome.tif\n",
        "first column,plate\nC:\\data\\a.png,P1\nb_masks.png,P2\n",
        "\ufeffplate;Image\nP1;a\n ; \n P2 ;b\n;\n",
        "well\tfile\tplate\nA01\ta\tP1\n\nA02\tb\tP2\n",
        "name,note,plate\na,,P1\nb,,P2\nc,no plate\n",
    ],
)
def test_groups_are_read_from_any_table(table, text):
    groups = read_groups(table(text), "plate")
    assert (groups["a"], groups["b"]) == ("P1", "P2")
    assert not groups.get("c")


def test_frames_of_the_cell_tracking_challenge(table):
    assert read_groups(table("image,stage\nman_seg007.tif,early\n"), "stage")["t007"] == "early"


def test_an_image_of_its_own_name_comes_before_a_mark(table):
    groups = read_groups(table("image,plate\na_masks,P1\na,P2\n"), "plate")
    assert (groups["a"], groups["a_masks"]) == ("P2", "P1")


def test_a_missing_column_names_the_others(table):
    path = table("image,plate,cell type\na,P1,Huh7\n")
    with pytest.raises(UsageError) as error:
        read_groups(path, "cell")
    assert str(error.value) == f"--group-by: {path} has no column 'cell' (columns: image, plate, cell type)"


def test_two_groups_of_one_image(table):
    path = table("image,plate\na.tif,P1\nb,P1\nsub/a.png,P2\n")
    with pytest.raises(UsageError) as error:
        read_groups(path, "plate")
    assert str(error.value) == f"{path}, line 4: a second group of a (give one row per image)"
    assert read_groups(table("image,plate\na.tif,P1\na,P1\n"), "plate")["a"] == "P1"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", NoInputError, "{path}: the table has no rows (one line of names, then one line per row)"),
        ("image,plate\n", NoInputError, "{path}: the table has no rows (one line of names, then one line per row)"),
        ("a,a\n1,2\n", InputError, "{path}: two columns are called a (rename one)"),
        ("a,b\n1,2,3\n", InputError, "{path}, line 2: 3 cells under 2 names (quote cells that hold the delimiter)"),
    ],
)
def test_tables_that_cannot_be_read(table, text, kind, message):
    path = table(text)
    with pytest.raises(kind) as error:
        read_groups(path, "a")
    assert str(error.value) == message.format(path=path)


def test_what_is_no_table(table, tmp_path):
    with pytest.raises(InputError, match=r"the table cannot be read \(give CSV text in UTF-8"):
        read_groups(table("image,plate\nä,b\n", "latin-1"), "plate")
    with pytest.raises(InputError, match="the table cannot be read"):
        read_groups(str(tmp_path), "plate")
    with pytest.raises(InputError, match=r"nowhere.csv: there is no such table \(check the path\)"):
        read_groups("nowhere.csv", "plate")


def test_group_report(perfect):
    reports = group_report(perfect, {"crowd": "dense", "border": "sparse"}, "plates.csv")
    assert reports == grouped(perfect, {"crowd": "dense", "border": "sparse"})
    assert list(reports) == ["dense", "sparse", "(none)"]


def test_no_image_of_the_table_is_scored(perfect):
    with pytest.raises(NoInputError) as error:
        group_report(perfect, {"a": "b"}, "plates.csv")
    message = "plates.csv: it gives no group to any scored image, e.g. touching (names must be those of the images)"
    assert str(error.value) == message


def test_groups_table(worse, capsys):
    write_groups(grouped(worse, {"crowd": "[red]dense", "touching": "sparse"}))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["group", "images", "ap_dsb", "f1@0.5", "pq", "ctc/SEG", "aji", "dice"]
    assert [line[:2] for line in lines[1:]] == [["[red]dense", "1"], ["sparse", "1"], ["(none)", "2"]]
    assert lines[2][2] == "0.5000"


def test_groups_table_of_chosen_metrics(perfect, capsys):
    write_groups(grouped(perfect, {"crowd": "dense"}), metrics=["dice", "no such"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["group", "images", "dice"]


def test_undefined_means_are_dashes(truths, capsys):
    empty = truths["[red]x"]
    write_groups({"empty": summarise([score(empty, empty)])})
    assert capsys.readouterr().out.splitlines()[1].split() == ["empty", "1", "-", "-", "-", "-", "-", "1.0000"]


def test_groups_json(worse, capsys):
    reports = grouped(worse, {"crowd": "dense"})
    write_groups(reports, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document == {"groups": groups_document(reports)}
    dense = document["groups"]["dense"]
    assert (dense["n_images"], dense["images"]) == (1, ["crowd"])
    assert dense["mean"]["dice"] == reports["dense"].mean["dice"]
    nothing = groups_document(grouped(worse, {"[red]x": "none"}))["none"]
    assert math.isnan(reports["(none)"].mean["dice"]) is False
    assert (nothing["mean"]["aji"], nothing["defined"]["aji"]) == (None, 0)
