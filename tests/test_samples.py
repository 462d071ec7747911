"""Samples: lists with honest lengths, files that others read, pictures that need no network."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake import weights
from rdkit import Chem

import sciar
from sciar import view
from sciar.convert import from_smiles
from sciar.record import pack, unpack
from sciar.samples import Samples
from sciar.structure import Structure

IBUPROFEN = "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O"
TAGS = {"SCIAR_ROW", "SCIAR_DRAW", "SCIAR_SMILES", "SCIAR_VALID", "SCIAR_REASONS", "SCIAR_SCORE"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Two molecules, eight draws each, some of them broken."""
    model = weights.save(tmp_path_factory.mktemp("weights"), broken=0.4)
    found = sciar.generate(smiles=[IBUPROFEN, "C[N+](C)(C)CC([O-])=O"], n=8, seed=0, model=model)
    assert 4 < found.valid.sum() < 14
    return found


def test_lists_keep_failures_as_none(samples: Samples) -> None:
    assert len(samples) == 16 == len(samples.mols) == len(samples.structures) == len(samples.graphs) == len(samples.scores)
    for valid, mol, structure, graph in zip(samples.valid, samples.mols, samples.structures, samples.graphs, strict=True):
        assert (mol is not None) == (structure is not None) == (graph is not None) == valid
    assert all(mol.GetNumConformers() == 1 for mol in samples.mols if mol)


def test_indexing(samples: Samples) -> None:
    assert isinstance(samples[0], sciar.Verdict) and samples[-1] is samples[15]
    assert [v.valid for v in samples[2:6]] == samples.valid[2:6].tolist()
    assert len(samples[samples.valid]) == samples.valid.sum() and samples[samples.valid].valid.all()
    assert len(samples[[3, 1]]) == 2 and samples[[3, 1]][0] is samples[3]
    with pytest.raises(IndexError):
        samples[16]


def test_summary(samples: Samples) -> None:
    valid = int(samples.valid.sum())
    assert re.fullmatch(rf"{valid} valid of 16 drawn, {100 * valid / 16:.1f} %: {16 - valid} \D+", samples.summary())
    assert samples.summary() in repr(samples)


def test_table(samples: Samples) -> None:
    table = samples.df
    assert len(table) == 16 and table.valid.sum() == samples.valid.sum()
    assert set(table[table.valid & (table.row == 0)].smiles) == {Chem.CanonSmiles(IBUPROFEN)}
    assert table[~table.valid].smiles.isna().all() and (table[~table.valid].reasons != "").all()
    assert list(Samples([], samples.run).df.columns) == list(table.columns)


def test_conformers(samples: Samples) -> None:
    mols = samples.conformers()
    assert len(mols) == 2
    for row, mol in enumerate(mols):
        mine = [r for r in samples.records if r.row == row and r.valid]
        assert [c.GetId() for c in mol.GetConformers()] == list(range(len(mine)))
        for conformer, r in zip(mol.GetConformers(), mine, strict=True):
            assert conformer.Is3D() and conformer.GetIntProp("SCIAR_DRAW") == r.draw
            np.testing.assert_array_equal(conformer.GetPositions(), r.verdict.structure.positions)
    given = Chem.AddHs(Chem.MolFromSmiles(IBUPROFEN))
    assert [a.GetAtomicNum() for a in mols[0].GetAtoms()] == [a.GetAtomicNum() for a in given.GetAtoms()]
    assert {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in mols[0].GetBonds()} == {
        tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in given.GetBonds()
    }


def test_sdf(samples: Samples, tmp_path: Path) -> None:
    samples.to_sdf(tmp_path / "x.sdf")
    read = list(Chem.SDMolSupplier(str(tmp_path / "x.sdf"), removeHs=False))
    assert len(read) == 16
    for r, mol in zip(samples.records, read, strict=True):
        assert set(mol.GetPropNames()) >= TAGS
        assert mol.GetProp("SCIAR_VALID") == str(r.valid) and mol.GetIntProp("SCIAR_DRAW") == r.draw
        assert mol.GetProp("SCIAR_SMILES") == r.label
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), r.verdict.structure.positions, atol=1e-4)
        if r.valid:
            assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == Chem.CanonSmiles(r.label)


