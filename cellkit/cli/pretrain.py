"""cellkit pretrain."""

from __future__ import annotations

from cellkit.cli import options as o


def pretrain(
    data: o.Data,
    output: o.Checkpoint,
    network: o.Network = "unet",
    representation: o.Representation = "flow",
    method: o.PretrainMethod = "supervised",
    names: o.TrainNames = None,
    val: o.Validation = None,
    pairs: o.Pairs = None,
    channels: o.Channels = None,
    steps: o.Steps = 1000,
    lr: o.Rate = 1e-3,
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
    """Train a model on labelled images.

    Writes a checkpoint that 'cellkit predict' needs alone, with metrics and the state to resume from beside it.
    An interrupted run, run again, goes on where it stopped.
    """
    from cellkit.cli import reporting, training

    reporting.set_up_logging("pretrain", verbose, quiet)
    recipe = training.recipe(
        settings, network=network, representation=representation, steps=steps, lr=lr, diameter=diameter, seed=seed
    )
    learn, held = training.datasets(data, names=names, val=val, pairs=pairs, channels=channels, seed=seed)
    if dry_run:
        return training.show_datasets(output, learn, held)
    training.run(learn, held, recipe, (device, precision), output, resume=resume, on_exists=on_exists, quiet=quiet)
