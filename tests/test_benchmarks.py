"""The harness of the benchmarks, on fakes: nothing is timed against anything real."""

from __future__ import annotations

import importlib
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rich.console import Console
from scipy import ndimage

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.harness import Bench, Goal, Measurement, Unavailable, alternate, timed
from benchmarks.huge import cells_in, write_nuclei
from benchmarks.memory import peak_of
from benchmarks.peer import Peer, PeerError

ROOT = Path(__file__).resolve().parent.parent

FAKE_PEER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.cellpose_peer import serve

def double(arrays, *, plus):
    return lambda: [2 * array + plus for array in arrays]

serve({{"double": double}}, sys.stdin, sys.stdout)
"""

FASTER = Measurement(
    comparison="decoding", case="10 images", ours=(1.0, 2.0, 1.0), other=(4.0, 2.0, 6.0), goal=Goal("faster", 5.0)
)


@pytest.fixture
def peer(tmp_path):
    script = tmp_path / "fake_peer.py"
    script.write_text(FAKE_PEER)
    with Peer(sys.executable, tmp_path / "peer", script) as running:
        yield running


def text_of(*measurements: Measurement) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(report.table(measurements))
    return text.getvalue()


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians():
    assert FASTER.values == (4.0, 1.0, 6.0)
    assert FASTER.median == 4.0  # medians alone would give 4 / 1
    assert FASTER.is_met is False


def test_a_cost_is_ours_over_the_other():
    pipes = Measurement(comparison="pipes", case="", ours=(11.0, 12.0), other=(10.0, 10.0), goal=Goal("cost", 1.2))
    assert pipes.values == pytest.approx((1.1, 1.2))
    assert pipes.is_met is True


def test_a_value_stands_alone():
    startup = Measurement(comparison="startup", case="", ours=(0.1, 0.3, 0.16), goal=Goal("value", 0.15))
    assert startup.median == 0.16
    assert startup.is_met is False


def test_without_a_goal_nothing_is_met_or_missed():
    told = Measurement(comparison="network", case="", ours=(2.0,), other=(3.0,))
    assert told.median == 1.5
    assert told.is_met is None


def test_both_sides_take_turns_after_a_warm_up():
    calls: list[str] = []

    def side(name, seconds):
        def run():
            calls.append(name)
            return seconds

        return run

    assert alternate(side("A", 1.0), side("B", 2.0), 3) == ((1.0,) * 3, (2.0,) * 3)
    assert calls == ["A", "B"] * 4
    alternate(side("a", 1.0), side("b", 2.0), 1, warm_up=False)
    assert calls[8:] == ["a", "b"]


def test_timed_runs_the_function_and_gives_seconds():
    done = []
    assert timed(lambda: done.append(1))() >= 0
    assert done == [1]


def test_the_table_shows_medians_range_goal_and_whether_it_is_met():
    startup = Measurement(comparison="startup", case="--help", ours=(0.1234,), goal=Goal("value", 0.15))
    text = text_of(FASTER, startup)
    assert "decoding: 10 images" in text
    assert "4.00 (1.00-6.00)" in text
    assert ">= 5" in text
    assert "NO" in text
    assert "0.123 s" in text
    assert "<= 0.15 s" in text
    assert "yes" in text


def test_json_holds_every_round_and_the_machine(tmp_path):
    target = tmp_path / "results.json"
    report.write(target, report.document([FASTER], {"huge": "no disk"}, {"cellpose": "3.1"}, quick=True))
    content = json.loads(target.read_text())
    assert content["measurements"][0]["ours"] == [1.0, 2.0, 1.0]
    assert content["measurements"][0]["values"] == [4.0, 1.0, 6.0]
    assert content["measurements"][0]["met"] is False
    assert content["machine"]["cores"] >= 1
    assert content["versions"]["peer"] == {"cellpose": "3.1"}
    assert content["left_out"] == {"huge": "no disk"}
    assert content["quick"] is True


def test_a_peer_computes_in_its_own_process(peer):
    peer.prepare("double", [np.arange(3), np.ones((2, 2), np.float32)], plus=1)
    assert peer.run("double") >= 0
    first, second = peer.results("double")
    assert first.tolist() == [1, 3, 5]
    assert second.dtype == np.float32


def test_an_error_of_the_peer_is_told_and_it_lives_on(peer):
    with pytest.raises(PeerError, match="KeyError: 'triple'"):
        peer.run("triple")
    peer.prepare("double", [np.zeros(1)], plus=0)
    assert peer.run("double") >= 0


def test_a_peer_that_stops_says_its_last_words(tmp_path):
    script = tmp_path / "broken_peer.py"
    script.write_text("import sys\nsys.exit('no module named cellpose')\n")
    with Peer(sys.executable, tmp_path / "peer", script) as broken:
        with pytest.raises(PeerError, match="the peer stopped:\nno module named cellpose"):
            broken.request(do="versions")
        assert broken.process.wait() == 1


def test_without_an_environment_the_peer_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match=r"no environment of the peer \(give --peer PYTHON"):
        _ = Bench(data=tmp_path, scratch=tmp_path).peer


def test_a_comparison_that_cannot_be_made_is_left_out_and_the_others_are_made(tmp_path, monkeypatch, capsys):
    modules = {"here": lambda bench: iter([FASTER]), "missing": _unavailable}
    for name, measure in modules.items():
        module = types.ModuleType(f"fake_{name}")
        module.measure = measure  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(command, "COMPARISONS", {"missing": "fake_missing", "here": "fake_here"})
    target = tmp_path / "results.json"
    assert command.main(["--json", str(target), "--data", str(tmp_path), "--quick"]) == 1
    assert "missing: left out: no peer" in capsys.readouterr().out
    content = json.loads(target.read_text())
    assert content["left_out"] == {"missing": "no peer"}
    assert [one["comparison"] for one in content["measurements"]] == ["decoding"]


def _unavailable(bench):
    raise Unavailable("no peer")


@pytest.mark.parametrize("name", command.COMPARISONS)
def test_every_comparison_has_its_module(name):
    module = importlib.import_module(command.COMPARISONS[name])
    assert name == module.NAME
    assert callable(module.measure)


def test_the_huge_image_has_one_nucleus_per_square(tmp_path):
    write_nuclei(tmp_path / "small.tif", 400)
    pixels = tifffile.imread(tmp_path / "small.tif")
    assert pixels.shape == (400, 400)
    assert pixels.dtype == np.uint16
    _, count = ndimage.label(ndimage.median_filter(pixels, 3) > 1500)
    assert count == 100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_counts_what_a_child_of_the_command_takes():
    child = "import time; held = b'x' * 60_000_000; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    seconds, peak = peak_of([sys.executable, "-c", parent])
    assert seconds >= 0.5
    assert 60e6 < peak < 400e6


def test_cells_are_counted_by_their_largest_label(tmp_path, crowded_field):
    tifffile.imwrite(tmp_path / "cells.tif", crowded_field.astype(np.uint32), compression="zlib", rowsperstrip=16)
    assert cells_in(tmp_path / "cells.tif") == 106