def test_extxyz(samples: Samples) -> None:
    ase_io = pytest.importorskip("ase.io")
    frames = ase_io.read(io.StringIO(samples.to_extxyz()), ":", format="extxyz")
    assert len(frames) == 16
    for r, atoms in zip(samples.records, frames, strict=True):
        assert set(atoms.info) >= TAGS and bool(atoms.info["SCIAR_VALID"]) == r.valid and atoms.info["SCIAR_SMILES"] == r.label
        np.testing.assert_allclose(atoms.positions, r.verdict.structure.positions, atol=1e-6)


def test_xyz_and_smiles(samples: Samples) -> None:
    assert samples.to_xyz().count("SCIAR_DRAW=") == 16
    lines = samples.to_smiles().split("\n")
    assert len(lines) == 17 and [bool(line) for line in lines[:-1]] == samples.valid.tolist()


def test_json(samples: Samples) -> None:
    content = json.loads(samples.to_json())
    assert content["report"]["n_drawn"] == 16 and len(content["samples"]) == 16
    for r, entry in zip(samples.records, content["samples"], strict=True):
        assert entry.keys() >= TAGS and entry["SCIAR_VALID"] is r.valid and entry["SCIAR_REASONS"] == list(r.verdict.reasons)
        assert entry["positions"] == r.verdict.structure.positions.tolist()


