"""Curves: a measured or given powder pattern with those of the candidates over it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sciar import pxrd
from sciar.structure import Structure


def overlay(
    pattern: np.ndarray, candidates: Sequence[Structure], path: str | Path | None = None, labels: Sequence[str] | None = None
) -> bytes:
    """A PNG of a powder pattern and, under it, the simulated ones with their agreement; written to `path` if given.

    Args:
        pattern: rows (2θ in degrees at Cu Kα, intensity).
        candidates: crystals, the best first.
        path: .png
        labels: of the candidates; their formulas if not given.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 1.1 * (1 + len(candidates))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(candidates), 1, sharex=True, squeeze=False)[:, 0]
    at, given = pxrd.grid(), pxrd.binned(pattern)
    axes[0].plot(at, given, color="black", linewidth=1)
    axes[0].text(0.99, 0.9, "given", transform=axes[0].transAxes, ha="right", va="top")
    for k, (axis, candidate) in enumerate(zip(axes[1:], candidates, strict=True)):
        fit = pxrd.agreement(candidate, pattern, 0.0 if "pxrd_strain" in candidate.info else pxrd.STRAIN)  # fitted already
        mine = pxrd.simulated(fit.strained(candidate))
        axis.plot(at, given, color="0.75", linewidth=1)
        axis.plot(at, pxrd.binned(mine), color="tab:blue", linewidth=1)
        largest = float(np.abs(fit.strain).max())
        name = labels[k] if labels is not None else candidate.formula
        text = f"{name}: cosine {fit.cosine:.3f}, Rwp {fit.rwp:.2f}" + (f", strain up to {largest:.1%}" if largest >= 1e-3 else "")
        axis.text(0.99, 0.9, text, transform=axis.transAxes, ha="right", va="top")
    for axis in axes:
        axis.set_yticks([])
        axis.set_ylim(0, 1.15)
        axis.set_xlim(at[0], at[-1])
    axes[-1].set_xlabel("2θ (°), Cu Kα")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    if path is not None:
        Path(path).write_bytes(buffer.getvalue())
    return buffer.getvalue()
