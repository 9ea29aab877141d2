"""Files of others are read without executing anything of them."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cellkit.errors import ModelError
from cellkit.io.foreign_weights import load_foreign


class Malicious:
    """Makes a file when it is unpickled as usual."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def arrays():
    return {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones((2, 2), np.float16, order="F"),
        "number": np.float64(3.5),
        "empty": np.zeros((0, 4), np.int64),
    }


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_a_pickle(tmp_path, protocol):
    file = pickled(tmp_path / "a.pkl", {"model": collections.OrderedDict(arrays()), "__author__": "they"}, protocol)
    found = load_foreign(file)
    assert found["__author__"] == "they"
    for name, value in arrays().items():
        np.testing.assert_array_equal(found["model"][name], value)
        assert found["model"][name].dtype == value.dtype


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_older_and_newer_numpy(tmp_path, module):
    text = pickle.dumps(arrays()["weight"], 2)
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        text = text.replace(b"c" + name + b"\n", b"c" + module.encode() + b"\n")
    pickled(tmp_path / "a.pkl", {})
    file = tmp_path / "b.pkl"
    file.write_bytes(b"\x80\x02}U\x01w" + text[2:-1] + b"s.")
    np.testing.assert_array_equal(load_foreign(file)["w"], arrays()["weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_torch(tmp_path, legacy):
    weights = {"state_dict": {"a": torch.arange(3.0)}, "epoch": 3}
    torch.save(weights, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = load_foreign(tmp_path / "a.pth")
    assert found["epoch"] == 3
    assert found["state_dict"]["a"].tolist() == [0, 1, 2]


def attempts(target):
    """Ways to have a function called while a pickle is read."""
    protocol0 = f"cos\nsystem\n(S'touch {target}'\ntR."
    by_build = pickle.PROTO + b"\x04c_codecs\nencode\nN}\x8c\x05__doc__\x8c\x01xs\x86b."
    return {
        "os.system": pickle.dumps({"a": Malicious(os.system, f"touch {target}")}),
        "exec": pickle.dumps({"a": Malicious(exec, f"open({str(target)!r}, 'w')")}),
        "eval in protocol 2": pickle.dumps({"a": Malicious(eval, f"open({str(target)!r}, 'w')")}, 2),
        "path": pickle.dumps({"a": Malicious(Path.touch, target)}),
        "getattr": pickle.dumps({"a": Malicious(getattr, "", "join")}),
        "numpy.load": pickle.dumps({"a": Malicious(np.load, str(target))}),
        "numpy.fromfile": pickle.dumps({"a": Malicious(np.memmap, str(target), "u1", "w+", 0, (4,))}),
        "inside an array": pickle.dumps({"a": np.array([Malicious(os.system, f"touch {target}")], object)}),
        "by number": pickle.PROTO + b"\x02\x82\x01.",
        "protocol 0": pickle.PROTO + b"\x02" + protocol0.encode(),
        "an attribute of what is allowed": by_build,
        "a name with dots": pickle.PROTO + b"\x04\x8c\x05numpy\x8c\x0andarray.dump\x93.",
    }


@pytest.mark.parametrize("name", attempts("x"))
def test_nothing_is_executed(tmp_path, name):
    target, file = tmp_path / "made", tmp_path / "evil.pkl"
    file.write_bytes(attempts(target)[name])
    with pytest.raises(ModelError):
        load_foreign(file)
    assert not target.exists()


def test_what_a_pickle_may_not_name_is_named(tmp_path):
    file = pickled(tmp_path / "evil.pkl", {"a": Malicious(os.system, "true")})
    with pytest.raises(ModelError) as error:
        load_foreign(file)
    expected = "names posix.system, which could run code; nothing was loaded (give a .pkl of NumPy arrays alone)"
    assert str(error.value) == f"{file}: {expected}"


def test_a_torch_file_with_objects_is_not_loaded(tmp_path):
    torch.save({"a": Malicious(os.system, f"touch {tmp_path / 'made'}")}, tmp_path / "evil.pth")
    with pytest.raises(ModelError) as error:
        load_foreign(tmp_path / "evil.pth")
    problem = "holds Python objects beside weights, which could run code; they were not loaded"
    assert str(error.value).startswith(f"{tmp_path / 'evil.pth'}: {problem} (save its weights alone")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"not at all", "holds no weights"),
        (pickle.dumps([1, 2]), "holds no weights by name"),
        (pickle.dumps({1: 2}), "holds no weights by name"),
        (pickle.dumps(arrays())[:-20], "is truncated or damaged"),
        (b"PK\x03\x04" + bytes(100), "is truncated or damaged"),
        (pickle.dumps({"format": "cellkit checkpoint"}), "is a model of cellkit already"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, text):
    file = tmp_path / "a.pth"
    file.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_foreign(file)
    assert str(error.value).startswith(f"{file}: {text} (")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        load_foreign(tmp_path / "a.pth")