def test_wrong_format(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(sciar.InputError, match="expected a name that ends in"):
        samples.write(tmp_path / "x.pdb")
    with pytest.raises(sciar.InputError, match="expected crystals"):
        samples.to_cif()


def test_an_empty_or_broken_structure_is_written_too(samples: Samples, tmp_path: Path) -> None:
    import dataclasses

    broken = [
        Structure(np.zeros(0, dtype=np.int64)),
        Structure([6, 8], positions=[[0, 0, 0], [0, 0, 1.2]]),
        Structure([6, 6], positions=[[0, 0, 0], [0, 0, 1.2]], bonds=[[0, 1, 4]], charges=[1, -1]),
    ]
    records = [
        dataclasses.replace(samples.records[0], draw=k, verdict=sciar.Verdict(s, None, ("made: by hand",))) for k, s in enumerate(broken)
    ]
    odd = Samples(records, samples.run)
    odd.to_sdf(tmp_path / "x.sdf")
    read = list(Chem.SDMolSupplier(str(tmp_path / "x.sdf"), removeHs=False, sanitize=False))
    assert [mol.GetNumAtoms() for mol in read] == [0, 2, 2] and read[2].GetAtomWithIdx(0).GetFormalCharge() == 1
    assert odd.to_xyz().startswith("0\n") and odd.to_smiles() == "\n\n\n" and len(json.loads(odd.to_json())["samples"]) == 3
    assert odd.conformers() == [None] and len(odd.df) == 3 and odd._repr_html_()


def test_rank_and_dedupe(samples: Samples) -> None:
    ranked = samples.rank()
    for row in (0, 1):
        mine = [r for r in ranked.records if r.row == row]
        assert [r.valid for r in mine] == sorted((r.valid for r in mine), reverse=True)
        scores = [r.score for r in mine if r.valid]
        assert scores == sorted(scores, reverse=True)
    assert len(ranked) == 16
    few = samples.dedupe(rmsd=50)
    assert len(few) == 2 and few.valid.all()
    assert len(samples.dedupe(rmsd=0)) == samples.valid.sum()


def test_dedupe_of_molecules(tmp_path: Path) -> None:
    found = sciar.generate("molecule", n=30, seed=0, model=weights.save(tmp_path))
    assert sorted(found.dedupe().to_smiles().split()) == ["C1CC1", "CC=O", "CCO", "c1ccccc1"]


def test_pack_keeps_every_digit(samples: Samples) -> None:
    for structure in samples.structures:
        if structure is not None:
            back = unpack(json.loads(json.dumps(pack(structure))))
            for name in ("numbers", "positions", "bonds", "charges", "tetrahedral", "double_bonds"):
                a, b = getattr(structure, name), getattr(back, name)
                assert (a is None) == (b is None) and (a is None or np.array_equal(a, b))


def test_notebook_view_is_offline(samples: Samples) -> None:
    page = samples._repr_html_()
    assert page.count("<svg") >= samples.valid[:12].sum() and page.count("data:image/png;base64,") == 12
    assert not re.search(r"""(src|href)\s*=\s*['"]?(https?:)?//""", page)
    assert samples.summary().split(":")[0] in page and "… and 4 more" in page
    assert "stroke-dasharray" not in page, "aromatic rings have single and double bonds"


def test_pictures(samples: Samples, tmp_path: Path) -> None:
    from matplotlib.image import imread

    png = view.picture(samples[0], tmp_path / "a.png", size=200)
    image = imread(io.BytesIO(png))
    assert image.shape == (200, 200, 3) and (tmp_path / "a.png").read_bytes() == png
    assert 0.05 < (image < 0.98).any(axis=-1).mean() < 0.9
    assert view.picture(samples.conformers()[0], size=50) == view.picture(samples.mols[samples.valid.argmax()], size=50)
    assert imread(io.BytesIO(samples.picture(tmp_path / "sheet.png"))).shape == (3 * 260, 4 * 260, 3)
    view.picture(samples[0], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    assert view.grid(samples.mols[:3], tmp_path / "g.svg").count("<svg") == 1
    assert view.grid(samples.mols[:3], tmp_path / "g.png")[:4] == b"\x89PNG"
    with pytest.raises(sciar.InputError, match="expected atoms with positions"):
        view.picture(Structure([6]))
    with pytest.raises(sciar.InputError, match=r"ends in \.png or \.svg"):
        view.picture(samples[0], tmp_path / "a.gif")


def test_picture_of_a_plain_graph() -> None:
    """Vertices without elements or places are drawn, and edges between them; they were an empty tile."""
    from matplotlib.image import imread

    ring = Structure(np.zeros(6, dtype=np.int64), bonds=[(k, k + 1, 1) for k in range(5)] + [(0, 5, 1)])
    apart = Structure(np.zeros(6, dtype=np.int64), bonds=np.zeros((0, 3), dtype=np.int64))
    inked = [(imread(io.BytesIO(view.picture(g, size=120)))[..., :3] < 0.9).any(-1).mean() for g in (ring, apart)]
    assert 0.05 < inked[0] < 0.9 and inked[1] > 0


def test_pictures_of_molecular_graphs() -> None:
    """Molecules without positions are drawn as formulas, each its own; what is no molecule stays empty."""
    texts = ["c1ccccc1O", "CC(=O)[O-]"]
    from matplotlib.image import imread

    tiles = imread(io.BytesIO(view.sheet([from_smiles(text).replace(positions=None) for text in texts], size=120)))
    inked = [(tile[..., :3] < 0.9).any(-1) for tile in np.split(tiles, 2, axis=1)]
    assert all(0.01 < ink.mean() < 0.5 for ink in inked) and not np.array_equal(*inked)


def test_picture_is_no_mirror_image() -> None:
    """The frame that turns a molecule into the picture is a rotation: handedness is kept."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.normal(size=(5, 3))
        turned = view._turned(x)
        assert np.sign(np.linalg.det(x[1:4] - x[0])) == np.sign(np.linalg.det(turned[1:4] - turned[0]))
