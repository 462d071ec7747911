"""A stranger's file gives the numbers of the same samples in memory; what cannot be read is a failed draw and is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from crystals import caesium_chloride, rock_salt

from sciar import bench, datasets, files
from sciar.bench.given import given
from sciar.errors import InputError
from sciar.structure import SYMBOLS, Structure

MOLECULES = datasets.samples("qm9")[:30]


def xyz(molecule: Structure) -> str:
    """As scripts write it: the number of atoms, an empty comment, element and coordinates."""
    lines = (f"{SYMBOLS[s]} {x:.5f} {y:.5f} {z:.5f}" for s, (x, y, z) in zip(molecule.numbers, molecule.positions, strict=True))
    return "\n".join([str(molecule.n_atoms), "", *lines]) + "\n"


def test_a_file_of_xyz_records_scores_as_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "edm.xyz"
    path.write_text("".join(map(xyz, MOLECULES)))
    bare = [Structure(m.numbers, positions=m.positions.round(5)) for m in MOLECULES]
    options = {"novelty": False}
    assert bench.run("qm9", samples=path, **options).raw == bench.run("qm9", samples=bare, **options).raw


def test_broken_records_are_failures_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "some.smi"
    path.write_text("CCO\nC1CC\nCCN\nc1ccc1X\n")
    result = bench.run("zinc250k", samples=path, novelty=False)
    assert result.n_drawn == 4 and result.raw["valid"] == 0.5
    assert any("some.smi: 2 records cannot be used" in note and "1: " in note and "3: " in note for note in result.notes)
    assert result.rows[0]["model"] == "some.smi"


def test_missing_draws_are_failures(tmp_path: Path) -> None:
    files.write(tmp_path / "two.cif", [rock_salt(), caesium_chloride()])
    found = given("mp20-denovo", tmp_path / "two.cif", n=5)
    assert [s is None for s in found.structures] == [False, False, True, True, True] and len(found.scores) == 5


def test_no_draws_at_all(tmp_path: Path) -> None:
    (tmp_path / "none.smi").write_text("")
    for samples in (tmp_path / "none.smi", []):
        with pytest.raises(InputError, match="expected draws, got none"):
            given("moses", samples)
