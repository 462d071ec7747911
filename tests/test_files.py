"""Files: what is written is read back, what is broken is reported with its row."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from molecules import DRUGS, conformer, rock_salt

from sciar.convert import from_networkx, from_smiles, to_networkx, to_smiles
from sciar.errors import InputError
from sciar.files import from_dict, iter_read, read, to_dict, write
from sciar.structure import Structure


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".extxyz", ".smi", ".jsonl", ".json", ".csv"])
def test_molecules_round_trip(tmp_path: Path, suffix: str, append: bool) -> None:
    molecules = [conformer(smiles).with_info(id=f"m{k}", gap_eV=0.25 * k) for k, smiles in enumerate(DRUGS)]
    path = tmp_path / f"a{suffix}"
    if append and suffix in (".json", ".csv"):
        with pytest.raises(InputError, match="append"):
            write(path, molecules, append=True)
        return
    if append:
        assert [write(path, [m], append=True) for m in molecules] == [1, 1, 1]
    else:
        assert write(path, iter(molecules)) == 3
    again = read(path)
    for old, new in zip(molecules, again, strict=True):
        assert np.array_equal(new.numbers, old.numbers) or suffix in (".smi", ".csv")
        if suffix not in (".smi", ".csv"):
            assert np.allclose(new.positions, old.positions, atol=1e-4)
            assert float(new.info["gap_eV"]) == old.info["gap_eV"]  # type: ignore[arg-type]
        if suffix not in (".xyz", ".extxyz"):
            assert to_smiles(new) == to_smiles(old)


@pytest.mark.parametrize("name", ["a.cif", "a.extxyz", "POSCAR", "a.vasp", "a.json"])
def test_crystals_round_trip(tmp_path: Path, name: str) -> None:
    crystal = rock_salt()
    write(tmp_path / name, [crystal])
    (again,) = read(tmp_path / name)
    assert again.cell is not None and again.positions is not None
    assert np.allclose(again.cell, crystal.cell, atol=1e-6) and np.allclose(again.positions, crystal.positions, atol=1e-6)
    assert again.formula == crystal.formula


def test_several_crystals_in_one_cif(tmp_path: Path) -> None:
    write(tmp_path / "a.cif", [rock_salt(), rock_salt()])
    assert len(read(tmp_path / "a.cif")) == 2


def test_json_keeps_everything() -> None:
    s = from_smiles("C[C@H](F)/C=C/[NH3+]", explicit_hydrogens=False).with_info(id="x", values=np.arange(2))
    again = from_dict(to_dict(s))
    for name in ("numbers", "bonds", "charges", "hydrogens", "tetrahedral", "double_bonds"):
        assert np.array_equal(getattr(again, name), getattr(s, name))
    assert again.info == {"id": "x", "values": [0, 1]}


def test_a_bad_record_is_reported_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("CCO ethanol\nC1CC\n\nCC\tethane\n")
    rows = list(iter_read(path))
    assert [row for row, _ in rows] == [0, 1, 2, 3]
    first, second, third, fourth = (structure for _, structure in rows)
    assert isinstance(first, Structure) and first.info["id"] == "ethanol"
    assert isinstance(second, str) and "unclosed ring" in second
    assert isinstance(third, str) and "empty" in third
    assert isinstance(fourth, Structure) and fourth.info["id"] == "ethane"
    with pytest.raises(InputError, match="record 1"):
        read(path)


def test_bad_sdf_and_xyz_records(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.sdf"
    write(path, [conformer(DRUGS[1])] * 3)
    records = path.read_text().split("$$$$\n")
    records[1] = records[1].replace("V2000", "V9000")
    path.write_text("$$$$\n".join(records))
    assert [isinstance(s, Structure) for _, s in iter_read(path)] == [True, False, True]
    (tmp_path / "b.xyz").write_text("1\n\nC 0 0 0\n2\n\nC 0 0 0\nQq 1 1 1\n1\n\nH 0 0 x\n")
    assert [s if isinstance(s, str) else s.formula for _, s in iter_read(tmp_path / "b.xyz")][0] == "C"
    reasons = [s for _, s in iter_read(tmp_path / "b.xyz")][1:]
    assert all(isinstance(r, str) and "atom" in r for r in reasons) and len(reasons) == 2
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(
    suffix=st.sampled_from([".cif", ".vasp", ".extxyz"]),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 0.2)),
    put=st.sampled_from(["", "?", "-1", "\n", "'"]),
)
def test_a_broken_file_of_crystals_is_reported_and_no_more(suffix: str, cut: tuple[float, float], put: str) -> None:
    """Whatever piece is missing or replaced: each record is a crystal or a reason."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path, [rock_salt()])
        text = path.read_text()
        first, length = (int(part * len(text)) for part in cut)
        path.write_text(text[:first] + put + text[first + length :])
        assert all(isinstance(record, Structure) or (isinstance(record, str) and record) for _, record in iter_read(path))


