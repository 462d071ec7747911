"""QM9: the graph of a row is that of its SMILES and fits its coordinates."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sciar import datasets
from sciar.convert import from_rdkit, to_rdkit, to_smiles
from sciar.datasets import qm9
from sciar.structure import Structure

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\
\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""


@pytest.fixture(scope="module")
def sample() -> list[Structure]:
    return datasets.samples("qm9")


def bare(structure: Structure) -> Structure:
    return Structure(structure.numbers, structure.positions, info=structure.info)


def test_graph_is_found_again_in_any_atom_order(sample: list[Structure]) -> None:
    rng = np.random.default_rng(0)
    for structure in sample[::3]:
        order = rng.permutation(structure.n_atoms)
        found = qm9.with_graph(bare(structure).permuted(order))
        assert found.bonds is not None
        assert to_smiles(found) == to_smiles(structure)
        expected = structure.permuted(order).bonds
        assert expected is not None
        assert {tuple(b) for b in found.bonds[:, :2].tolist()} == {tuple(b) for b in expected[:, :2].tolist()}


def test_bonds_fit_the_distances(sample: list[Structure]) -> None:
    for structure in sample:
        assert structure.bonds is not None and structure.positions is not None
        i, j, order = structure.bonds.T
        lengths = np.linalg.norm(structure.positions[i] - structure.positions[j], axis=1)
        radii = [
            qm9.RADII[k].get(a, 0.32) + qm9.RADII[k].get(b, 0.32)
            for k, a, b in zip(order.tolist(), structure.numbers[i].tolist(), structure.numbers[j].tolist(), strict=True)
        ]
        assert np.abs(lengths - radii).max() < 0.3


def test_marks_are_those_of_the_coordinates(sample: list[Structure]) -> None:
    for structure in sample:
        again = from_rdkit(to_rdkit(structure), perceive_stereo_from_3d=True)
        for name in ("tetrahedral", "double_bonds"):
            left, right = getattr(structure, name), getattr(again, name)
            assert (left is None or not len(left)) if right is None else np.array_equal(left, right)


def test_another_molecule_gets_no_bonds(sample: list[Structure]) -> None:
    ethanol = next(s for s in sample if s.info["smiles"] == "CCO")
    assert qm9.with_graph(bare(ethanol).with_info(smiles="COC")).bonds is None
    assert qm9.with_graph(bare(ethanol).with_info(smiles="CCN")).bonds is None


def test_properties_have_units(sample: list[Structure]) -> None:
    info = sample[0].info
    assert info["gap_eV"] == pytest.approx(13.736, abs=1e-3)
    assert info["gap_eV"] == pytest.approx(info["lumo_eV"] - info["homo_eV"], abs=0.02)  # type: ignore[operator]
    assert {"mu_D", "alpha_bohr3", "homo_Ha", "Cv_cal_molK", "gdb_index", "split"} <= set(info)


def test_split_has_the_published_sizes() -> None:
    names, counts = np.unique(qm9.edm_split(), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == dict(qm9.INFO.splits)


def test_original_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: list[Structure]) -> None:
    monkeypatch.setattr(qm9, "N_EXCLUDED", 1)
    (tmp_path / "uncharacterized.txt").write_text("  Index  GDB17 SMILES  B3LYP SMILES\n   2  N  [NH2]  N\n 1 molecules\n")
    with tarfile.open(tmp_path / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        for index in (1, 2):
            data = METHANE.replace("gdb 1", f"gdb {index}").encode()
            member = tarfile.TarInfo(f"dsgdb9nsd_{index:06d}.xyz")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    check_methane(list(qm9.read(tmp_path)), sample[0])


def test_wheel(tmp_path: Path, sample: list[Structure]) -> None:
    header = ["Index", "SMILES", "Elements", "XYZ_Ang", *qm9.WHEEL_PROPERTIES]
    lines = METHANE.replace("*^", "e").splitlines()
    atoms = [line.split() for line in lines[2:7]]
    coordinates = "[" + ",".join(f"[{x},{y},{z}]".replace("0.00", ".00") for _, x, y, z, _ in atoms) + "]"
    row = ["1", "C", "['C','H','H','H','H']", coordinates, *lines[1].split()[2:]]
    table = ",".join(header) + "\n" + ",".join(f'"{cell}"' for cell in row) + "\n"
    with zipfile.ZipFile(tmp_path / qm9.WHEEL.name, "w") as wheel:
        for part in (1, 2, 3):
            wheel.writestr(f"qm9pack/data/qm9_part{part}.csv", table if part == 1 else ",".join(header) + "\n")
    check_methane(list(qm9.read(tmp_path)), sample[0])


def check_methane(rows: list[Structure], expected: Structure) -> None:
    assert len(rows) == 1
    assert np.allclose(rows[0].positions, expected.positions, atol=1e-6)
    assert rows[0].info == expected.info


@pytest.mark.skipif("SCIAR_DATA" not in os.environ, reason="needs the raw files: set SCIAR_DATA")
def test_real_rows() -> None:
    root = datasets.fetch("qm9")
    rows = [structure for structure, _ in zip(qm9.read(root, start=130_000), range(200), strict=False)]
    assert sum(row.bonds is not None for row in rows) >= 199
