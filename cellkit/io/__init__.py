"""Bytes to arrays and back: images, labels, maps, checkpoints, tar streams."""
