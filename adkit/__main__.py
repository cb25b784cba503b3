"""``python -m adkit``."""

from adkit.cli import command

if __name__ == "__main__":
    command()
