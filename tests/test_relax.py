"""Relaxation by ASE's own potentials: minima, time-outs, failures, bad arguments."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from crystals import crystal, rock_salt, shaken
from test_crystal_samples import CLASH, samples

from sciar import lattice, relax
from sciar.errors import InputError
from sciar.structure import Structure


def copper(a: float = 3.8) -> Structure:
    return crystal("Cu", [[0, 0, 0]], [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


class Slow(Calculator):
    """Sleeps on structures of more than one atom, dies on those of three."""

    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if len(atoms) == 2:
            time.sleep(60)
        if len(atoms) == 3:
            raise ValueError("three atoms are too many")
        self.results = {"energy": -1.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_copper_finds_its_lattice_constant() -> None:
    seen = []
    found = relax.relax([copper(), copper(3.5)], "emt", progress=lambda done, total: seen.append((done, total)))
    for one in found:
        assert one.converged and one.failure is None and one.energy_after < one.energy_before and one.structure.cell is not None
        assert np.abs(np.linalg.det(one.structure.cell)) == pytest.approx(3.59**3 / 4, rel=0.02)  # EMT's copper
    assert seen == [(1, 2), (2, 2)]
    assert np.isclose(found[0].energy_after, found[1].energy_after, atol=1e-3)
    still = relax.relax([copper()], "emt", steps=0)[0]
    assert still.energy_after == still.energy_before == found[0].energy_before and still.steps == 0 and not still.converged
    assert np.array_equal(still.structure.positions, copper().positions) and np.allclose(still.structure.cell, copper().cell)
    fixed = relax.relax([copper()], "emt", cell=False)[0]
    assert np.allclose(fixed.structure.cell, copper().cell)


def test_time_outs_and_failures_keep_their_reason_and_the_others_go_on() -> None:
    pair = crystal("Cu Cu", [[0, 0, 0], [0.5, 0.5, 0.5]], [3, 3, 3, 90, 90, 90])
    three = crystal("Cu Cu Cu", [[0, 0, 0], [0.3, 0.3, 0.3], [0.6, 0.6, 0.6]], [6, 6, 6, 90, 90, 90])
    found = relax.relax([copper(), pair, three, copper()], Slow, seconds=8.0, jobs=2)
    assert [one.failure is None for one in found] == [True, False, False, True]
    assert found[1].failure == "not done after 8 s" and found[2].failure == "ValueError: three atoms are too many"
    assert found[1].structure is pair or np.array_equal(found[1].structure.positions, pair.positions)


def test_samples_relax_and_rank_by_energy() -> None:
    gold = crystal("Au", [[0, 0, 0]], copper(4.3).cell)
    drawn = samples([copper(3.9), CLASH, gold, rock_salt()])
    moved = drawn.relax("emt", steps=200)
    assert len(moved) == 4 and moved.records[1] is drawn.records[1]
    assert moved.records[0].properties["SCIAR_RELAXED"] == "converged"
    assert float(moved.records[0].properties["SCIAR_ENERGY_AFTER_EV"]) < float(moved.records[0].properties["SCIAR_ENERGY_BEFORE_EV"])
    assert "NotImplementedError" in moved.records[3].properties["SCIAR_RELAXED"], "EMT has no sodium"
    assert moved.rank("energy").records[0].draw in (0, 2)


def test_a_plain_script_may_relax(tmp_path: Path) -> None:
    """Without `if __name__ == "__main__"`; a calculator of the script itself still needs it, and is told so."""
    (tmp_path / "plain.py").write_text(
        "from ase.build import bulk\nfrom ase.calculators.lj import LennardJones\nfrom sciar.convert import from_ase\n"
        "from sciar.metrics import crystal\nfrom sciar.relax import relax\nprint('once')\n"
        "class Own(LennardJones): pass\ncopper = [from_ase(bulk('Cu'))] * 2\n"
        "print(relax(copper, 'emt', jobs=2)[1].converged, crystal.kinds(copper, jobs=2).tolist())\n"
        "if __name__ == '__main__': print(relax(copper[:1], Own, steps=0)[0].failure)\n"
        "else: raise SystemExit\n"
    )
    ran = subprocess.run([sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.stdout.startswith("once\nTrue [0, 0]\n") and "belongs under `if __name__" in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"model": "mace"}, "expected chgnet, emt, lj or an ASE calculator, got 'mace'"),
        ({"model": 3}, "expected an ASE calculator or its name, got int"),
        ({"model": lambda: None}, "that can be sent to a process"),
        ({"optimizer": "GPMin"}, "expected optimizer FIRE or BFGS"),
        ({"steps": -1}, "expected steps of at least 0"),
        ({"seconds": 0}, "expected seconds of at least"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match="^relax: ") as error:
        relax.relax([copper()], **{"model": "emt", **arguments})  # type: ignore[arg-type]
    assert sentence in str(error.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "chgnet" else found(name, *rest))
    with pytest.raises(InputError, match=r"expected the package chgnet, got none; pip install 'sciar\[relax\]'"):
        relax.relax([copper()], "chgnet")


@pytest.mark.slow
def test_chgnet() -> None:
    pytest.importorskip("chgnet")
    one = relax.relax([shaken(rock_salt(5.9), 0.05)], "chgnet", seconds=120)[0]
    assert one.failure is None and lattice.space_group(one.structure, 0.1) == 225
    assert abs(np.linalg.det(one.structure.cell)) == pytest.approx(5.69**3 / 4, rel=0.03)
