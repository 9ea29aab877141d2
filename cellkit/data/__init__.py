"""From files to examples: folder layouts, normalisation, augmentation, training batches and splits."""
