"""MOSES: 1.9 million lead-like molecules of ZINC as graphs, with its train, test and scaffold-test splits."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sciar.datasets import File, Info, Item
from sciar.datasets.smiles import graphs

_SPLITS = ("train", "test", "test_scaffolds")

LINES = (
    File("moses_train.smi.xz", "sha256:2c5ba1525714512578bb6ca3a00d0a6415a81c1a551170ce57dce2cfa408a0d9"),
    File("moses_test.smi.xz", "sha256:252ab1818fcd2ec542f57ff9780efb5abbd6c56ad15947c1fd28ad537c8cd6a7"),
    File("moses_test_scaffolds.smi.xz", "sha256:c73b237e020b129c09a662d9952c8fb2e77502aed56342bf07e91edbef07a525"),
)
WHEEL = File(
    "molsets-0.3.1-py3-none-any.whl",
    "sha256:7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
    wheel="molsets==0.3.1",
)

INFO = Info(
    name="moses",
    version="1",
    description="1,936,962 lead-like molecules (C N O F S Cl Br, no charges) without positions",
    licence="MIT",
    citation="Polykovskiy et al., Molecular Sets (MOSES): a benchmarking platform for molecular generation models, "
    "Front. Pharmacol. 11 (2020) 565644",
    sources=("https://github.com/molecularsets/moses", "https://pypi.org/project/molsets/"),
    files=(LINES, (WHEEL,)),
    splits=(("train", 1_584_663), ("test", 176_074), ("test_scaffolds", 176_225)),
    n_rows=1_936_962,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The molecules, hydrogens as counts, in the order of the source: train, test, scaffold test."""
    return graphs(islice(((row, smiles, split) for row, (smiles, split) in enumerate(lines(root))), start, None))


def lines(root: Path) -> Iterator[tuple[str, str]]:
    """SMILES as the source lists them, and the split each belongs to."""
    if all((root / file.name).exists() for file in LINES):
        for file, split in zip(LINES, _SPLITS, strict=True):
            with lzma.open(root / file.name, "rt") as lines:
                yield from ((line.strip(), split) for line in lines)
        return
    with zipfile.ZipFile(root / WHEEL.name) as wheel:
        for split in _SPLITS:
            with gzip.open(io.BytesIO(wheel.read(f"moses/dataset/data/{split}.csv.gz")), "rt") as table:
                yield from ((line["SMILES"], split) for line in csv.DictReader(table))
