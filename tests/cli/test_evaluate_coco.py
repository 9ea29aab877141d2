"""cellkit evaluate on COCO files: the numbers of pycocotools, whatever form truth and prediction have."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellkit.data.truth import LabelFile
from cellkit.io.labels import LabelImage
from cellkit.ops.run_lengths import decode
from cellkit.stages.scoring import ScoreSettings, evaluate

SHAPE = (96, 128)
FILES = {11: "late.png", 12: "early.png"}  # by name they come in another order than by id
NAMES = ("coco/{}/AP", "coco/{}/AP50", "coco/{}/AP75", "coco/{}/APs", "coco/{}/APm", "coco/{}/APl")


def disc(centre, radius) -> np.ndarray:
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def entry(number, image, category, mask, **more) -> dict:
    runs = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    box = [float(v) for v in coco_masks.toBbox(runs)]
    runs = {"size": list(SHAPE), "counts": runs["counts"].decode()}
    return {"id": number, "image_id": image, "category_id": category, "segmentation": runs, "bbox": box} | more


def plain(runs) -> dict:
    return {"size": runs["size"], "counts": runs["counts"].encode()}


@pytest.fixture
def files(tmp_path):
    """Two images of overlapping discs in two categories, one crowd, and results that are off by a little."""
    rng = np.random.default_rng(5)
    annotations, results = [], []
    for image in (11, 12):
        for _ in range(14):
            centre, radius = rng.uniform((10, 10), (86, 118)), rng.uniform(4, 14)
            mask = disc(centre, radius)
            category = int(rng.integers(3, 5))
            annotations.append(
                entry(
                    len(annotations) + 1, image, category, mask, area=float(mask.sum()), iscrowd=len(annotations) == 3
                )
            )
            found = disc(centre + rng.normal(0, 1.2, 2), radius * rng.uniform(0.8, 1.2))
            results.append(entry(None, image, category, found, score=float(rng.uniform())))
    images = [{"id": i, "file_name": FILES[i], "height": SHAPE[0], "width": SHAPE[1]} for i in (11, 12)]
    categories = [{"id": 3, "name": "round"}, {"id": 4, "name": "flat"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    results = [{name: value for name, value in result.items() if name != "id"} for result in results]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return truth, results


def reference(truth, results, kind, *, categories=True) -> list[float]:
    """AP of pycocotools with all detections; for boxes without masks in the results, as its users do."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        unwanted = "bbox" if kind == "segm" else "segmentation"
        found = [{name: value for name, value in result.items() if name != unwanted} for result in results]
        judge = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), kind)
        judge.params.maxDets = [1, 10, 1000]
        judge.params.useCats = categories
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    parts = [precision[:, :, :, 0, 2], precision[0, :, :, 0, 2], precision[5, :, :, 0, 2]]
    parts += [precision[:, :, :, area, 2] for area in (1, 2, 3)]
    return [float(np.mean(part[part > -1])) if (part > -1).any() else None for part in parts]


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_results_are_scored_as_by_pycocotools(cellkit, tmp_path, files, kind):
    truth, results = files
    done = cellkit("evaluate", tmp_path / "truth.json", tmp_path / "results.json", "--json")
    assert done.code == 0, done.err
    pooled = json.loads(done.text)["pooled"]
    assert [pooled[name.format(kind)] for name in NAMES] == reference(truth, results, kind)
    plain = cellkit("evaluate", tmp_path / "truth.json", tmp_path / "results.json", "--json", "--no-categories")
    pooled = json.loads(plain.text)["pooled"]
    assert [pooled[name.format(kind)] for name in NAMES] == reference(truth, results, kind, categories=False)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_ties_of_scores_are_broken_by_image_ids(cellkit, tmp_path, files, kind):
    truth, results = files
    for result in results:
        result["score"] = 0.5
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "images").mkdir()
    for name in FILES.values():
        iio.imwrite(tmp_path / "images" / name, np.zeros(SHAPE, np.uint8))
    for root in (tmp_path / "truth.json", tmp_path):
        done = cellkit("evaluate", root, tmp_path / "results.json", "--json")
        assert done.code == 0, done.err
        pooled = json.loads(done.text)["pooled"]
        assert [pooled[name.format(kind)] for name in NAMES] == reference(truth, results, kind)


def test_unsure_objects_count_for_coco_alone(cellkit, tmp_path, files):
    _, results = files
    sure = [result for result in results if result["score"] >= 0.5]
    assert 0 < len(sure) < len(results)
    (tmp_path / "sure.json").write_text(json.dumps(sure))
    both = tmp_path / "truth.json", tmp_path / "results.json"
    all_of_them, some, alone = (
        json.loads(cellkit("evaluate", *command, "--json").text)
        for command in (both, (*both, "--min-score", "0.5"), (both[0], tmp_path / "sure.json"))
    )
    for name, value in some["pooled"].items():
        assert value == (all_of_them if name.startswith("coco/") else alone)["pooled"][name], name
    assert [image["hd95"] for image in some["images"]] == [image["hd95"] for image in alone["images"]]
    assert some["pooled"]["n_predicted"] == len(sure)
    assert all_of_them["pooled"]["n_predicted"] == len(results)


