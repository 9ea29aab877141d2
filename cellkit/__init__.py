"""Segment cells in microscope images when almost no annotation is at hand.

Importing this package is light: torch is imported only by the rooms that compute.
"""

__version__ = "0.1.0"
