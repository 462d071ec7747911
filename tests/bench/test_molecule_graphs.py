import numpy as np
import pytest

from sciar import bench
from sciar.bench import molecule_graphs
from sciar.convert import from_smiles
from sciar.metrics import nspdk
from sciar.metrics.fcd import fcd
from sciar.structure import Structure


def test_every_draw_counts() -> None:
    graphs = [from_smiles(text) for text in ("CCO", "CCO", "CC(=O)N")]
    row = bench.run("qm9-graphs", samples=[*graphs, None], novelty=False).rows[0]
    assert row["draws"] == 4 and row["valid"] == 0.75 and row["valid_unique"] == 0.5


def test_fcd_of_a_set_to_itself_is_zero() -> None:
    pytest.importorskip("fcd")
    some = ["CCO", "CC(=O)N", "c1ccccc1", "CCN", "C1CC1O", "CC#N"]
    assert abs(fcd(some, some)) < 1e-3


def test_the_valence_mask_is_a_second_row() -> None:
    told: list[tuple[str, int, int]] = []
    rows = bench.run("qm9-graphs", model="qm9-blocks", n=6, novelty=False, keep=0.5, progress=lambda *step: told.append(step)).rows
    assert [row["model"] for row in rows] == ["qm9-blocks", "qm9-blocks, masks", "qm9-blocks, best 50% by score"] and rows[1][
        "valid"
    ] >= rows[0]["valid"]
    assert told == [("drawing", 0, 3), ("drawing, masks", 1, 3), ("judging", 2, 3)]
    assert len(bench.run("qm9-graphs", model="qm9-blocks", n=2, novelty=False, masked=False, keep=1).rows) == 1


def test_nspdk_is_of_every_draw_that_is_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of failed draws, but of a carbon with five bonds too; raw, ranked and the floor."""
    smiles = ["CCO", "CC(=O)N", "C1CC1O", "CC#N"]
    test = nspdk.features([nspdk.by_smiles(text) for text in smiles])
    monkeypatch.setattr(molecule_graphs, "_references", lambda name: molecule_graphs.References(frozenset(), smiles, None, test, 0.25))
    good = [from_smiles(text).replace(info={"SCIAR_SCORE": "-1"}) for text in smiles]
    broken = Structure(np.full(6, 6), bonds=np.array([[0, k, 1] for k in range(1, 6)]), info={"SCIAR_SCORE": "-9"})
    result = bench.run("qm9-graphs", samples=[*good, None, broken, broken, broken], keep=0.5)
    assert result.raw["valid"] == 0.5 and result.raw["graphs"] == 7 / 8 and result.ranked is not None
    assert result.raw["nspdk"] > 0.1 and result.ranked["nspdk"] == pytest.approx(0, abs=1e-12) and result.ranked["graphs"] == 1
    assert result.n_drawn == 8 and result.rows[-1] == {"model": "training set", "nspdk": 0.25}
    assert any("7 of 8" in note for note in result.notes)
