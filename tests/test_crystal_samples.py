"""Samples of crystals: one order in all files, symmetry, duplicates, ranking, pictures."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import pytest
from crystals import caesium_chloride, crystal, perovskite, rock_salt, shaken
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.io.cif import CifParser
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from sciar import cif, convert, datasets, files, lattice, pxrd, view
from sciar.errors import InputError
from sciar.prompt import Prompt
from sciar.record import Record
from sciar.samples import Run, Samples
from sciar.structure import Structure
from sciar.validate import validate


def samples(structures: list[Structure], prompt: Prompt | None = None) -> Samples:
    prompt = prompt or Prompt(crystal=True)
    records = [Record(0, k, validate(s, prompt), label="NaCl", score=float(-k), tag="SCIAR_FORMULA") for k, s in enumerate(structures)]
    return Samples(records, Run("crystal", "toy", "", 0, len(records), len(records)))


CLASH = crystal("Na Cl", [[0, 0, 0], [0.05, 0, 0]], [4, 4, 4, 90, 90, 90])


@pytest.fixture(scope="module")
def drawn() -> Samples:
    return samples([shaken(rock_salt(), 0.01), CLASH, caesium_chloride(), rock_salt(5.7), perovskite()])


def test_the_same_order_in_all_files(drawn: Samples, tmp_path: Path) -> None:
    drawn.to_cif(tmp_path / "x.cif", tolerance=0)
    drawn.to_extxyz(tmp_path / "x.extxyz")
    formulas = [s.formula for s in files.read(tmp_path / "x.extxyz")]
    assert formulas == ["ClNa", "ClNa", "ClNa", "ClNa", "O3SrTi"]
    assert [s.formula for s in files.read(tmp_path / "x.cif")] == formulas
    paths = drawn.to_poscar(tmp_path / "poscar")
    assert [path.name for path in paths] == ["0000.vasp", "0001.vasp", "0002.vasp", "0003.vasp", "0004.vasp"]
    for path, r in zip(paths, drawn.records, strict=True):
        read = next(iter(files.read(path)))
        assert np.allclose(read.cell, r.verdict.structure.cell) and np.array_equal(read.numbers, r.verdict.structure.numbers)
    first = next(iter(files.read(tmp_path / "x.extxyz"))).info
    assert first["SCIAR_CHARGE_BALANCED"] in (True, "True") and first["SCIAR_SPACE_GROUP"] == 225


def test_cif_has_symmetry_and_says_at_which_tolerance(drawn: Samples) -> None:
    text = drawn.to_cif()
    assert text.count("# SCIAR_SYMMETRY at 0.1 Å") == 4 and text.count("# SCIAR_SYMMETRY none") == 1
    assert len(CifParser.from_str(text).parse_structures(primitive=False, on_error="ignore")) >= 4, "blocks of one formula are told apart"
    assert text.count("Fm-3m") == 2 and text.count("'P 1'") == 1


@pytest.mark.parametrize("row", range(0, 120, 5))
def test_cif_with_symmetry_is_the_same_crystal(row: int) -> None:
    """Real crystals: as many operations and orbits as the group has, and pymatgen builds the same crystal from them."""
    crystal = datasets.samples("mp20")[row]
    block, symmetric = cif.text(crystal, lattice.TOLERANCE)
    number = lattice.space_group(crystal)
    assert symmetric and f"_symmetry_Int_Tables_number   {number}\n" in block
    (read,) = CifParser.from_str(block).parse_structures(primitive=False)
    conventional = lattice.symmetrized(crystal, conventional=True)
    assert SpacegroupAnalyzer(read, 0.01).get_space_group_number() == number and len(read) == conventional.n_atoms
    rms = StructureMatcher(primitive_cell=True).get_rms_dist(read, convert.to_pymatgen(crystal))
    assert rms is not None and rms[0] < 0.03
    sites = block.split("_atom_site_occupancy\n")[1].strip().splitlines()
    assert sum(int(line.split()[2]) for line in sites) == conventional.n_atoms


def test_symmetrize(drawn: Samples) -> None:
    exact = drawn.symmetrize()
    assert len(exact) == 5 and exact.valid.tolist() == drawn.valid.tolist()
    before, after = drawn[0].structure, exact[0].structure
    assert lattice.space_group(before, 1e-4) < 225 == lattice.space_group(after, 1e-4)
    assert exact.symmetrize(conventional=True)[0].structure.n_atoms == 8
    with pytest.raises(InputError, match="expected molecules for .smi, got a crystal"):
        drawn.to_smiles()
    with pytest.raises(InputError, match="symmetrize: expected crystals"):
        Samples(drawn.records, dataclasses.replace(drawn.run, task="molecule")).symmetrize()


def test_dedupe_keeps_one_of_each_kind(drawn: Samples) -> None:
    assert [r.draw for r in drawn.dedupe().records] == [0, 2, 4]


def test_rank_by_pattern_energy_and_score() -> None:
    pattern = pxrd.simulated(rock_salt())
    found = samples([CLASH, caesium_chloride(), rock_salt(5.5), rock_salt()], Prompt(pxrd=pattern, crystal=True))
    assert [r.draw for r in found.rank().records] == [3, 2, 1, 0]
    assert [r.draw for r in found.rank("score").records] == [1, 2, 3, 0]
    assert (
        found.records[3].properties["SCIAR_PXRD_COSINE"].startswith("1") or float(found.records[3].properties["SCIAR_PXRD_COSINE"]) > 0.999
    )
    assert {"pxrd_cosine", "charge_balanced", "space_group"} <= set(found.df.columns)
    with pytest.raises(InputError, match="expected samples with energy, got none; call relax"):
        found.rank("energy")
    with pytest.raises(InputError, match="expected score, votes, pxrd, energy, got 'beauty'"):
        found.rank("beauty")
    with pytest.raises(InputError, match="with pxrd, got none; generate with pxrd="):
        samples([rock_salt()]).rank("pxrd")


def test_rank_by_votes() -> None:
    turned = rock_salt(5.5).permuted(np.array([1, 0])).shifted([0.3, 0.1, 0.7])
    found = samples([CLASH, caesium_chloride(), rock_salt(5.7), turned, shaken(caesium_chloride(), 0.01), rock_salt(), CLASH])
    ranked = found.rank("votes")
    assert [r.draw for r in ranked.records] == [2, 3, 5, 1, 4, 0, 6], "three of rock salt, two of CsCl, of those the likeliest; then faults"
    assert ranked.df["votes"].tolist()[:5] == [3, 3, 3, 2, 2] and ranked.records[0].properties["SCIAR_VOTES"] == "3"
    assert [r.draw for r in ranked.dedupe().records] == [2, 1] and "votes" not in found.df.columns
    other = [dataclasses.replace(r, row=1) for r in found.records[1:2]]
    two = Samples([*found.records, *other], found.run).rank("votes")
    assert two.records[-1].row == 1 and two.records[-1].verdict.structure.info["votes"] == 1, "rows vote apart"
    with pytest.raises(InputError, match="rank: expected crystals for votes, got samples of task 'molecule'"):
        Samples(found.records, dataclasses.replace(found.run, task="molecule")).rank("votes")


def test_cells_are_fitted_to_a_pattern() -> None:
    pattern = pxrd.simulated(rock_salt())
    found = samples([CLASH, rock_salt(5.5)]).fit_pattern(pattern)
    assert [r.valid for r in found.records] == [False, True]
    fitted = found[1].structure
    assert lattice.parameters(fitted.cell)[0] == pytest.approx(lattice.parameters(rock_salt().cell)[0], abs=2e-3)
    assert float(fitted.info["pxrd_cosine"]) > 0.999 and float(fitted.info["pxrd_strain"]) == pytest.approx(0.0254, abs=1e-3)
    assert "pxrd_strain" in found.df.columns and found.rank("pxrd").records[0].draw == 1
    with pytest.raises(InputError, match="pxrd: expected rows"):
        found.fit_pattern([[1, 2, 3]][0])


def _pixels(png: bytes) -> np.ndarray:
    import io

    from matplotlib.image import imread

    assert zlib.crc32(png)
    image: np.ndarray = imread(io.BytesIO(png))
    return image


def test_picture_of_a_unit_cell(drawn: Samples, tmp_path: Path) -> None:
    image = _pixels(view.picture(perovskite(), tmp_path / "sto.png", size=200))
    assert (tmp_path / "sto.png").exists() and image.shape[:2] == (200, 200)
    rgb = image[..., :3]
    red = (rgb[..., 0] > 0.5) & (rgb[..., 1] < 0.3) & (rgb[..., 2] < 0.3)
    green = (rgb[..., 1] > 0.5) & (rgb[..., 0] < 0.3) & (rgb[..., 2] < 0.3)
    assert red.sum() > 100 and green.sum() > 1000, "oxygen and strontium in their colours"
    assert len(drawn.picture()) > 1000


def test_atoms_on_faces_are_repeated() -> None:
    from sciar.unitcell import drawing

    drawn = drawing(perovskite())
    counts = dict(zip(*np.unique(drawn.structure.numbers, return_counts=True), strict=True))
    assert counts == {38: 8, 22: 1, 8: 6} and drawn.edges.shape == (12, 2, 3)
    assert np.allclose(np.linalg.norm(drawn.edges[:, 0] - drawn.edges[:, 1], axis=1), 3.905)


def test_overlay(drawn: Samples, tmp_path: Path) -> None:
    (tmp_path / "halite.xy").write_text("".join(f"{x:.3f} {y:.3f}\n" for x, y in pxrd.simulated(rock_salt())))
    png = drawn.overlay(tmp_path / "halite.xy", tmp_path / "overlay.png")
    assert (tmp_path / "overlay.png").read_bytes() == png and _pixels(png).shape[1] > 400
