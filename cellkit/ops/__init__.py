"""Numerics without learning: flows, label operations, windows of big planes."""
