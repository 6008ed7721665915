"""The command line: one thin file per verb. Nothing below it knows it."""

from unmask.cli.app import main

__all__ = ["main"]
