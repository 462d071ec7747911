"""Fréchet ChemNet distance, through the package `fcd` (extra `bench`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sciar.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Mean and covariance of ChemNet's activations over a set of molecules."""

    mean: Float[np.ndarray, "k"]
    covariance: Float[np.ndarray, "k k"]


def activations(smiles: Sequence[str]) -> Activations:
    """Of valid SMILES; what cannot be read is left out, so say its share beside the distance.

    Raises:
        InputError: the package is missing, or fewer than two molecules.
    """
    try:
        from fcd import canonical_smiles, get_predictions, load_ref_model
    except ModuleNotFoundError:
        raise InputError("fcd: expected the package fcd, got none; pip install 'sciar[bench]'") from None
    if len(smiles) < 2:
        raise InputError(f"fcd: expected at least two molecules on each side, got {len(smiles)}")
    read = get_predictions(load_ref_model(), [text for text in canonical_smiles(list(smiles)) if text])
    return Activations(read.mean(0), np.cov(read.T))


def fcd(samples: Sequence[str] | Activations, reference: Sequence[str] | Activations) -> float:
    """Distance of two sets of valid SMILES, or of what `activations` found for them; lower is nearer.

    Raises:
        InputError: see `activations`.

    Source: Preuer et al., J. Chem. Inf. Model. 58 (2018) 1736.
    """
    ours, theirs = (side if isinstance(side, Activations) else activations(side) for side in (samples, reference))
    from fcd import calculate_frechet_distance

    return float(calculate_frechet_distance(mu1=ours.mean, mu2=theirs.mean, sigma1=ours.covariance, sigma2=theirs.covariance))
