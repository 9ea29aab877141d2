"""Writes the man pages and completions from the commands themselves, so that they cannot drift.

Run ``python -m cellkit.cli.manual`` after any change of a verb; a test compares.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from cellkit import __version__
from cellkit.cli.app import app
from cellkit.cli.listing import OPTIONS, kinds_of, options_of
from cellkit.cli.settings import describe

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"bash": "cellkit.bash", "zsh": "cellkit.zsh", "fish": "cellkit.fish"}
FORMATS = {  # section of cellkit-formats(5) -> modules that read and write the format
    "PREDICTION FILES": ("cellkit.io.maps", "cellkit.io.detections"),
    "LABEL IMAGES": ("cellkit.io.label_tiff", "cellkit.io.label_png", "cellkit.io.label_hdf5"),
    "CHECKPOINTS": ("cellkit.io.checkpoints",),
    "STREAMS": ("cellkit.io.streams",),
    "HISTORY": ("cellkit.provenance",),
}
READING = """Every metric has one value per image, and for a set the mean over the images that define it. \
pooled/NAME is the value of the counts summed over all images, as if they were one large image. A value that is not \
defined (-, an empty cell or null in files) is left out of means, and fails every gate. Metrics of labels come from \
one table of the pixels that each true and each predicted object share; a name with @ has one value per IoU \
threshold, 0.5 to 0.95 in steps of 0.05."""
FIDELITY: dict[
    str, dict[str, tuple[str, ...]]
] = {  # verb -> method or representation -> modules whose docstrings say what follows its paper
    "pretrain": {
        "unet, style-unet": ("cellkit.networks.residual_unet",),
        "flow": ("cellkit.representations.flow",),
        "mask": ("cellkit.representations.mask",),
        "border": ("cellkit.representations.border",),
        "hover": ("cellkit.representations.hover",),
        "star": ("cellkit.representations.star",),
        "fcrn": ("cellkit.networks.fcrn",),
        "light-unet": ("cellkit.networks.light_unet",),
        "oce": (
            "cellkit.networks.mini_unet",
            "cellkit.methods.oce",
            "cellkit.ops.noisy_passes",
            "cellkit.representations.embedding",
        ),
        "detection": (
            "cellkit.stages.pretraining_detection",
            "cellkit.methods.detection",
            "cellkit.methods.detection_losses",
            "cellkit.networks.detector_inference",
            "cellkit.data.detection_anchors",
        ),
        "moco": ("cellkit.methods.moco", "cellkit.data.moco_views", "cellkit.stages.pretraining_moco"),
        "cupre": ("cellkit.methods.cupre", "cellkit.stages.pretraining_cupre"),
    },
    "finetune": {
        "classic": ("cellkit.methods.classic",),
        "contrastive": ("cellkit.methods.contrastive", "cellkit.data.style_crops"),
        "l2sp": ("cellkit.methods.l2sp",),
        "supported": ("cellkit.methods.supported", "cellkit.data.sparse_labels"),
        "detectors": ("cellkit.stages.tuning_detector", "cellkit.methods.l2sp_detector"),
        "few shots": ("cellkit.methods.tuning", "cellkit.methods.batch_statistics"),
    },
    "meta-train": {
        "fcrn": ("cellkit.networks.fcrn",),
        "light-unet": ("cellkit.networks.light_unet",),
        "reptile": ("cellkit.methods.reptile", "cellkit.methods.meta_losses", "cellkit.methods.batch_statistics"),
        "fomaml, anil": ("cellkit.methods.maml",),
        "tasks": ("cellkit.data.episodes", "cellkit.data.episodes_crops"),
    },
    "adapt": {
        "all methods": ("cellkit.stages.adapting", "cellkit.stages.adapt_validation"),
        "batch-unet": ("cellkit.networks.batch_unet", "cellkit.representations.blend"),
        "culpico": ("cellkit.methods.culpico",),
        "mean-teacher": ("cellkit.methods.mean_teacher",),
        "mcd": ("cellkit.methods.mcd",),
        "cbst": ("cellkit.methods.cbst",),
        "dual-teacher": ("cellkit.methods.dual_teacher", "cellkit.methods.adapt_strong"),
        "cross-region": ("cellkit.methods.cross_region",),
        "source-only, target-only": ("cellkit.methods.adapt_bounds",),
    },
}
SETTINGS_OF = {  # verb -> methods whose settings are not those of the others
    "pretrain": ("oce", "detection", "moco", "cupre"),
    "finetune": ("supported",),
}
SEE_ALSO = {"evaluate": ", \\fBcellkit\\-metrics\\fR(7)"}
OUTLINES = {
    "hd95": ("hd95", "hd95_um"),
    "asd": ("asd", "asd_um"),
}  # function of metrics.surfaces -> names of its values
COCO_NAMES = ("coco/segm/AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "AR50", "AR75", "ARs", "ARm", "ARl", "AR@N")
CODE_SECTIONS = ("Args:", "Returns:", "Raises:")  # of docstrings: for programmers
EXIT_CODES = """0 done; 1 a bug; 2 usage; 3 some images failed, the others are written; 4 no input matched; \
5 input or model unreadable; 6 a score below --fail-under; 75 another run holds the output; 130 or 143 interrupted \
after a clean save; 137 out of memory."""


def generate() -> dict[str, str]:
    """Path below the project's root -> text, for every man page and completion script."""
    group: Any = typer.main.get_command(app)
    pages = {"man/man1/cellkit.1": _main_page(group)}
    for name, command in group.commands.items():
        pages[f"man/man1/cellkit-{name}.1"] = _verb_page(name, command)
    pages["man/man5/cellkit-formats.5"] = _formats_page()
    pages["man/man7/cellkit-metrics.7"] = _metrics_page()
    for shell, file in SHELLS.items():
        pages[f"completions/{file}"] = _completion(shell)
    return pages


