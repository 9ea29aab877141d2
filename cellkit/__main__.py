"""``python -m cellkit`` is the command ``cellkit``."""

from cellkit.cli.app import entry

if __name__ == "__main__":
    entry()
