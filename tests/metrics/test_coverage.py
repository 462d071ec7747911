"""Coverage by hand-made fingerprints, and fingerprints themselves where matminer is installed."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from crystals import caesium_chloride, perovskite, rock_salt

from sciar import datasets
from sciar.errors import InputError
from sciar.metrics import coverage
from sciar.structure import Structure


def at(order: float, statistics: float) -> np.ndarray:
    """A fingerprint at these distances from zero."""
    print_ = np.zeros(193)
    print_[0], print_[coverage.N_ORDER] = order, statistics
    return print_


def test_coverage_by_hand() -> None:
    draws = [at(0.39, 0), at(0, 9.9), at(0.41, 0), at(0, 10.1), "ValueError"]
    drawn, found = coverage.coverage(draws, [at(0, 0)])
    assert drawn.tolist() == [True, True, False, False, False] and found.tolist() == [True]
    # structure and composition may be near different draws, as CDVAE counts
    drawn, found = coverage.coverage([at(0, 50), at(5, 0)], [at(0, 0), at(9, 0), "no time"])
    assert drawn.tolist() == [False, False] and found.tolist() == [True, False, False]
    for side in ([], ["ValueError"]):
        drawn, found = coverage.coverage(side, [at(0, 0)])
        assert drawn.tolist() == [False] * len(side) and found.tolist() == [False]


def test_nearest_in_parts_is_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "_ROWS", 3)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 4)), rng.normal(size=(7, 4))
    all_pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    rows, columns = coverage._nearest(a, b)
    assert np.allclose(rows, all_pairs.min(1)) and np.allclose(columns, all_pairs.min(0))


def test_scales_of_the_statistics() -> None:
    with open(Path(coverage.__file__).with_name("magpie.csv"), encoding="utf-8", newline="") as file:
        mean = {row["statistic"]: float(row["mean"]) for row in csv.DictReader(file)}
    assert len(mean) == 132
    for name in {key.split(" ", 1)[1] for key in mean}:
        assert mean[f"range {name}"] == pytest.approx(mean[f"maximum {name}"] - mean[f"minimum {name}"], rel=1e-6), name


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(InputError, match=r"^coverage: expected the package matminer, got none; pip install 'sciar\[coverage\]'$"):
        coverage.fingerprints([rock_salt()])


def prints(structures: list[Structure | None], **options: object) -> list[np.ndarray | str]:
    pytest.importorskip("matminer", reason="the extra `coverage` is not installed")
    return list(coverage.fingerprints(structures, **options))  # type: ignore[arg-type]


def test_fingerprints_know_coordination_and_elements() -> None:
    pytest.importorskip("matminer", reason="the extra `coverage` is not installed")
    from matminer.featurizers.site import CrystalNNFingerprint

    names = CrystalNNFingerprint.from_preset("ops").feature_labels()
    salt, other, sto = prints([rock_salt(), caesium_chloride(), perovskite()])
    assert not isinstance(salt, str) and not isinstance(other, str) and not isinstance(sto, str)
    assert salt[names.index("octahedral CN_6")] == pytest.approx(1, abs=0.01), "both sites are octahedra"
    assert np.linalg.norm(salt[: coverage.N_ORDER] - other[: coverage.N_ORDER]) > coverage.NEAR_STRUCTURE
    assert np.allclose(salt[coverage.N_ORDER :], other[coverage.N_ORDER :]), "one composition"
    with open(Path(coverage.__file__).with_name("magpie.csv"), encoding="utf-8", newline="") as file:
        scale = {row["statistic"]: (float(row["mean"]), float(row["deviation"])) for row in csv.DictReader(file)}
    for row, (name, value) in enumerate({"minimum Number": 11, "maximum Number": 17, "range Number": 6, "mean Number": 14}.items()):
        assert salt[coverage.N_ORDER + row] == pytest.approx((value - scale[name][0]) / scale[name][1])


def test_real_crystals_cover_themselves_whatever_their_cell() -> None:
    real = datasets.samples("mp20")[:4]
    doubled = [s.permuted(np.arange(s.n_atoms)[::-1]).shifted([1.0, 2.0, 3.0]) for s in real]
    found, again = prints(real), prints(doubled, jobs=2)
    slight = coverage.NEAR_STRUCTURE / 1000  # another of the sites that are equal within SAME may stand for them
    for one, other in zip(found, again, strict=True):
        assert not isinstance(one, str) and not isinstance(other, str) and np.allclose(one, other, atol=slight)
    drawn, covered = coverage.coverage([found[0], "no crystal"], found)
    assert drawn.tolist() == [True, False] and covered[0]


def test_equivalent_sites_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [perovskite(), *datasets.samples("mp20")[:4]]
    found = prints(crystals)
    firsts, counts = coverage._orbits(crystals[0])
    assert sorted(counts) == [1, 1, 3] and len(firsts) == 3
    monkeypatch.setattr(coverage, "_orbits", lambda s: (list(range(s.n_atoms)), [1] * s.n_atoms))
    for one, every in zip(found, prints(crystals), strict=True):
        assert not isinstance(one, str) and not isinstance(every, str) and np.allclose(one, every, atol=1e-3)


def test_what_has_no_fingerprint() -> None:
    flat = rock_salt().replace(cell=np.zeros((3, 3)))
    found = prints([None, flat, perovskite()], seconds=60.0)
    assert found[0] == "no crystal" and isinstance(found[1], str) and not isinstance(found[2], str)
    assert prints([perovskite()], seconds=0.001) == ["not done after 0.001 s of CPU time"]
