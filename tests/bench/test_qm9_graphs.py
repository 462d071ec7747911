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
