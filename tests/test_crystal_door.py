"""The front door for crystals, with a model that puts atoms on a grid."""

from __future__ import annotations

from pathlib import Path

import pytest
from crystals import rock_salt
from fake import weights
from typer.testing import CliRunner

import sciar
from sciar import pxrd
from sciar.cli import verbs
from sciar.errors import InputError
from sciar.request import check, within_limits

LIMITS = {"elements": ["Na", "Cl", "Ti", "O"], "max_atoms": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(tmp_path_factory.mktemp("weights"), task="crystal", statistics=LIMITS)


def test_formula_units(model: Path) -> None:
    found = sciar.generate(formula="TiO2", n=6, seed=0, model=model)
    assert set(found.df["formula"]) == {"O2Ti", "O4Ti2"} and not found.run.reasons.get("wrong composition")
    exact = sciar.generate(formula="TiO2", n_formula_units=2, n=4, seed=0, model=model)
    assert set(exact.df["formula"]) == {"O4Ti2"} and exact.report()["arguments"]["n_formula_units"] == 2
    again = sciar.generate(**{**exact.report()["arguments"], "model": model, "seed": 0})
    assert [v.structure.formula for v in again] == [v.structure.formula for v in exact]


def test_space_groups_and_patterns_are_judged(model: Path, tmp_path: Path) -> None:
    found = sciar.generate(formula="NaCl", spacegroup="Fm-3m", n=2, seed=0, model=model)
    assert found.report()["arguments"]["spacegroup"] == 225 and found.run.reasons == {"space group": 2}
    (tmp_path / "halite.csv").write_text("2theta,counts\n" + "".join(f"{x:.3f},{y:.3f}\n" for x, y in pxrd.simulated(rock_salt())))
    given = sciar.generate(formula="NaCl", pxrd=tmp_path / "halite.csv", n=3, seed=0, model=model)
    assert given.df["pxrd_cosine"].between(0, 1).all() and len(given.rank()) == 3
    best = given.rank().df["pxrd_cosine"].tolist()
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"formula": "Na1000"}, "expected at most 20 atoms for model"),
        ({"formula": "TiO2", "n_formula_units": 7}, "got 21; use another model"),
        ({"formula": "TiO2", "n_atoms": 999}, "expected at most 20"),
        ({"formula": "NaU"}, "got U; use another model"),
        ({"task": "crystal", "n_atoms": 1000}, "n_atoms: expected at most 20 for model"),
    ],
)
def test_more_than_the_model_can_hold(model: Path, arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        sciar.generate(**{"model": model, **arguments})  # type: ignore[call-overload]
    assert sentence in str(error.value)


def test_an_unbalanced_formula_is_drawn_and_flagged(model: Path) -> None:
    found = sciar.generate(formula="Na2Cl", n=2, n_formula_units=1, seed=0, model=model)
    assert found.df["charge_balanced"].tolist() == [False, False] and not found.run.refused


def test_command_line(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "salt.cif"
    arguments = ["NaCl", "--n-formula-units", "2", "-n", "2", "--seed", "0", "--model", str(model), "-o", str(out), "--quiet"]
    answer = CliRunner().invoke(verbs, ["generate", "crystal", *arguments])
    assert answer.exit_code == 0, answer.output
    assert [s.formula for s in sciar.read(out)] and out.read_text().count("SCIAR_CHARGE_BALANCED True") == 2


def test_names_may_be_short() -> None:
    """A chemical system as text, a property without its unit."""
    request = check("crystal", elements="Li-Fe-O", properties={"band_gap": 1.5})
    assert request.arguments["elements"] == ["Li", "Fe", "O"]
    (row,) = within_limits(request, {"properties": ["band_gap_eV", "formation_energy_eV_per_atom"]}, "some")
    assert row.prompt is not None and row.prompt.properties == {"band_gap_eV": 1.5}
    with pytest.raises(InputError, match="expected gap_eV, gap_meV, got 'gap'"):  # either could be meant
        within_limits(check("crystal", properties={"gap": 1.5}), {"properties": ["gap_eV", "gap_meV"]}, "some")
