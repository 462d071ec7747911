"""What is wrong with a crystal."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import caesium_chloride, crystal, perovskite, rock_salt, shaken

from sciar import packing
from sciar.convert import to_pymatgen
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.validate import validate


def kinds(structure: Structure, prompt: Prompt | None = None) -> list[str]:
    return [reason.split(":")[0] for reason in validate(structure, prompt).reasons]


def test_real_crystals_pass_and_are_annotated() -> None:
    for structure, number in ((rock_salt(), 225), (caesium_chloride(), 221), (perovskite(), 221)):
        verdict = validate(structure)
        assert verdict.valid and verdict.structure.info["space_group"] == number and verdict.structure.info["charge_balanced"] is True


def test_an_unbalanced_formula_is_flagged_and_not_refused() -> None:
    verdict = validate(crystal("Na Na Cl", [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]], [4, 4, 4, 90, 90, 90]))
    assert verdict.valid and verdict.structure.info["charge_balanced"] is False


def test_contacts_follow_the_elements() -> None:
    hydrogen = crystal("H H", [[0, 0, 0], [0, 0, 0.148]], [5, 5, 5, 90, 90, 90])  # 0.74 Å
    assert packing.close_sites(to_pymatgen(hydrogen)) is None
    gold = hydrogen.replace(numbers=np.array([79, 79]))
    reason = packing.close_sites(to_pymatgen(gold))
    assert reason is not None and reason.startswith("clash: Au0…Au1 0.74 Å, expected > 1.6")
    assert kinds(gold) == ["clash"]


def test_lattice_and_density() -> None:
    assert kinds(crystal("Au", [[0, 0, 0]], [2.0, 2.0, 60, 90, 90, 90])) == ["lattice"]
    assert kinds(crystal("H", [[0, 0, 0]], [10, 10, 10, 90, 90, 90])) == ["density"]
    assert kinds(crystal("U", [[0, 0, 0]], [2.4, 2.4, 2.4, 90, 90, 90])) == ["density"]
    assert kinds(crystal("U", [[0, 0, 0]], np.zeros((3, 3)))) == ["volume"]


@pytest.mark.parametrize(("units", "expected"), [(None, []), (1, []), (2, ["wrong composition"])])
def test_formula_units(units: int | None, expected: list[str]) -> None:
    assert kinds(rock_salt(), Prompt(composition={"Na": 1, "Cl": 1}, formula_units=units, crystal=True)) == expected


def test_space_group_asked_for() -> None:
    assert kinds(shaken(rock_salt(), 0.01), Prompt(space_group=225, crystal=True)) == []
    verdict = validate(rock_salt(), Prompt(space_group=221, crystal=True))
    assert verdict.reasons == ("space group: 225 at 0.1 Å, expected 221",)
