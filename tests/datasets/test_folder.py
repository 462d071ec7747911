"""A user's own files: what can be used is in the store, the rest is in the report with its row and reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sciar import datasets, files, lattice
from sciar.convert import to_pymatgen, to_smiles
from sciar.errors import DataError, InputError
from sciar.structure import Structure

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))


def test_table_with_bad_rows(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("id,SMILES,gap_eV,split\na,CCO,5.5,train\nb,C1CC,1,train\nc,,2,train\nd,C[NH3+],,test\ne,CC(C)(C)(C)C,3,maybe\n")
    store, report = datasets.prepare(table)
    assert [to_smiles(structure) for structure in store] == ["CCO", "C[NH3+]"]
    assert [item.row for item in report.rejected] == [1, 2, 4]
    assert report.summary() == "2 structures; 3 rows rejected: 3 not read"
    assert str(report.rejected[0]).startswith("row 1: not read: smiles 'C1CC': expected a SMILES, got")
    assert store.splits == ("train", "test")
    assert np.array_equal(store.column("gap_eV"), [5.5, np.nan], equal_nan=True)
    table.write_text(table.read_text().replace("CCO", "CCCO"))
    assert to_smiles(datasets.prepare(table)[0][0]) == "CCCO", "the store is that of the present contents"


def test_sdf_and_xyz_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.sdf").write_text((SAMPLES / "molecules.sdf").read_text() + "not a molecule\n\n\nM  END\n$$$$\n")
    sample = datasets.samples("qm9")[100:105]
    files.write(folder / "b.xyz", [structure.replace(bonds=None, charges=None, info={}) for structure in sample])
    with open(folder / "b.xyz", "a") as xyz:
        xyz.write("4\nthree neighbours of a fluorine\nF 0 0 0\nH 0 0 1\nH 0 1 0\nH 1 0 0\n")
    store, report = datasets.prepare(folder)
    assert len(store) == 20 and all(structure.bonds is not None for structure in store)
    assert [to_smiles(structure) for structure in store[15:]] == [to_smiles(structure) for structure in sample]
    assert [(item.row, item.reason.split(":")[0]) for item in report.rejected] == [(15, "not read"), (21, "no bonds found")]
    assert all(isinstance(structure.info["gap_eV"], float) for structure in store[:15])


def test_crystals_of_every_format_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "crystals"
    folder.mkdir()
    salt = Structure(
        np.array([11, 17]), np.array([[0, 0, 0], [2.82, 2.82, 2.82]]), np.array([[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]])
    )
    files.write(folder / "a.cif", [salt])
    files.write(folder / "b.extxyz", [salt.with_info(gap_eV=5.0), salt.replace(positions=np.array([[0, 0, 0], [0.1, 0, 0]]))])
    files.write(folder / "POSCAR.vasp", [salt])
    text = (folder / "a.cif").read_text()
    (folder / "c.cif").write_text(text.replace("  Cl1  1  0.5000000000  0.5000000000  0.5000000000  1", "  Cl1  1  0.5 0.5 0.5 0.7"))
    assert "0.7" in (folder / "c.cif").read_text()
    (folder / "d.cif").write_text("data_broken\n_cell_length_a 5\n")
    (folder / "e.csv").write_text('id,cif,gap_eV\nx,"' + text.replace('"', '""') + '",5\ny,data_,1\n')
    doubled = to_pymatgen(salt) * [2, 1, 1]
    (folder / "f.cif").write_text(doubled.to(fmt="cif"))
    store, report = datasets.prepare(folder)
    assert len(store) == 5 and all(s.formula == "ClNa" and s.n_atoms == 2 for s in store)
    assert all(np.allclose(lattice.parameters(s.cell)[3:], 60, atol=1e-4) for s in store)
    reasons = [item.reason for item in report.rejected]
    assert sorted(reason.split(":")[0] for reason in reasons) == ["not read", "not read", "not read", "overlapping sites"]
    assert any("expected one element on each site, got Cl0.7 on site 1" in reason for reason in reasons)
    assert any("d.cif: cif: expected a crystal, got text that pymatgen cannot read" in reason for reason in reasons)


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "mine.smi").write_text("xx\n")
    with pytest.raises(DataError, match=r"mine.smi: expected molecules or crystals, got none .*row 0: not read"):
        datasets.prepare(tmp_path / "mine.smi")
    (tmp_path / "mine.pdb").write_text("ATOM")
    with pytest.raises(InputError, match="mine.pdb: expected a name that ends in"):
        datasets.prepare(tmp_path / "mine.pdb")
