"""Fréchet ChemNet distance, through the package `fcd` (extra `bench`)."""

from __future__ import annotations

from collections.abc import Sequence

from sciar.errors import InputError


def fcd(samples: Sequence[str], reference: Sequence[str]) -> float:
    """Distance of two sets of valid SMILES; lower is nearer. Invalid samples must be left out, and their share said beside it.

    Raises:
        InputError: the package is missing, or fewer than two molecules on a side.

    Source: Preuer et al., J. Chem. Inf. Model. 58 (2018) 1736.
    """
    try:
        from fcd import canonical_smiles, get_fcd, load_ref_model
    except ModuleNotFoundError:
        raise InputError("fcd: expected the package fcd, got none; pip install 'sciar[bench]'") from None
    if min(len(samples), len(reference)) < 2:
        raise InputError(f"fcd: expected at least two molecules on each side, got {len(samples)} and {len(reference)}")
    ours, theirs = ([text for text in canonical_smiles(list(side)) if text] for side in (samples, reference))
    return float(get_fcd(ours, theirs, load_ref_model()))
