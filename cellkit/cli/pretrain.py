"""cellkit pretrain."""

from __future__ import annotations

from cellkit.cli import cupre_options as c
from cellkit.cli import detection_options as d
from cellkit.cli import options as o
from cellkit.cli.finetune_choices import Place


def pretrain(
    data: o.Data,
    output: o.Checkpoint,
    network: o.Network = None,
    representation: o.Representation = None,
    method: o.PretrainMethod = "supervised",
    labelled: c.Labelled = None,
    object_size: o.ObjectSize = None,
    names: o.TrainNames = None,
    val: o.Validation = None,
    pairs: o.Pairs = None,
    channels: o.Channels = None,
    steps: o.Steps = 1000,
    lr: d.Rate = None,
    diameter: o.Diameter = None,
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
    """Train a model on labelled images, or on images alone.

    Writes a checkpoint that 'cellkit predict' needs alone, with metrics and the state to resume from beside it.
    An interrupted run, run again, goes on where it stopped. --method oce needs no label: it learns where the objects
    of the images are from the images themselves, best where they are alike and lie at random. --method detection learns
    a detector, which finds cells one by one with boxes and scores, also cells that overlap, and tells the categories of
    a COCO file apart. --method moco trains the encoder of any network to tell images apart, without labels; --method
    cupre takes turns: labelled images of anything (--labelled) and unlabelled ones of cells, for a model to fine-tune.
    """
    from cellkit.cli import pretraining, reporting, training

    reporting.set_up_logging("pretrain", verbose, quiet)
    c.refuse_labelled(labelled, method)
    images = pretraining.Images(data, labelled, channels, names, val, pairs)
    choices = training.Choices(network, representation, diameter, steps, training.RATE if lr is None else lr, seed)
    place = Place(output, resume, on_exists, dry_run, (device, precision), quiet)
    pretraining.begin(method, images, choices, lr, object_size, settings, place)