def _main_page(group: Any) -> str:  # noqa: ANN401 - typer's vendored command
    lines = [*_head("cellkit", group.help), ".SH COMMANDS"]
    for name, command in group.commands.items():
        lines += [".TP", f"\\fBcellkit\\-{name}\\fR(1)", _roff(_name_line(command))]
    lines += [".SH EXIT STATUS", _roff(EXIT_CODES)]
    return "\n".join(lines) + "\n"


def _verb_page(name: str, command: Any) -> str:  # noqa: ANN401
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["\\fBcellkit " + name + "\\fR", "[OPTIONS]", *map(_argument, arguments)])
    lines = [*_head(f"cellkit-{name}", _name_line(command)), ".SH SYNOPSIS", usage, ".SH DESCRIPTION"]
    for paragraph in (command.help or "").split("\n\n")[1:]:
        lines += [".PP", _roff(" ".join(paragraph.split()))]
    for title, parameters in (("ARGUMENTS", arguments), ("OPTIONS", options)):
        if parameters:
            lines += [f".SH {title}", *(line for p in parameters for line in _parameter(p))]
    if name in OPTIONS:
        lines += [".SH SETTINGS", "For \\fB\\-\\-set\\fR \\fINAME=VALUE\\fR, with their defaults:", *_settings(name)]
    for method in SETTINGS_OF.get(name, ()):
        lines += [f".SS With \\-\\-method {method}", *_settings(name, method)]
    lines += _fidelity(name)
    see_also = "\\fBcellkit\\fR(1), \\fBcellkit\\-formats\\fR(5)" + SEE_ALSO.get(name, "")
    lines += [".SH EXIT STATUS", _roff(EXIT_CODES), ".SH SEE ALSO", see_also]
    return "\n".join(lines) + "\n"


def _fidelity(verb: str) -> Iterator[str]:
    """What follows the papers and what does not is said where it is done: in the docstrings of the modules."""
    for number, (title, modules) in enumerate(FIDELITY.get(verb, {}).items()):
        yield from (*([] if number else [".SH FIDELITY"]), f".SS {_roff(title)}")
        for module in modules:
            yield from _prose(inspect.getdoc(importlib.import_module(module)) or "")


def _settings(verb: str, method: str | None = None) -> Iterator[str]:
    for line in describe(kinds_of(verb, method), without=options_of(verb, method)).splitlines():
        name, _, meaning = line.partition("\t")
        yield from (".TP", f"\\fB{_roff(name)}\\fR", _roff(meaning))


def _formats_page() -> str:
    """The formats are described where they are read and written: in the docstrings of their modules."""
    lines = _head("cellkit-formats", "files and streams of cellkit", section=5)
    for title, modules in FORMATS.items():
        texts = [inspect.getdoc(importlib.import_module(module)) or "" for module in modules]
        lines += [f".SH {title}", *_prose("\n\n".join(texts))]
    return "\n".join(lines) + "\n"