def test_a_loop_without_rows_in_a_cif(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text("data_x\n_cell_length_a 4\nloop_\n_atom_site_label\n")
    with pytest.raises(InputError, match="expected a crystal, got text that pymatgen cannot read"):
        read(tmp_path / "a.cif")


def test_a_cut_xyz_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("3\n\nC 0 0 0\n")
    ((row, reason),) = iter_read(tmp_path / "a.xyz")
    assert row == 0 and isinstance(reason, str)
    (tmp_path / "b.xyz").write_text("C 0 0 0\n")
    assert isinstance(next(iter_read(tmp_path / "b.xyz"))[1], str)


def test_tables_have_a_smiles_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,Smiles,gap_eV\nx,CCO,1.5\ny,C1,2\n")
    rows = list(iter_read(tmp_path / "a.csv"))
    assert isinstance(rows[0][1], Structure) and dict(rows[0][1].info) == {"name": "x", "gap_eV": 1.5}
    assert isinstance(rows[1][1], str)
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="column named SMILES"):
        read(tmp_path / "b.csv")


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.smi", [from_smiles("C")])
    write(tmp_path / "a.sdf", [conformer(DRUGS[1])])
    (tmp_path / "notes.md").write_text("no structure")
    assert [s.info["file"] for s in read(tmp_path)] == ["a.sdf", "b.smi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got none"):
        read(tmp_path / "empty")


def test_refusals_name_the_near_miss(tmp_path: Path) -> None:
    (tmp_path / "mine.sdf").write_text("")
    with pytest.raises(InputError, match=r"did you mean '\.sdf'"):
        read(tmp_path / "a.sdff")
    with pytest.raises(InputError, match=r"did you mean 'mine\.sdf'"):
        read(tmp_path / "mime.sdf")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        read(tmp_path / "a.json")
    (tmp_path / "a.smi").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected text"):
        read(tmp_path / "a.smi")
    for name, structure, message in (
        ("a.cif", from_smiles("C"), "crystal"),
        ("a.sdf", rock_salt(), "molecule"),
        ("a.xyz", from_smiles("C"), "positions"),
    ):
        with pytest.raises(InputError, match=message):
            write(tmp_path / name, [structure])
    with pytest.raises(InputError, match="one structure"):
        write(tmp_path / "POSCAR", [rock_salt()] * 2)


def test_a_whole_file_appears_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("CC\n")

    def broken():  # type: ignore[no-untyped-def]
        yield from_smiles("C")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, broken())
    assert path.read_text() == "CC\n" and [p.name for p in tmp_path.iterdir()] == ["a.smi"]
    write(path, [])
    assert path.read_text() == "" and stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_appending_flushes_each_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    seen = []

    def watched():  # type: ignore[no-untyped-def]
        for _ in range(3):
            seen.append(len(path.read_text().splitlines()) if path.exists() else 0)
            yield from_smiles("C")

    write(path, watched(), append=True)
    assert seen == [0, 1, 2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.smi").symlink_to("/dev/full")
    with pytest.raises(InputError, match="no space left"):
        write(tmp_path / "a.smi", [from_smiles("C")], append=True)
    with pytest.raises(InputError, match="no such file"):
        write(tmp_path / "nowhere" / "a.smi", [from_smiles("C")])


GRAPHS = [nx.cycle_graph(5), nx.empty_graph(3), nx.petersen_graph(), nx.path_graph(70), nx.empty_graph(0)]


@pytest.mark.parametrize("name", ["a.g6", "a.graph6", "a.edgelist", "a.edges", "a.jsonl"])
def test_plain_graphs_round_trip(tmp_path: Path, name: str) -> None:
    graphs = [from_networkx(g) for g in GRAPHS]
    assert write(tmp_path / name, graphs) == 5
    for old, new in zip(graphs, read(tmp_path / name), strict=True):
        assert np.array_equal(old.adjacency(), new.adjacency()) and not new.numbers.any()
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(2):
        write(folder / f"{k}.edges", graphs[:1])
    assert len(read(folder)) == 2


def test_graph6_is_that_of_networkx(tmp_path: Path) -> None:
    path = tmp_path / "a.g6"
    path.write_bytes(nx.to_graph6_bytes(GRAPHS[2]) + nx.to_graph6_bytes(GRAPHS[0], header=False))
    assert [len(g.bonds) for g in read(path) if g.bonds is not None] == [15, 5]
    write(path, [from_networkx(GRAPHS[3])])
    assert nx.utils.graphs_equal(nx.read_graph6(path), GRAPHS[3])


def test_edge_lists_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.edges"
    path.write_text("% a comment\n3,10\n10,7 0.5\n\n\n# named\nalice bob {}\nbob carol {}\n")
    first, second = read(path)
    assert [first.n_atoms, second.n_atoms] == [3, 3]
    assert first.bonds is not None and first.bonds.tolist() == [[0, 2, 1], [1, 2, 1]]  # nodes 3, 7, 10
    nx.write_edgelist(GRAPHS[2], path)
    assert nx.is_isomorphic(to_networkx(read(path)[0]), GRAPHS[2])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.edges", "0 1\n2 2\n", ["self-loop of node 2", "line 2"]),
        ("a.edges", "0 1\n1 2\n0 1\n", ["0 1", "line 3", "first in line 1"]),
        ("a.edges", "0 1\n1 0\n", ["1 0", "line 2", "without direction"]),
        ("a.edges", "0 1\n\n0 1\n7\n", ["record 1", "'7' in line 4", "two nodes"]),
        ("a.edges", "# nodes 2\n0 5\n", ["beyond the 2", "line 1"]),
        ("a.g6", ":Fa@x^\n", ["sparse6", "line 1"]),
        ("a.g6", "DQc\n&C_\n", ["record 1", "directed", "line 2"]),
        ("a.g6", "DQc\nDQcQQ\n", ["not graph6", "line 2"]),
        ("a.g6", "\n", ["nothing in line 1"]),
    ],
)
def test_graphs_that_are_not_simple_are_reported(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", ["a.g6", "a.edgelist"])
def test_molecules_are_no_plain_graphs(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a plain graph"):
        write(tmp_path / name, [from_smiles("CCO")])
