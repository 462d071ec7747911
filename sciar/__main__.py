"""`python -m sciar` is the command `sciar`."""

from sciar.cli import app

app()
