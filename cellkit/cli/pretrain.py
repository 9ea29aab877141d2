"""cellkit pretrain."""

from __future__ import annotations

from cellkit.cli import options as o


def pretrain(
    data: o.Data,
    output: o.Checkpoint,
    network: o.Network = None,
    representation: o.Representation = None,
    method: o.PretrainMethod = "supervised",
    object_size: o.ObjectSize = None,
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
    """Train a model on labelled images, or on images alone.

    Writes a checkpoint that 'cellkit predict' needs alone, with metrics and the state to resume from beside it.
    An interrupted run, run again, goes on where it stopped. --method oce needs no label: it learns where the objects
    of the images are from the images themselves, best where they are alike and lie at random.
    """
    from cellkit.cli import reporting, training

    reporting.set_up_logging("pretrain", verbose, quiet)
    choices = training.Choices(network, representation, diameter, steps, lr, seed)
    if method == "oce":
        from cellkit.cli import unlabelled

        bare = unlabelled.recipe(settings, choices, object_size)
        images = unlabelled.sources(data, channels, names=names, val=val, pairs=pairs)
        if dry_run:
            return unlabelled.show(output, images)
        path = training.checkpoint_path(output, resume=resume, on_exists=on_exists)
        whole = unlabelled.sized(bare, images)
        return unlabelled.run(images, whole, (device, precision), path, overwrite=on_exists == "overwrite", quiet=quiet)
    training.refuse_object_size(object_size)
    recipe = training.recipe(settings, choices)
    learn, held = training.datasets(data, names=names, val=val, pairs=pairs, channels=channels, seed=seed)
    if dry_run:
        return training.show_datasets(output, learn, held)
    training.run(learn, held, recipe, (device, precision), output, resume=resume, on_exists=on_exists, quiet=quiet)
