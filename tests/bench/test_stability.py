"""Stable, unique and novel alloys by ASE's EMT: hull, relaxation, failures, what is kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from crystals import crystal, rock_salt

from sciar import relax
from sciar.bench import stability
from sciar.bench.ledger import Ledger
from sciar.structure import Structure, key_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path))
    return tmp_path


def metal(symbol: str, a: float) -> Structure:
    return crystal(symbol, [[0, 0, 0]], [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def layered(a: float = 2.75, c: float = 3.7) -> Structure:
    """CuAu in layers."""
    return crystal("Cu Au", [[0, 0, 0], [0.5, 0.5, 0.5]], [a, a, c, 90, 90, 90])


def cornered(a: float = 3.8) -> Structure:
    """Cu3Au with gold at the corners of the cube."""
    return crystal("Au Cu Cu Cu", [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], [a, a, a, 90, 90, 90])


KNOWN = [metal("Cu", 3.61), metal("Au", 4.08), metal("Ni", 3.52), rock_salt()]
DRAWS = [layered(), layered(2.8, 3.75), metal("Cu", 3.8), None, rock_salt(), cornered()]


def test_shares_and_what_is_said_of_failures() -> None:
    numbers, notes = stability.stable_unique_novel(DRAWS, KNOWN, "emt")
    assert numbers["n_relaxed"] == 4 and numbers["n_without_hull"] == 0
    told = "\n".join(notes)
    assert "hull of 3 training crystals" in told and "each at its published cell" in told and "emt" in told  # Cu, Au and rock salt
    assert "1 draws count as unstable: no crystal" in told and "1 draws count as unstable: NotImplementedError" in told
    assert "1 training crystals without an energy are no part of the hull" in told
    assert "No training crystal of the element alone (draws that have it): Na (1), Cl (1). " in told
    # by hand: EMT's energies of the relaxed draws against the mixture of the elements
    cu, au = (relax.relax([one], "emt", steps=0)[0].energy_after for one in KNOWN[:2])
    alloy, copper, other = (relax.relax([DRAWS[k]], "emt")[0].energy_after for k in (0, 2, 5))
    heights = [(alloy - cu - au) / 2, (alloy - cu - au) / 2, copper - cu, (other - 3 * cu - au) / 4]
    assert numbers["e_hull_mean"] == pytest.approx(np.mean(heights), abs=2e-3)
    assert numbers["stable"] == sum(h < 0 for h in heights) / 6 and numbers["stable_100meV"] == sum(h < 0.1 for h in heights) / 6
    assert all(h < 0.1 for h in heights) and numbers["sun_100meV"] == 2 / 6, "both layered alloys relax into one, copper is known"


def test_relaxed_references_take_the_advantage_away() -> None:
    still, _ = stability.stable_unique_novel([metal("Cu", 3.8)], KNOWN, "emt")
    moved, notes = stability.stable_unique_novel([metal("Cu", 3.8)], KNOWN, "emt", relax_known=True)
    assert still["e_hull_mean"] < moved["e_hull_mean"] and moved["e_hull_mean"] == pytest.approx(0, abs=1e-3)
    assert "relaxed in the same way" in notes[0]


def test_a_second_run_computes_only_what_failed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first = stability.stable_unique_novel(DRAWS, KNOWN, "emt")
    asked: list[Structure] = []
    real = stability.relaxing

    def noted(structures: Sequence[Structure], *rest: object, **options: object) -> object:
        asked.extend(structures)
        return real(structures, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stability, "relaxing", noted)
    again = stability.stable_unique_novel(DRAWS, KNOWN, "emt")
    assert first == again and [s.formula for s in asked] == [rock_salt().formula] * 2, "as a reference and as a draw"
    assert len(list((cache / "bench").glob("energies-emt-*.sqlite"))) == 1


def test_an_interrupted_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = stability.relaxing

    def broken(structures: Sequence[Structure], *rest: object, **options: object) -> Iterator[tuple[int, relax.Relaxed]]:
        asked.append(len(structures))
        yield next(real(structures, *rest, **options))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(stability, "relaxing", broken)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stability.stable_unique_novel(DRAWS[:1], KNOWN, "emt")
    assert asked == [2, 1], "of the two references one was kept"


def test_time_out_is_unstable() -> None:
    numbers, notes = stability.stable_unique_novel([layered()], [], "emt", seconds=0.001)
    assert numbers["stable_100meV"] == 0 and numbers["n_relaxed"] == 0
    assert "1 draws count as unstable: not done after 0.001 s." in notes


def test_ledger(cache: Path) -> None:
    ledger = Ledger("numbers")
    key = key_of(rock_salt(), "chgnet", 3)
    assert key not in ledger
    ledger[key] = {"energy_eV": -7.125}
    again = Ledger("numbers")
    assert again[key] == {"energy_eV": -7.125} and list(again) == [key] and len(again) == 1
    assert (
        len({key, key_of(rock_salt(), "chgnet", 4), key_of(rock_salt(5.65), "chgnet", 3), key_of(rock_salt(cation="K"), "chgnet", 3)}) == 4
    )
    del again[key]
    assert not ledger
    with pytest.raises(KeyError):
        del again[key]
