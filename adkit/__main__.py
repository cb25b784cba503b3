"""``python -m adkit``."""

from adkit.cli.main import command

if __name__ == "__main__":
    command()
