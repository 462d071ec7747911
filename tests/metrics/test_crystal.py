"""Crystal metrics against examples worked out by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from crystals import caesium_chloride, crystal, perovskite, rock_salt, shaken

from sciar.metrics import crystal as metrics
from sciar.oxidation import charge_balanced
from sciar.structure import Structure


def displaced(d: float) -> Structure:
    """Rock salt whose chlorine is moved by d along the cell's body diagonal, in fractions."""
    return crystal("Na Cl", [[0, 0, 0], np.full(3, 0.5 + d)], rock_salt().cell)


def test_match_is_blind_to_origin_order_axes_scale_and_supercell() -> None:
    salt = rock_salt()
    conventional = (metrics.to_pymatgen(salt) * [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]).copy()
    big = Structure(np.array(conventional.atomic_numbers), conventional.cart_coords, conventional.lattice.matrix)
    for other in (big, salt.permuted([1, 0]), salt.shifted([1, 2, 3]), rock_salt(5.9)):
        assert metrics.match(other, salt) == pytest.approx(0, abs=1e-6)
    assert metrics.match(caesium_chloride(), salt) is None, "another structure"
    assert metrics.match(rock_salt(cation="K"), salt) is None, "another composition"
    assert metrics.match(None, salt) is None
    assert metrics.match(salt.replace(cell=np.zeros((3, 3))), salt) is None, "a flat cell"


def test_rmsd_is_normalised() -> None:
    d = 0.02
    moved, salt = displaced(d), rock_salt()
    assert salt.cell is not None
    relative = np.linalg.norm(np.full(3, d) @ salt.cell)  # of the chlorine; half of it for each atom when superposed
    unit = (abs(np.linalg.det(salt.cell)) / 2) ** (1 / 3)
    assert metrics.match(moved, salt) == pytest.approx(relative / 2 / unit, rel=1e-3)


def test_a_needle_is_no_match_and_takes_no_time() -> None:
    needle = crystal("Na Cl", [[0, 0, 0], [0.5, 0.5, 0.5]], [0.3, 0.3, 500, 90, 90, 90])
    start = time.process_time()
    assert metrics.match(needle, rock_salt()) is None
    assert time.process_time() - start < 1


def test_a_pair_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(a: Structure, b: Structure) -> float:
        while True:
            pass

    monkeypatch.setattr(metrics, "match", endless)
    start = time.process_time()
    assert list(metrics.matches([(rock_salt(), rock_salt())], seconds=0.05)) == [np.inf]
    comparison = metrics.compare([[rock_salt()]], [rock_salt()], seconds=0.05)
    assert comparison.n_timeouts == 1 and metrics.prediction(comparison)["match_rate"] == 0
    assert time.process_time() - start < 3


def test_processes_give_the_same_in_order() -> None:
    pairs = [(rock_salt(), rock_salt()), (caesium_chloride(), rock_salt()), (displaced(0.03), rock_salt()), (None, rock_salt())]
    assert list(metrics.matches(pairs, jobs=2)) == list(metrics.matches(pairs))


def test_prediction_by_hand() -> None:
    salt, other, sto = rock_salt(), caesium_chloride(), perovskite()
    draws = [[other, displaced(0.02)], [other, other], [None, sto], [shaken(sto, 0.0), None]]
    references = [salt, salt.shifted([1, 1, 1]), sto, rock_salt(cation="K")]
    comparison = metrics.compare(draws, references)
    close = metrics.match(displaced(0.02), salt)
    assert close is not None
    first = metrics.prediction(comparison, np.zeros((4, 1), dtype=int))
    assert first["match_rate"] == 0 and np.isnan(first["rmse"]) and first["crmse"] == metrics.STOL and first["metre"] == 0
    assert first["composition_exact"] == 0.5, "a failed draw and one of another formula are not exact"
    both = metrics.prediction(comparison)
    assert both["match_rate"] == 0.5 and both["rmse"] == pytest.approx(close / 2, abs=1e-6)  # rows 0 and 2; the latter exactly
    assert both["metre"] == 0.75, "the draw of row 0 also is the reference of row 1"
    assert both["crmse"] == pytest.approx((close + close + 0 + metrics.STOL) / 4, abs=1e-6)
    assert both["composition_exact"] == 5 / 8 and both["valid"] == 6 / 8
    assert metrics.prediction(comparison, np.array([[1], [1], [1], [1]]))["match_rate"] == 0.5


