from __future__ import annotations

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from sciar import bench
from sciar.bench import conformers
from sciar.errors import InputError
from sciar.metrics.conformer import stereo_kept

SMILES = ("C[C@H](O)CC", "[H]/N=C(\\C)CC", "c1ccccc1C(=O)O", "OC/C=C/C")


@pytest.fixture(scope="module")
def targets():
    out = []
    for text in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        mol = Chem.RenumberAtoms(mol, np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist())
        rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=3)
        out.append(conformers.target(mol, np.array([c.GetPositions() for c in mol.GetConformers()])))
    return out


def run(monkeypatch, targets, **methods):
    monkeypatch.setattr(conformers, "load_targets", lambda name, limit: (targets, f"{name}: {len(targets)} molecules"))
    return bench.run("conformers", n=3, sets="qm9", methods=methods)


def test_targets_are_in_the_order_of_their_smiles(targets):
    for target, text in zip(targets, SMILES, strict=True):
        assert Chem.CanonSmiles(target.smiles) == Chem.CanonSmiles(text)
        bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in target.mol.GetBonds()]
        assert all(0.9 < np.linalg.norm(x[i] - x[j]) < 1.7 for x in target.references for i, j in bonds)
        assert all(stereo_kept(target.mol, x) for x in target.references)


def test_references_as_answers_are_perfect(monkeypatch, targets):
    answers = {t.smiles: list(t.references) for t in targets}
    result = run(monkeypatch, targets, oracle=lambda smiles, n, seed: [answers[s] for s in smiles])
    row = next(r for r in result.rows if r["method"] == "oracle")
    assert row["success_stereo"] == row["success_molecule"] == 1 and row["rmsd"] == pytest.approx(0, abs=1e-6)
    assert row["coverage"] == row["coverage_precision"] == 1 and row["rmsd_ratio"] == pytest.approx(0, abs=1e-5)


def test_mirrors_and_failures_count_against_a_method(monkeypatch, targets):
    def poor(smiles, n, seed):
        good = conformers.etkdg(smiles, n, seed)
        return [[good[0][0] * [1, 1, -1], None, np.full_like(good[0][0], np.nan)], [None] * 3, *good[2:]]

    result = run(monkeypatch, targets, poor=poor)
    row = next(r for r in result.rows if r["method"] == "poor")
    assert row["success_stereo"] == row["success_molecule"] == row["compared"] / 4 == 0.5
    assert row["coverage"] <= 0.5
    ours = next(r for r in result.rows if r["method"] == "etkdgv3")
    assert ours["success_stereo"] == ours["rmsd_ratio"] == ours["speed_ratio"] == 1


def test_result_is_json_and_a_table(monkeypatch, targets, tmp_path):
    monkeypatch.setattr(conformers, "load_targets", lambda name, limit: (targets, "four molecules"))
    result = bench.run("conformers", n=2, sets="hutchison", json=tmp_path / "out.json")
    read = json.loads((tmp_path / "out.json").read_text())
    assert {"protocol", "n_requested", "n_drawn", "seconds", "raw", "ranked", "intervals", "published"} <= set(read)
    header, cells = result.table()
    assert header[0] == "method" and all(len(row) == len(header) for row in cells) and "etkdgv3+mmff94s" in str(result)


def test_etkdg_draws_differ_and_repeat():
    first, again = (conformers.etkdg(["CCCCO"], 3, seed)[0] for seed in (0, 0))
    assert np.array_equal(first, again) and np.abs(first[0] - first[1]).max() > 0.1


def test_unknown_words_are_refused():
    for call in (lambda: bench.run("conformer"), lambda: bench.run("conformers", sets="qm8"), lambda: bench.run("conformers", speed=1)):
        with pytest.raises(InputError, match="expected"):
            call()
