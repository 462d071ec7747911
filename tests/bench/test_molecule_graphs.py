import pytest

from sciar import bench
from sciar.convert import from_smiles
from sciar.metrics.fcd import fcd


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
    rows = bench.run("qm9-graphs", model="qm9-blocks", n=6, novelty=False, progress=lambda *step: told.append(step)).rows
    assert [row["model"] for row in rows] == ["qm9-blocks", "qm9-blocks, masks"] and rows[1]["valid"] >= rows[0]["valid"]
    assert told == [("drawing", 0, 3), ("drawing, masks", 1, 3), ("judging", 2, 3)]
    assert len(bench.run("qm9-graphs", model="qm9-blocks", n=2, novelty=False, masked=False).rows) == 1
