"""Conformers: each SMILES gives its minimised conformers or a reason; the run can be cut anywhere."""

from __future__ import annotations

import multiprocessing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import sciar
from sciar import datasets
from sciar.convert import from_rdkit, to_rdkit
from sciar.datasets import Rejected, molecules3d
from sciar.errors import InputError
from sciar.structure import Structure
from sciar.testing import check_raises

SMILES = ["CC(F)Cl", "C#1CC1", "C/C=C/C(=O)Nc1ccccc1", "[Na+].[Cl-]", "C1CC"]


@pytest.fixture(scope="module")
def items() -> list[datasets.Item]:
    return list(molecules3d.generate(SMILES, seed=3))


def test_conformers_or_reasons(items: list[datasets.Item]) -> None:
    first, impossible, third, salt, typo = items
    assert impossible == Rejected(1, "no coordinates: ETKDGv3 found none")
    assert isinstance(salt, Rejected) and salt.reason.startswith("more than one fragment")
    assert isinstance(typo, Rejected) and typo.reason.startswith("not a SMILES")
    for item in (first, third):
        assert isinstance(item, tuple) and len(item) == 2
        for structure in item:
            assert structure.info["row"] == items.index(item)
            assert isinstance(structure.info["energy_mmff94s_kcal_per_mol"], float)
            assert structure.hydrogens is None and structure.positions is not None
    assert isinstance(third, tuple) and third[0].info["smiles"] == SMILES[2]
    assert third[0].double_bonds is not None


def test_open_centre_is_marked_as_embedded(items: list[datasets.Item]) -> None:
    assert isinstance(items[0], tuple)
    for structure in (*items[0], *datasets.samples("molecules3d")[:20]):
        again = from_rdkit(to_rdkit(structure), perceive_stereo_from_3d=True)
        assert np.array_equal(structure.tetrahedral, again.tetrahedral) if again.tetrahedral is not None else True
    assert all(s.info["smiles"] in ("C[C@H](F)Cl", "C[C@@H](F)Cl") and len(s.tetrahedral) == 1 for s in items[0])  # type: ignore[arg-type]


def test_minimised(items: list[datasets.Item]) -> None:
    from rdkit.Chem import rdForceFieldHelpers

    for structure in datasets.samples("molecules3d")[:10]:
        mol = to_rdkit(structure)
        settings = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94s")
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, settings)
        assert field.CalcEnergy() == pytest.approx(structure.info["energy_mmff94s_kcal_per_mol"], abs=0.01)


def test_rows_do_not_depend_on_workers_or_start(items: list[datasets.Item]) -> None:
    def places(found: list[datasets.Item]) -> list[np.ndarray | None]:
        return [s.positions for item in found if isinstance(item, tuple) for s in item]

    again = list(molecules3d.generate(SMILES, seed=3, start=2, workers=2))
    assert all(np.array_equal(a, b) for a, b in zip(places(items[2:]), places(again), strict=True))
    other = list(molecules3d.generate(SMILES[:1], seed=4))
    assert not np.allclose(places(items)[0], places(other)[0])  # type: ignore[arg-type]


def test_held_out_whatever_its_marks() -> None:
    exclude = {molecules3d.flat_smiles("C[C@H](F)Cl"), molecules3d.flat_smiles("[CH3:1][OH:2]")}
    found = list(molecules3d.generate(["CC(F)Cl", "C[C@@H](Cl)F", "CO", "CCO"], exclude=exclude))  # type: ignore[arg-type]
    assert [isinstance(item, Rejected) and item.reason.split(":")[0] for item in found] == ["held out"] * 3 + [False]


def test_too_slow_and_resumed(tmp_path: Path) -> None:
    smiles = ["CCO", "C" * 49]
    slow = list(molecules3d.generate(smiles, timeout_seconds=0.01))
    assert [str(item.reason) for item in slow if isinstance(item, Rejected)] == ["took too long: more than 0.01 s"] * 2
    assert not multiprocessing.active_children()
    seen: list[int] = []
    store = molecules3d.build(smiles[:1] * 3, tmp_path, n_conformers=1, progress=lambda _, done, total: seen.append(done))
    assert seen == [1, 2, 3] and len(store) == 3 and store.complete
    assert isinstance(store[0], Structure) and store.column("row").tolist() == [0, 1, 2]  # type: ignore[union-attr]


def test_unfinished_generator_leaves_no_process() -> None:
    generator = molecules3d.generate(["CCO"] * 50)
    assert len(list(islice(generator, 3))) == 3
    generator.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_a_file_of_smiles_is_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "three.smi").write_text("CCO\nC1CC\nC[C@H](O)F named\n")
    report = molecules3d.embed(tmp_path / "three.smi", tmp_path / "three.sdf", n_conformers=2)
    found = sciar.read(tmp_path / "three.sdf")
    assert len(found) == 4 and all(s.positions is not None and s.bonds is not None for s in found)
    assert len(report.rejected) == 1 and report.rejected[0].row == 1
    assert {s.info["smiles"] for s in found} == {"CCO", "C[C@H](O)F"}
    check_raises(lambda: molecules3d.embed(tmp_path / "none.smi", tmp_path / "x.sdf"), InputError, "none.smi")
