"""Crystal data sets: the arrays and the tables give the same crystals; what is no crystal is reported."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice
from pymatgen.core import Structure as Crystal

from sciar import datasets, lattice
from sciar.datasets import Rejected, carbon24, crystals, download, mp20, mp_le20, mpts52, perov5
from sciar.errors import DataError
from sciar.structure import Structure

LATTICES = [[3.9, 3.9, 3.9, 90, 90, 90], [4.72, 4.72, 4.72, 33.44, 33.44, 33.44], [5, 5, 5, 90, 90, 90], [4, 4, 4, 90, 90, 90]]
NUMBERS = [[55, 17], [29, 8], [22, 8, 8], [11, 11]]
FRACTIONS = [
    [[0, 0, 0], [0.5, 0.5, 0.5]],
    [[0, 0, 0], [0.5, 0.5, 0.5]],
    [[0, 0, 0], [0.3, 0.3, 0], [-0.3, 1.7, 0]],
    [[0, 0, 0], [0.01, 0, 0]],
]


def save(path: Path, **more: object) -> None:
    columns = {
        "ids": np.array(["mp-1", "mp-2", "mp-3", "mp-4"]),
        "lattice": np.array(LATTICES),
        "n_atoms": np.array([2, 2, 3, 2], np.uint16),
        "z": np.concatenate(NUMBERS).astype(np.uint8),
        "frac": np.concatenate(FRACTIONS).astype(np.float32),
        "split": np.array([0, 1, 2, 0], np.uint8),
    }
    np.savez(path, **{**columns, **more})


def test_mp20_arrays(tmp_path: Path) -> None:
    props = np.array([[-1.5, 2.0, np.nan]] * 4)
    names = np.array(["formation_energy_per_atom_eV", "band_gap_eV", "e_above_hull_eV_atom"])
    more = {"spacegroup": np.array([221, 1, 1, 1], np.uint8), "source": np.zeros(4, np.uint8), "missing_train_ids": np.array(["mp-9"])}
    save(tmp_path / mp20.ARRAYS.name, props=props, prop_names=names, **more)
    found = list(mp20.read(tmp_path))
    first, second, third = (item for item in found if isinstance(item, Structure))
    assert first.info["split"] == "train" and first.info["formation_energy_eV_per_atom"] == -1.5 and first.info["space_group"] == 221
    assert "e_above_hull_eV_per_atom" not in first.info and first.info["origin"] == "published" and first.info["id"] == "mp-1"
    assert second.cell is not None
    assert lattice.parameters(second.cell)[3:].min() > 59.9  # the sharp rhombohedral cell is reduced
    assert np.isclose(np.linalg.det(second.cell), Lattice.from_parameters(*LATTICES[1]).volume)
    assert third.positions is not None and (third.positions >= 0).all() and third.info["split"] == "test"
    assert [str(item) for item in found if isinstance(item, Rejected)] == [
        "row 3: overlapping sites: 0.04 Å apart, expected at least 0.5",
        "row 4: not available: mp-9",
    ]
    assert [item.row if isinstance(item, Rejected) else item.info["id"] for item in mp20.read(tmp_path, start=2)] == ["mp-3", 3, 4]


def test_tables_and_arrays_agree(tmp_path: Path) -> None:
    save(tmp_path / perov5.ARRAYS.name)
    for name, rows in zip((file.name for file in perov5.TABLES), ([0], [1], [2, 3]), strict=True):
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["", "material_id", "cif", "heat_all", "dir_gap"])
            for k in rows:
                crystal = Crystal(Lattice.from_parameters(*LATTICES[k]), NUMBERS[k], FRACTIONS[k])
                table.writerow([k, f"mp-{k + 1}", crystal.to(fmt="cif"), 0.5, ""])
    of_tables = list(perov5.read(tmp_path))
    for file in perov5.TABLES:
        (tmp_path / file.name).unlink()
    of_arrays = list(perov5.read(tmp_path))
    for k, (one, other) in enumerate(zip(of_tables, of_arrays, strict=True)):
        if k == 3:
            assert isinstance(one, Rejected) and isinstance(other, Rejected)
            continue
        assert isinstance(one, Structure) and isinstance(other, Structure)
        assert one.info["heat_all_eV"] == 0.5 and "direct_gap_eV" not in one.info and one.info["split"] == other.info["split"]
        assert np.allclose(lattice.parameters(one.cell), lattice.parameters(other.cell), atol=1e-4)
        assert np.array_equal(np.sort(one.numbers), np.sort(other.numbers))


def test_broken_cif_in_a_table(tmp_path: Path) -> None:
    for file in carbon24.TABLES:
        (tmp_path / file.name).write_text("material_id,cif\nx,data_\n")
    assert [item.reason.split(":")[0] for item in carbon24.read(tmp_path) if isinstance(item, Rejected)] == ["not read"] * 3


def test_mp_le20_leaves_out_what_mp20_tests(tmp_path: Path) -> None:
    names = np.array(["formation_energy_per_atom_eV", "band_gap_eV", "e_above_hull_eV_atom"])
    more = {"props": np.zeros((4, 3)), "prop_names": names, "spacegroup": np.ones(4, np.uint8), "source": np.zeros(4, np.uint8)}
    save(tmp_path / mp20.ARRAYS.name, **more)
    extra = {"z": np.array([55, 17, 29, 8, 22, 8, 8, 11, 17]), "mp20_split": np.array([0, 1, 255, 255], np.uint8)}
    save(tmp_path / mp_le20.ARRAYS.name, frac=np.concatenate([*FRACTIONS[:3], FRACTIONS[0]]).astype(np.float32), **extra)
    found = list(mp_le20.read(tmp_path))
    assert [item.info["id"] for item in found if isinstance(item, Structure)] == ["mp-1", "mp-4"]
    assert [item.reason.split(":")[0] for item in found if isinstance(item, Rejected)] == [
        "in MP-20 validation or test",
        "formula of an MP-20 test crystal",
    ]


def test_store_keeps_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / mpts52.ARRAYS.name)
    given = [item for item in mpts52.read(tmp_path) if isinstance(item, Structure)]
    store = datasets.build(tmp_path / "store", lambda start: mpts52.read(tmp_path, start), mpts52.INFO)
    assert store.report.summary() == "3 structures; 1 rows rejected: 1 overlapping sites"
    for mine, stored in zip(given, store, strict=True):
        assert np.array_equal(mine.cell, stored.cell) and np.allclose(mine.positions, stored.positions, atol=1e-6)
        assert dict(mine.info) == dict(stored.info)


def test_polymorphs_are_on_one_side() -> None:
    rutile, doubled = Structure(np.array([22, 8, 8])), Structure(np.array([8, 8, 8, 8, 22, 22]))
    assert crystals.polymorph_split(rutile) == crystals.polymorph_split(doubled)
    shares = [crystals.fraction(f"A{k}B") for k in range(4000)]
    assert abs(np.mean(np.array(shares) < crystals.POLYMORPH[0]) - 0.6) < 0.03


def test_git_checksum(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello\n")
    download.check(tmp_path / "file", "git:ce013625030ba8dba906f756967f9e9ca394464a")  # `printf 'hello\n' | git hash-object --stdin`
    with pytest.raises(DataError, match="expected git"):
        download.check(tmp_path / "file", "git:ce013625030ba8dba906f756967f9e9ca394464b")
