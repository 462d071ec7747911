"""MOSES and GEOM-DRUGS: graphs with their splits, from either source, from any row on."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np

from sciar.convert import to_smiles
from sciar.datasets import Item, Rejected, geom_drugs, moses

LINES = {"train": ["CCO", "c1ccccc1"], "test": ["CC(C)C"], "test_scaffolds": ["C1CC", "O=C1CCCN1"]}


def check(items: list[Item]) -> None:
    splits = [split for split, lines in LINES.items() for _ in lines]
    assert [item.row for item in items if isinstance(item, Rejected)] == [3]
    for item, split, smiles in zip(items, splits, sum(LINES.values(), []), strict=True):
        if not isinstance(item, Rejected):
            assert not isinstance(item, tuple) and item.positions is None and item.hydrogens is not None
            assert (item.info["split"], item.info["smiles"]) == (split, smiles) and to_smiles(item) == smiles


def test_moses_files(tmp_path: Path) -> None:
    for split, lines in LINES.items():
        (tmp_path / f"moses_{split}.smi.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    check(list(moses.read(tmp_path)))
    assert [item.row for item in moses.read(tmp_path, start=3) if isinstance(item, Rejected)] == [3]


def test_moses_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / moses.WHEEL.name, "w") as wheel:
        for split, lines in LINES.items():
            wheel.writestr(f"moses/dataset/data/{split}.csv.gz", gzip.compress("\n".join(["SMILES", *lines, ""]).encode()))
    check(list(moses.read(tmp_path)))


def test_geom_drugs(tmp_path: Path) -> None:
    arrays = {
        f"{split}_smiles_utf8": np.frombuffer(smiles.encode(), np.uint8)
        for split, smiles in (("train", "CCO\nCO"), ("val", "CN"), ("test", "CC"))
    }
    np.savez(tmp_path / "geom_drugs_smiles.npz", **arrays)
    items = list(geom_drugs.read(tmp_path, start=1))
    assert [(item.info["smiles"], item.info["split"]) for item in items if not isinstance(item, (tuple, Rejected))] == [
        ("CO", "train"),
        ("CN", "validation"),
        ("CC", "test"),
    ]