def test_unsure_labels_count_for_coco_alone(cellkit, tmp_path):
    labels = np.zeros(SHAPE, np.int32)
    for number, column in enumerate((20, 60, 100), 1):
        labels[disc((40, column), 9)] = number
    tifffile.imwrite(tmp_path / "truth.tif", labels)
    image = LabelImage(key="truth", source="x", labels=labels, scores=np.array([0.9, 0.2, 0.6], np.float32))
    (scored,) = evaluate({"truth": LabelFile(str(tmp_path / "truth.tif"))}, [image], ScoreSettings(least_score=0.5))
    assert scored.report.values["n_predicted"] == 2
    assert scored.report.values["recall@0.5"] == pytest.approx(2 / 3)
    assert scored.scores.tolist() == pytest.approx([0.9, 0.6])
    assert len(scored.coco["segm"].scores) == 3


def test_label_images_have_no_categories_and_no_overlap(cellkit, tmp_path, files):
    truth, _ = files
    (tmp_path / "labels").mkdir()
    for image in (11, 12):
        labels = np.zeros(SHAPE, np.uint16)
        for annotation in truth["annotations"]:
            if annotation["image_id"] == image and not annotation["iscrowd"]:
                labels[decode(plain(annotation["segmentation"]))] = annotation["id"]
        tifffile.imwrite(tmp_path / "labels" / FILES[image].replace("png", "tif"), labels)
    done = cellkit("evaluate", tmp_path / "truth.json", tmp_path / "labels", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.text)
    assert report["pooled"]["n_true"] == 27
    assert 0.5 < report["pooled"]["coco/segm/AP50"] <= 1


def test_boxes_alone_have_box_scores_alone(cellkit, tmp_path, files):
    truth, results = files
    boxes = [{name: value for name, value in result.items() if name != "segmentation"} for result in results]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    done = cellkit(
        "evaluate", tmp_path / "truth.json", tmp_path / "boxes.json", "--json", "--html", tmp_path / "r.html"
    )
    assert done.code == 0, done.err
    pooled = json.loads(done.text)["pooled"]
    assert [pooled[name.format("bbox")] for name in NAMES] == reference(truth, results, "bbox")
    assert not any(name.startswith("coco/segm") for name in pooled)
    assert (pooled["n_true"], pooled["ap_dsb@0.5"], pooled["iou"]) == (27, None, None)
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")


def test_area_ranges_and_numbers_of_detections(cellkit, tmp_path, files):
    both = ("evaluate", tmp_path / "truth.json", tmp_path / "results.json", "--json")
    some = cellkit(*both, "--max-dets", "2,5,100", "--coco-areas", "livecell")
    pooled = json.loads(some.text)["pooled"]
    assert pooled["coco/segm/AR@2"] < pooled["coco/segm/AR@5"] < pooled["coco/segm/AR"]
    assert pooled["coco/segm/APs"] != json.loads(cellkit(*both).text)["pooled"]["coco/segm/APs"]
    bad = cellkit(*both, "--max-dets", "many")
    assert (bad.code, bad.err) == (
        2,
        "cellkit evaluate: error: --max-dets: 'many' is no list of numbers (e.g. 100 or 100,500,2000)\n",
    )
    assert cellkit(*both, "--coco-areas", "5").code == 2


def test_gates_take_coco_names(cellkit, tmp_path, files):
    both = ("evaluate", tmp_path / "truth.json", tmp_path / "results.json", "-q", "--csv", tmp_path / "s.csv")
    assert cellkit(*both, "--fail-under", "coco/segm/AP50=0.1").code == 0
    failed = cellkit(*both, "--fail-under", "coco/bbox/AP=0.99")
    assert failed.code == 6
    assert "coco/bbox/AP is 0." in failed.err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda results: results[0].update(score=float("nan")), "score"),
        (lambda results: results[0].update(image_id=99), "image"),
        (lambda results: results[0].pop("category_id"), "category"),
        (lambda results: (results[0].pop("segmentation"), results[0].pop("bbox")), "segmentation"),
    ],
)
def test_bad_results_are_one_line(cellkit, tmp_path, files, change, text):
    _, results = files
    change(results)
    (tmp_path / "bad.json").write_text(json.dumps(results))
    done = cellkit("evaluate", tmp_path / "truth.json", tmp_path / "bad.json", "--json")
    assert (done.code, done.text) == (5, "")
    assert done.err.count("\n") == 1
    assert "bad.json" in done.err
    assert text in done.err
