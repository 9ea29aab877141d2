"""cellkit finetune."""

from __future__ import annotations

from cellkit.cli import detection_options as d
from cellkit.cli import finetune_choices as c
from cellkit.cli import finetune_options as f
from cellkit.cli import options as o


def finetune(
    shots: f.Shots,
    output: o.Checkpoint,
    model: f.Base = None,
    method: f.Method = "classic",
    train: f.Train = "all",
    query: f.Query = None,
    contrast: f.Contrast = None,
    labels: f.Labels = None,
    pseudo: f.Pseudo = None,
    alpha: f.Alpha = None,
    network: f.Network = None,
    representation: f.Representation = None,
    names: o.TrainNames = None,
    val: f.Held = None,
    pairs: o.Pairs = None,
    channels: o.Channels = None,
    count: f.Count = None,
    fraction: f.Fraction = None,
    draw: f.Draw = 0,
    leave_one_out: f.LeaveOneOut = False,
    keep_better: f.KeepBetter = False,
    steps: f.Steps = 100,
    lr: d.Rate = None,
    diameter: f.Diameter = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    seed: o.Seed = 0,
    settings: o.Set = None,
    list_settings: o.ListSettings = False,
    resume: o.Resume = False,
    on_exists: o.OnExists = "skip",
    dry_run: o.DryRun = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Tune a model to images of your own, of which a few are labelled.

    The checkpoint that it writes knows the diameter of the cells of the shots and, where the representation has
    thresholds to choose, those that suit the shots best: 'cellkit segment IMAGES -m TUNED' needs nothing else.

    The method contrastive also takes images without labels (--query): what the network sees in shots and query becomes
    alike, and unlike a few crops of what the base has learned from (--contrast, or those in the base). The method
    supported takes images of which some cells are labelled (--labels) and a segmentation of all (--pseudo). Of a
    detector --set freeze_at=N leaves parts of the trunk as they are, and the method l2sp holds it near the base.

    An interrupted run, run again, goes on where it stopped. Labels are looked over first; what looks wrong is a
    warning. With --val, --leave-one-out or --keep-better the closing line has the scores before and after.
    """
    from cellkit.cli import reporting, supported, tuning

    reporting.set_up_logging("finetune", verbose, quiet)
    images = c.Images(shots, names, val, pairs, channels, query, contrast, count, draw, fraction)
    choices = c.Choices(model, method, train, steps, lr, diameter, seed, settings)
    support = c.Support(labels, pseudo, alpha, network, representation)
    guard = tuning.Guard(leave_one_out=leave_one_out, keep_better=keep_better)
    place = c.Place(output, resume, on_exists, dry_run, (device, precision), quiet)
    (supported if method == "supported" else tuning).tune(images, choices, support, guard, place)
