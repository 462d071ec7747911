"""The exceptions a user can meet. Each message: where, what was expected, what was got, what to do."""

from __future__ import annotations


class SciarError(Exception):
    """Any error sciar raises on purpose."""


class InputError(SciarError, ValueError):
    """What the user asked for cannot be done: bad SMILES, contradictory constraints, n < 1."""


class WeightsError(SciarError):
    """A weights file is missing, truncated, tampered with or of another version."""


class DataError(SciarError):
    """A data set is missing, broken or does not hold what its checksum promises."""