def _metrics_page() -> str:
    """Each metric is defined where it is computed: in the docstring of its function."""
    metrics = importlib.import_module("cellkit.metrics")
    matching = importlib.import_module("cellkit.metrics.matching")
    outlines = importlib.import_module("cellkit.metrics.surfaces")
    coco = importlib.import_module("cellkit.metrics.coco")
    lines = _head("cellkit-metrics", "what the numbers of cellkit evaluate mean", section=7)
    lines += [".SH DESCRIPTION", *_prose(READING)]
    lines += [".SH METRICS OF LABELS", *_prose(inspect.getdoc(matching) or "")]
    names = metrics.metric_names()
    for name, metric in metrics.METRICS.items():
        lines += _definition(_names_of(metric, names, name), metric)
    lines += [".SH METRICS OF OUTLINES", *_prose(inspect.getdoc(outlines) or "")]
    for function, values in OUTLINES.items():
        lines += _definition(", ".join(values), getattr(outlines, function))
    lines += [".SH METRICS OF A SET", *_definition(", ".join(COCO_NAMES) + "; coco/bbox/...", coco.accumulate)]
    lines += [".SH SEE ALSO", "\\fBcellkit\\-evaluate\\fR(1)"]
    return "\n".join(lines) + "\n"


def _names_of(metric: Callable[[Any], Mapping[str, float]], names: Sequence[str], family: str) -> str:
    """The names of the values that a metric gives, those of thresholds as first ... last."""
    values = [name for name in metric(defaultdict(float)) if name in names]
    at = [name for name in values if name.startswith(f"{family}@")]
    alone = [name for name in values if name not in at]
    return ", ".join(alone + ([f"{at[0]} ... {at[-1]}"] if at else []))


def _definition(names: str, function: Callable[..., Any]) -> Iterator[str]:
    """Heading and docstring of a metric; its first line is the definition in short."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    yield f".SS {_roff(names)}"
    yield from _prose("\n\n".join(text for text in paragraphs if not text.startswith(CODE_SECTIONS)))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs and lists of a docstring as roff."""
    for paragraph in text.replace("``", "").split("\n\n"):
        for block in re.split(r"\n(?=- )", paragraph):
            line = _roff(" ".join(block.removeprefix("- ").split()))
            yield from ([".IP \\(bu 2", line] if block.startswith("- ") else [".PP", line])


def _head(title: str, name_line: str, section: int = 1) -> list[str]:
    header = f'.TH {title.upper()} {section} "" "cellkit {__version__}" "cellkit manual"'
    return [header, ".SH NAME", f"{_roff(title)} \\- {_roff(name_line)}"]


def _name_line(command: Any) -> str:  # noqa: ANN401
    return str(command.help or "").split("\n")[0].rstrip(".")


def _parameter(parameter: Any) -> Iterator[str]:  # noqa: ANN401
    if parameter.param_type_name == "argument":
        head = f"\\fB{_roff(parameter.metavar or parameter.name)}\\fR"
    else:
        head = ", ".join(f"\\fB{_roff(o)}\\fR" for o in sorted((*parameter.opts, *parameter.secondary_opts), key=len))
        if not (parameter.is_flag or parameter.count):
            head += f" \\fI{_breakable(_roff(_value_name(parameter)))}\\fR"
    default = parameter.default
    shown = "" if default in (None, False, 0, ()) or parameter.required else f" Default: {default}."
    yield from (".TP", head, _roff((parameter.help or "") + shown))


def _argument(parameter: Any) -> str:  # noqa: ANN401
    name = str(parameter.metavar or parameter.name) + ("..." if parameter.nargs != 1 else "")
    return _roff(name if parameter.required else f"[{name}]")


def _value_name(parameter: Any) -> str:  # noqa: ANN401
    choices = parameter.type_descriptor.choices
    return "|".join(map(str, choices)) if choices else (parameter.metavar or parameter.bare_type().upper())


def _roff(text: str) -> str:
    text = text.replace("\\", "\\(rs").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    return "\\&" + text if text.startswith(".") else text  # a leading dot would be a request


def _breakable(choices: str) -> str:
    """A long list of choices may go on in the next line."""
    return choices.replace("|", "|\\:")


def _completion(shell: str) -> str:
    """The script that the command itself prints when a shell asks for it."""
    environment = os.environ | {"_CELLKIT_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-c", "from cellkit.cli.app import app; app(prog_name='cellkit')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n"


def main() -> None:
    """Write every page, and remove pages of verbs that are gone."""
    pages = generate()
    for old in [*(ROOT / "man").rglob("*.[1-8]"), *(ROOT / "completions").glob("cellkit.*")]:
        if str(old.relative_to(ROOT)) not in pages:
            old.unlink()
    for path, text in pages.items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
