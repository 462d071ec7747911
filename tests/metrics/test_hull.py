"""Hulls worked out by hand, and against linear programming."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import caesium_chloride, crystal, rock_salt
from scipy.optimize import linprog

from sciar.metrics import hull
from sciar.structure import Structure


def of(symbols: str) -> Structure:
    """Atoms in any positions; only the composition counts here."""
    n = len(symbols.split())
    return crystal(symbols, np.arange(3 * n).reshape(n, 3) / (3 * n), [9, 9, 9, 90, 90, 90])


KNOWN = [of("Cu"), of("Au"), of("Cu Au")]
ENERGIES = np.array([-1.0, -2.0, -4.0])  # CuAu lies 0.5 eV/atom below its elements


def test_binary_by_hand() -> None:
    draws = [of("Cu Cu Cu Au"), of("Cu Cu Cu Au"), of("Cu Cu Cu Au"), None, of("Cu Au"), of("Cu Cu"), of("Au")]
    energies = np.array([-6.0, -5.6, -6.4, -9.0, np.nan, -2.0, -1.5])  # the hull at Cu3Au: half way from -1 to -2 eV/atom
    found = hull.above_hull(draws, energies, KNOWN, ENERGIES)
    assert np.allclose(found, [0, 0.1, -0.1, np.nan, np.nan, 0, 0.5], equal_nan=True)
    without = hull.above_hull(draws[:1], energies[:1], KNOWN, np.array([-1.0, -2.0, np.nan]))
    assert np.allclose(without, [-0.25]), "a reference without an energy is no part of the hull: -1.5 against -1.25"


def test_element_without_a_crystal_of_its_own() -> None:
    known, energies = [of("Cu"), of("Cu O")], np.array([-1.0, -8.0])
    draws = [of("Cu Cu O"), of("Cu O O"), of("O"), of("Na")]
    found = hull.above_hull(draws, np.array([-8.4, -12.0, -3.0, -1.0]), known, energies)
    assert np.allclose(found, [0.2, np.nan, np.nan, np.nan], equal_nan=True), "Cu2O is Cu and CuO, -9 eV; nothing known has as much oxygen"
    assert hull.without_element([*draws, None], known) == {"O": 3, "Na": 1}


@pytest.mark.parametrize("seed", range(5))
def test_against_linear_programming(seed: int) -> None:
    rng = np.random.default_rng(seed)
    formulas = [tuple(int(k) for k in rng.integers(0, 4, 3)) for _ in range(12)]
    known = [of(" ".join(["Li"] * a + ["Fe"] * b + ["O"] * c)) for a, b, c in formulas if a + b + c]
    counts = np.array([[np.sum(s.numbers == z) for z in (3, 26, 8)] for s in known])
    energies = rng.uniform(-8, -1, len(known)) * counts.sum(1)
    draws = [of("Li Fe O"), of("Li Li Fe Fe O O O"), of("Fe O O O O")]
    found = hull.above_hull(draws, np.zeros(3), known, energies)
    for draw, value in zip(draws, found, strict=True):
        wanted = [np.sum(draw.numbers == z) for z in (3, 26, 8)]
        answer = linprog(energies, A_eq=counts.T, b_eq=wanted)
        assert np.isnan(value) == (not answer.success)
        if answer.success:
            assert value == pytest.approx(-answer.fun / draw.n_atoms, abs=1e-6)


def test_competing_crystals() -> None:
    known = [*KNOWN, rock_salt(), of("Cu Au O")]
    assert hull.competing([of("Au Au Cu"), None], known) == [0, 1, 2]
    assert hull.competing([caesium_chloride(), of("Cu")], known) == [0, 3], "one system at a time"


def test_shares_count_what_is_not_known() -> None:
    e_hull = np.array([-0.05, 0.0, 0.05, 0.1, np.nan])
    unique, novel = np.array([1, 1, 1, 1, 0], dtype=bool), np.array([1, 1, 0, 1, 0], dtype=bool)
    found = hull.stability(e_hull, unique, novel)
    assert found["stable"] == 0.2 and found["sun"] == 0.2 and found["stable_100meV"] == 0.6 and found["sun_100meV"] == 0.4
    assert found["e_hull_mean"] == pytest.approx(0.025) and found["e_hull_median"] == pytest.approx(0.025)
    nothing = hull.stability(np.full(2, np.nan), np.ones(2, dtype=bool), np.ones(2, dtype=bool))
    assert nothing["stable"] == nothing["sun_100meV"] == 0 and np.isnan(nothing["e_hull_mean"])
