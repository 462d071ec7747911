"""Crystal protocols: perturbed real structures, files of draws, a fake model through the front door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crystals import caesium_chloride, crystal, perovskite, rock_salt, shaken
from fake import weights

import sciar
from sciar import bench, datasets, files
from sciar.bench import mp20_csp, mp20_denovo
from sciar.errors import InputError
from sciar.metrics import crystal as metrics
from sciar.structure import Structure


class Table(list):
    """Stands for a store."""

    def column(self, key: str) -> list[object]:
        return [s.info[key] for s in self]


@pytest.fixture(autouse=True)
def mp20(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Structure]:
    """A test set of four crystals, two of one composition; nothing in the cache."""
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    tested = [rock_salt(), perovskite(), caesium_chloride(), rock_salt(6.29, "K")]
    marked = Table(s.with_info(split="test", split_polymorph="test" if k != 1 else "train") for k, s in enumerate(tested))
    train = Table([rock_salt(4.2, "Mg", "O").with_info(split="train", split_polymorph="train")])
    monkeypatch.setattr(
        datasets, "load", lambda name, split=None, **_: {"test": marked, "train": train, None: Table(marked + train)}[split]
    )
    return tested


def test_perturbed_test_crystals(mp20: list[Structure]) -> None:
    draws = [[caesium_chloride(), mp20[0]], [shaken(mp20[1], 0.05), None], [None, None], [mp20[3], mp20[3]]]
    result = bench.run("mp20-csp", samples=draws, draws=2)
    raw = result.raw
    assert result.n_drawn == 8 and raw["match_rate"] == 0.5 and raw["metre"] == 0.75 and raw["composition_exact"] == 0.75
    small = metrics.match(shaken(mp20[1], 0.05), mp20[1])
    assert small is not None and 0 < small < 0.05 and raw["rmse"] == pytest.approx(small / 2, abs=1e-6)
    assert raw["match_rate_2"] == 0.75 and raw["metre_2"] == 1.0 and raw["crmse_2"] < raw["crmse"] and raw["timeouts"] == 0
    assert result.intervals["match_rate"][0] <= 0.5 <= result.intervals["match_rate"][1] and result.ranked is None
    assert "DiffCSP" in str(result) and "first draw" in str(result)


def test_the_answer_that_is_drawn_most_often(mp20: list[Structure]) -> None:
    salt, flat = mp20[0], mp20[0].replace(cell=np.ones((3, 3)))
    draws = [[caesium_chloride(), salt, shaken(salt, 0.02)], [None, mp20[1], flat], [salt, caesium_chloride(), None], [flat, None, flat]]
    result = bench.run("mp20-csp", samples=draws, draws=3)
    rows = {row["model"]: row["match_rate"] for row in result.rows}
    assert rows == {"samples, first draw": 0.0, "samples, best of 3 by RMSD": 0.75, "samples, best by votes, then score": 0.5}


def test_files_by_tag_and_by_order(mp20: list[Structure], tmp_path: Path) -> None:
    tagged = [
        mp20[1].with_info(SCIAR_ROW=1, SCIAR_DRAW=1, SCIAR_SCORE=-5.0),
        caesium_chloride().with_info(SCIAR_ROW=0, SCIAR_DRAW=0, SCIAR_SCORE=-9.0),
        mp20[0].with_info(SCIAR_ROW=0, SCIAR_DRAW=1, SCIAR_SCORE=-1.0),
    ]
    files.write(tmp_path / "tagged.extxyz", tagged)
    result = bench.run("mp20-csp", samples=tmp_path / "tagged.extxyz", draws=2)
    assert result.raw["match_rate"] == 0 and result.raw["match_rate_2"] == 0.5
    assert result.ranked is not None and result.ranked["match_rate"] == 0.5, "the likelier draw is chosen"
    files.write(tmp_path / "plain.cif", mp20)
    assert bench.run("mp20-csp", samples=tmp_path / "plain.cif").raw["match_rate"] == 1.0
    with pytest.raises(InputError, match="expected 4 × 2 records, got 4"):
        bench.run("mp20-csp", samples=tmp_path / "plain.cif", draws=2)
    with pytest.raises(InputError, match="expected rows below 4 and draws below 1, got row 1 draw 1"):
        bench.run("mp20-csp", samples=tmp_path / "tagged.extxyz")
    with pytest.raises(InputError, match="leave temperature out"):
        bench.run("mp20-csp", samples=tmp_path / "plain.cif", temperature=0.5)


def test_a_model_through_the_front_door(tmp_path: Path) -> None:
    model = weights.save(tmp_path, task="crystal", statistics={"elements": ["Na", "Cl", "K"], "max_atoms": 20})
    result = bench.run("mp20-csp", model=model, draws=3, formulas=tmp_path / "rows.txt", seed=1)
    assert (tmp_path / "rows.txt").read_text().split() == ["Cl1Na1", "O3Sr1Ti1", "Cl1Na1", "Cl1K1"]
    assert result.n_drawn == 12 and result.raw["composition_exact"] == 0.75, "the refused row counts"
    assert result.ranked is not None and result.raw["seconds_per_1000"] > 0
    with pytest.raises(InputError, match="got 'temperature'"):  # it reaches the sampler, and this one has none
        bench.run("mp20-csp", model=model, temperature=0.5)
    out = tmp_path / "drawn.extxyz"
    sciar.generate(formula=(tmp_path / "rows.txt").read_text().split(), n_formula_units=1, n=3, seed=1, model=model, out=out)
    again = bench.run("mp20-csp", samples=out, draws=3)
    assert again.raw["composition_exact"] == result.raw["composition_exact"] and again.raw["match_rate_3"] == result.raw["match_rate_3"]


def test_choice_of_rows(mp20: list[Structure]) -> None:
    assert len(mp20_csp.chosen(None, 0, "polymorph")) == 3
    assert [s.formula for s in mp20_csp.chosen(2, 3)] == [s.formula for s in mp20_csp.chosen(2, 3)]
    for arguments, sentence in (
        ({"split": "random"}, "expected split standard or polymorph"),
        ({"n": 9}, "from 1 to 4 test crystals, got 9"),
    ):
        with pytest.raises(InputError, match=sentence):
            bench.run("mp20-csp", samples=[], **arguments)
    with pytest.raises(InputError, match="expected 4 rows of 1 draws, got 1 rows"):
        bench.run("mp20-csp", samples=[[None]])


def test_de_novo(mp20: list[Structure]) -> None:
    draws = [rock_salt(4.25, "Mg", "O"), rock_salt(), rock_salt(5.7), None]
    result = bench.run("mp20-denovo", samples=draws, coverage=False)
    raw = result.raw
    assert raw["struct_valid"] == raw["comp_valid"] == raw["valid"] == raw["accepted"] == 0.75
    assert raw["unique"] == 0.5 and raw["novel"] == 0.5 and raw["unique_novel"] == 0.25
    assert raw["wdist_n_elements"] == pytest.approx(0.25)  # {2} against {2, 3, 2, 2}
    padded = bench.run("mp20-denovo", samples=draws, n=8, coverage=False)
    assert padded.raw["valid"] == raw["valid"] / 2 and padded.n_drawn == 8


def test_de_novo_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def by_size(structures: list[Structure | None], jobs: int = 1, seconds: float = 60.0) -> Iterator[np.ndarray | str]:
        seen.append(len(structures))
        return (("no crystal" if s is None else np.full(193, 0.1 * s.n_atoms)) for s in structures)

    monkeypatch.setattr(mp20_denovo, "fingerprints", by_size)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    draws = [rock_salt(4.25, "Mg", "O"), None, rock_salt(), rock_salt()]
    raw = bench.run("mp20-denovo", samples=draws).raw
    assert raw["cov_precision"] == 0.75 and raw["cov_recall"] == 0.75, "no draw has the perovskite's five atoms: 0.3 √61 away"
    again = bench.run("mp20-denovo", samples=draws)
    assert seen == [0, 4, 0, 2, 0, 0, 0, 1], "what has a fingerprint is kept, and one of the draws is in the test set"
    assert again.raw == raw and "1 draws have no fingerprint and are near nothing: 1 no crystal." in again.notes


def test_de_novo_without_matminer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    result = bench.run("mp20-denovo", samples=[rock_salt()])
    assert "cov_recall" not in result.raw and result.raw["valid"] == 1
    assert any(note.startswith("COV-R and COV-P are not measured: coverage: expected the package matminer") for note in result.notes)
    assert not any("COV" in note for note in bench.run("mp20-denovo", samples=[rock_salt()], coverage=False).notes)


def test_de_novo_above_the_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    copper = crystal("Cu", [[0, 0, 0]], [[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]])
    result = bench.run("mp20-denovo", samples=[copper, rock_salt(), copper], hull=2, potential="emt", coverage=False)
    assert result.raw["n_hull"] == 2 and result.raw["n_relaxed"] == 1 and result.raw["n_without_hull"] == 1
    assert result.raw["stable"] == result.raw["sun_100meV"] == 0, "the one training crystal is magnesia"
    assert "No training crystal of the element alone" in str(result) and "the first 2 relaxed" in str(result)
    for arguments, sentence in (
        ({"hull": 4}, "expected hull from 0 to 3 draws, got 4"),
        ({"hull": 1, "potential": "ewald"}, "expected chgnet, emt, lj or an ASE calculator, got 'ewald'"),
    ):
        with pytest.raises(InputError, match=sentence):
            bench.run("mp20-denovo", samples=[copper] * 3, **arguments)
    with pytest.raises(InputError, match="expected hull from 0 to 5 draws, got 6"):
        bench.run("mp20-denovo", model="never loaded", n=5, hull=6)


def test_pattern_chooses_the_right_draw(mp20: list[Structure]) -> None:
    draws = [[caesium_chloride(), mp20[0]], [None, mp20[1]], [rock_salt(), mp20[2]], [None, None]]
    result = bench.run("pxrd", samples=draws, n=4, draws=2)
    assert result.raw["match_rate"] == 0 and result.ranked is not None and result.ranked["match_rate"] == 0.75
    assert result.ranked["cosine"] == pytest.approx(1) and result.raw["composition_exact"] == 0.5
    off = mp20[1].replace(positions=mp20[1].positions + np.array([[0.1, 0, 0]] + [[0, 0, 0]] * (mp20[1].n_atoms - 1)))
    draws[1][1] = off
    kept, moved = (bench.run("pxrd", samples=draws, n=4, draws=2, refine=k).ranked or {} for k in (0, 2))
    assert moved["match_rate"] == kept["match_rate"] == 0.75 and moved["rmse"] < 0.7 * kept["rmse"] and moved["cosine"] > kept["cosine"]


def test_pattern_with_a_model(tmp_path: Path) -> None:
    model = weights.save(tmp_path, task="crystal", statistics={"elements": ["Na", "Cl", "K"], "max_atoms": 20})
    result = bench.run("pxrd", model=model, n=4, draws=2)
    assert result.n_drawn == 8 and result.raw["composition_exact"] == 0.75


def test_published_rows() -> None:
    for protocol in ("mp20-csp", "mp20-denovo", "pxrd"):
        for row in bench.published(protocol):
            assert {"model", "values", "source", "protocol", "comparable"} <= set(row)
    assert max(row["values"]["match_rate"] for row in bench.published("mp20-csp") if row["comparable"]) == 0.6388


def test_density_of_the_reference(mp20: list[Structure]) -> None:
    assert metrics.density(mp20[0]) == pytest.approx(2.16, abs=0.02)
    assert np.isfinite([metrics.density(s) for s in mp20]).all()
