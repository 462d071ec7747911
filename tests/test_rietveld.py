"""Refinement against a powder pattern: gradients, symmetry, what it recovers and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import crystal

from sciar import datasets, pxrd
from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.lattice import space_group
from sciar.reflections import levelled
from sciar.rietveld import SHIFT, Crystal, refined
from sciar.structure import Structure

CRYSTALS = [s for s in datasets.samples("mp20") if 2 < s.n_atoms <= 10][:4]


def rutile(u: float, a: float = 4.6, c: float = 2.96) -> Structure:
    oxygen = [[u, u, 0], [1 - u, 1 - u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    return crystal("Ti Ti O O O O", [[0, 0, 0], [0.5, 0.5, 0.5], *oxygen], np.diag([a, a, c]))


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_gradients_are_those_of_the_misfit(floor: float) -> None:
    rng = np.random.default_rng(0)
    mine = Crystal.of(CRYSTALS[0])
    at, (wanted,) = pxrd.compared(pxrd.simulated(CRYSTALS[1]), (0.6,))
    if floor:
        wanted = levelled(wanted / wanted.max(), floor)[0]
        wanted /= np.linalg.norm(wanted)
    moved, strain = 0.01 * rng.normal(size=mine.x.shape), 0.002 * rng.normal(size=6)
    value = lambda m, s: mine.misfit(m, s, at, wanted, 0.6, floor)[0]  # noqa: E731
    _, by_moved, by_strain = mine.misfit(moved, strain, at, wanted, 0.6, floor)
    step = rng.normal(size=moved.shape)
    numeric = (value(moved + 1e-6 * step, strain) - value(moved - 1e-6 * step, strain)) / 2e-6
    # that of the highest point and of the Lorentz-polarisation factor are left out
    assert numeric == pytest.approx(float((by_moved * step).sum()), rel=0.1 if floor else 1e-4)
    twist = rng.normal(size=6)
    numeric = (value(moved, strain + 1e-6 * twist) - value(moved, strain - 1e-6 * twist)) / 2e-6
    assert numeric == pytest.approx(float(by_strain @ twist), rel=0.1)


@pytest.mark.parametrize("k", range(len(CRYSTALS)))
def test_a_disturbed_crystal_comes_back(k: int) -> None:
    """Atoms of real crystals 0.08 Å off in each direction, the cell 1 %: the profile fits again, the atoms are nearer to their places."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    truth, rng = CRYSTALS[k], np.random.default_rng(k)
    assert truth.cell is not None and truth.positions is not None
    off = truth.replace(cell=truth.cell * 1.01, positions=truth.positions * 1.01 + rng.normal(0, 0.08, truth.positions.shape))
    pattern = pxrd.simulated(truth)
    before = pxrd.agreement(off, pattern)
    found, after = refined(off, pattern)
    assert after.likeness > before.likeness and after.cosine > 0.98
    match = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    first, last = (match.get_rms_dist(to_pymatgen(s), to_pymatgen(truth))[0] for s in (off, found))
    assert last < 0.7 * first


OBLIQUE = [s for s in datasets.samples("mp20") if s.n_atoms <= 12 and space_group(s, 1e-3) in (12, 44, 122, 160, 166, 225)][:6]


@pytest.mark.parametrize("k", range(len(OBLIQUE)))
def test_oblique_cells_keep_their_group(k: int) -> None:
    """Real crystals against the pattern of another one, with all force: the same group, exact, and no strain beyond the limit."""
    mine, pattern = OBLIQUE[k], pxrd.simulated(CRYSTALS[1])
    cell, (found, fit) = pxrd.agreement(mine, pattern), refined(mine, pattern)
    for after, strain in ((cell.strained(mine), cell.strain), (found, fit.strain)):
        assert space_group(after, 1e-2) == space_group(mine, 1e-3) and np.abs(strain).max() <= pxrd.STRAIN + 1e-9
    assert fit.fit >= cell.fit


def test_symmetry_is_kept_and_the_free_coordinate_found() -> None:
    """Rutile with oxygen 0.14 Å off: u as in the pattern, and the group exact without being told."""
    pattern = pxrd.simulated(rutile(0.305))
    found, fit = refined(rutile(0.283, a=4.66), pattern)
    assert fit.cosine > 0.9995 and space_group(found, 1e-3) == 136
    assert found.cell is not None and found.positions is not None
    assert (found.positions[2] @ np.linalg.inv(found.cell))[0] == pytest.approx(0.305, abs=2e-3)
    assert np.linalg.norm(found.cell, axis=1) == pytest.approx([4.6, 4.6, 2.96], rel=2e-3)


def test_limits() -> None:
    """A crystal of another kind stays within reach of where it was; one that fits stays as it is; no crystal is refused."""
    pattern = pxrd.simulated(CRYSTALS[1])
    found, fit = refined(CRYSTALS[0], pattern)
    assert CRYSTALS[0].cell is not None and found.cell is not None and CRYSTALS[0].positions is not None and found.positions is not None
    moved = found.positions @ np.linalg.inv(found.cell) @ CRYSTALS[0].cell - CRYSTALS[0].positions
    assert 0 < np.linalg.norm(moved, axis=1).max() < 3**0.5 * SHIFT and np.abs(fit.strain).max() <= pxrd.STRAIN + 1e-9
    assert fit.fit >= pxrd.agreement(CRYSTALS[0], pattern).fit
    same, fit = refined(CRYSTALS[0], pxrd.simulated(CRYSTALS[0]))
    assert fit.cosine > 0.999 and np.abs(same.positions - CRYSTALS[0].positions).max() < 0.02  # type: ignore[operator]
    with pytest.raises(InputError, match="crystal"):
        refined(Structure(np.array([6]), positions=np.zeros((1, 3))), pattern)