def test_invalid_draws_do_not_match_under_the_validity_condition() -> None:
    odd = rock_salt(4.9, "Na", "Li").replace(numbers=np.array([11, 12]))  # metals: valid
    unbalanced = crystal("Na Na Cl", [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]], [4, 4, 4, 90, 90, 90])
    result = metrics.prediction(metrics.compare([[odd], [unbalanced]], [odd, unbalanced]))
    assert result["match_rate"] == 1 and result["match_rate_valid"] == 0.5 and result["metre_valid"] == 0.5


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="expected 2 rows of equally many draws"):
        metrics.compare([[None]], [rock_salt(), rock_salt()])


@pytest.mark.parametrize(
    ("composition", "balanced"),
    [
        ({"Na": 1, "Cl": 1}, True),
        ({"Na": 2, "Cl": 1}, False),
        ({"Sr": 2, "Ti": 2, "O": 6}, True),
        ({"Fe": 3, "Al": 1}, True),  # alloy
        ({"O": 2}, True),  # one element
        ({"Li": 1, "Fe": 1, "P": 1, "O": 4}, True),
        ({"Na": 1, "O": 3}, False),
    ],
)
def test_charge_balance(composition: dict[str, int], balanced: bool) -> None:
    assert charge_balanced(composition) is balanced


def test_structural_validity() -> None:
    assert metrics.structure_valid(rock_salt())
    assert not metrics.structure_valid(displaced(0.49)), "0.2 Å apart across the boundary"
    assert not metrics.structure_valid(crystal("H", [[0, 0, 0]], [0.4, 5, 5, 90, 90, 90])), "its own image"
    assert not metrics.structure_valid(None) and not metrics.structure_valid(crystal("H", [[0, 0, 0]], [0.4, 0.4, 0.4, 90, 90, 90]))


def test_de_novo_numbers() -> None:
    unbalanced = crystal("Na Na Cl", [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]], [4, 4, 4, 90, 90, 90])
    result = metrics.de_novo([rock_salt(), None, unbalanced, displaced(0.49)], [rock_salt(), perovskite()])
    assert result["struct_valid"] == 0.5 and result["comp_valid"] == 0.5 and result["valid"] == 0.25
    assert result["wdist_n_elements"] == 0.5  # {2} against {2, 3}
    assert result["wdist_density"] == pytest.approx((metrics.density(perovskite()) - metrics.density(rock_salt())) / 2)
    assert metrics.density(rock_salt()) == pytest.approx(2.165, abs=0.03)  # halite


def test_unique_and_novel() -> None:
    draws = [rock_salt(), rock_salt(5.8), None, caesium_chloride(), perovskite()]
    kinds = metrics.kinds(draws)
    assert kinds.tolist() == [0, 0, -1, 3, 4] and metrics.unique(kinds).tolist() == [True, False, False, True, True]
    assert metrics.unique(kinds[[1, 2, 4, 0]]).tolist() == [True, False, True, False]  # of some draws only
    assert metrics.kinds(draws, jobs=2).tolist() == kinds.tolist()
    assert metrics.novel(draws, [rock_salt().shifted([1, 0, 0])]).tolist() == [False, False, False, True, True]


def test_what_was_compared_is_not_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was stopped goes on where it was; other tolerances of time are other answers."""
    pairs = [(rock_salt(), rock_salt()), (caesium_chloride(), rock_salt()), (displaced(0.03), rock_salt()), (None, rock_salt())]
    kept: dict[str, object] = {}
    stopped = metrics.matches(pairs, kept=kept)
    first = [next(stopped), next(stopped)]
    assert len(kept) == 2
    asked, match = [], metrics.match
    monkeypatch.setattr(metrics, "match", lambda a, b: asked.append(a) or match(a, b))
    assert list(metrics.matches(pairs, kept=kept)) == [*first, *map(match, *zip(*pairs[2:], strict=True))] and len(asked) == 2
    assert list(metrics.matches(pairs, kept=kept))[:2] == first and len(asked) == 2
    assert len(list(metrics.matches(pairs, seconds=50, kept=kept))) == 4 and len(asked) == 6
    draws, known = [rock_salt(), rock_salt(5.8), None, caesium_chloride(), perovskite()], [rock_salt().shifted([1, 0, 0])]
    alone = metrics.kinds(draws).tolist(), metrics.novel(draws, known).tolist(), len(asked)
    for _ in range(2):
        assert (metrics.kinds(draws, kept=kept).tolist(), metrics.novel(draws, known, kept=kept).tolist()) == alone[:2]
    assert len(asked) == 2 * alone[2] - 6, "the second time nothing"
    assert metrics.kinds(draws, jobs=2, kept={}).tolist() == alone[0]
    assert list(metrics.matches([*pairs, *pairs], jobs=2, kept={})) == [*metrics.matches(pairs)] * 2
