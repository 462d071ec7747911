"""Powder patterns: files as people have them, peaks where Bragg puts them, agreement of right and wrong structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crystals import caesium_chloride, rock_salt

from sciar import datasets, pxrd
from sciar.errors import InputError
from sciar.lattice import space_group
from sciar.reflections import Reflections
from sciar.structure import Structure


def profile(structure: object, noise: float = 0.0, background: float = 0.0) -> np.ndarray:
    """A measured curve: pseudo-counts at 0.02° with a falling background."""
    angle = np.arange(10, 80, 0.02)
    lines = pxrd.simulated(structure)  # type: ignore[arg-type]
    curve = (lines[:, 1] * np.exp(-0.5 * ((angle[:, None] - lines[:, 0]) / 0.06) ** 2)).sum(axis=1) * 10
    curve = curve + background * np.exp(-angle / 40)
    return np.stack([angle, np.maximum(curve + np.random.default_rng(0).normal(0, noise, len(angle)), 0)], axis=1)


def test_peaks_are_where_bragg_puts_them() -> None:
    lines = pxrd.simulated(rock_salt(5.64))
    for miller in ((1, 1, 1), (2, 0, 0), (2, 2, 0)):
        spacing = 5.64 / np.linalg.norm(miller)
        wanted = 2 * np.degrees(np.arcsin(pxrd.CU_KA / 2 / spacing))
        assert np.abs(lines[:, 0] - wanted).min() < 0.01
    assert lines[lines[:, 1].argmax(), 0] == pytest.approx(31.7, abs=0.1)  # 200 of halite


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.xy", "# halite\n27.4 10\n31.7 100\n45.5 55\n"),
        ("a.xye", "27.4 10 0.1\n31.7 100 1\n45.5 55 0.5\n"),
        ("a.csv", "2theta,intensity\n27.4,10\n31.7,100\n45.5,55\n"),
        ("a.txt", "Sample: NaCl\nAngle Counts\n\n27.4;\t10\n31.7;\t100\n45.5;\t55\n"),
    ],
)
def test_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert pxrd.read(tmp_path / name) == pytest.approx(np.array([[27.4, 10], [31.7, 100], [45.5, 55]]))


def test_wavelength_of_a_comment_or_an_argument(tmp_path: Path) -> None:
    spacing = np.array([3.0, 2.0])
    angles = 2 * np.degrees(np.arcsin(0.7093 / 2 / spacing))
    rows = "".join(f"{a:.5f} 10\n" for a in angles)
    wanted = 2 * np.degrees(np.arcsin(pxrd.CU_KA / 2 / spacing))
    (tmp_path / "said.xy").write_text(f"# Mo, wavelength = 0.7093 A\n{rows}")
    (tmp_path / "bare.xy").write_text(rows)
    assert pxrd.read(tmp_path / "said.xy")[:, 0] == pytest.approx(wanted, abs=1e-3)
    assert pxrd.read(tmp_path / "bare.xy", 0.7093)[:, 0] == pytest.approx(wanted, abs=1e-3)
    assert pxrd.read(tmp_path / "bare.xy")[:, 0] == pytest.approx(angles, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no line with two numbers"),
        ("only text\n", "no line with two numbers"),
        ("20\n30\n", "no line with two numbers"),
        ("20 1\nbroken line\n", "got 'broken line' in line 2"),
        ("20 1\n20 2\n", "expected increasing 2θ, got 20 before 20"),
        ("20 1\n30 -2\n", "at least 0, got -2 at 30°"),
        ("20 0\n30 0\n", "a pattern with peaks, got none"),
        ("20 1\n300 5\n", "from 0 to 180"),
        ("".join(f"{10 + 0.02 * k:.2f} 7\n" for k in range(3000)), "a pattern with peaks, got none"),
        ("".join(f"{10 + k} 7\n" for k in range(70)), "a pattern with peaks, got none"),
    ],
)
def test_files_that_are_no_pattern(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad.xy").write_text(text)
    with pytest.raises(InputError, match="^pxrd: ") as error:
        pxrd.read(tmp_path / "bad.xy")
    assert sentence in str(error.value)


def test_binning_is_deterministic_and_finds_the_peaks_of_a_profile() -> None:
    salt = rock_salt()
    curve = pxrd.checked(profile(salt, noise=3, background=400))
    assert pxrd.is_profile(curve)
    found, lines = pxrd.peaks(curve), pxrd.simulated(salt)
    strong = lines[(lines[:, 1] > 5) & (lines[:, 0] < 78)]
    assert all(np.abs(found[:, 0] - angle).min() < 0.1 for angle in strong[:, 0])
    one, two = pxrd.binned(curve), pxrd.binned(curve)
    assert np.array_equal(one, two) and one.shape == pxrd.grid().shape == (851,) and one.max() == 1
    assert one @ pxrd.binned(lines) / np.linalg.norm(one) / np.linalg.norm(pxrd.binned(lines)) > 0.95


def test_the_right_structure_agrees_best() -> None:
    salt = rock_salt()
    for wanted in (pxrd.simulated(salt), pxrd.checked(profile(salt, noise=3, background=400))):
        right = pxrd.agreement(salt, wanted)
        strained = pxrd.agreement(rock_salt(5.64 * 1.01), wanted)
        wrong = [pxrd.agreement(s, wanted) for s in (caesium_chloride(), rock_salt(5.0))]
        assert right.cosine > 0.95 and right.rwp < 0.4
        assert strained.cosine > 0.93 and strained.strain == pytest.approx([-0.01] * 3 + [0] * 3, abs=0.002)
        assert pxrd.agreement(rock_salt(5.64 * 1.01), wanted, strain=0).cosine < strained.cosine
        assert all(other.cosine < strained.cosine - 0.09 and other.rwp > right.rwp + 0.3 for other in wrong)
    same = pxrd.agreement(salt, pxrd.simulated(salt))
    assert (
        same.cosine == pytest.approx(1) and same.rwp == pytest.approx(0, abs=1e-2) and same.strain == pytest.approx(np.zeros(6), abs=1e-4)
    )


@pytest.mark.parametrize("row", range(4))
def test_profiles_are_those_of_pymatgen(row: int) -> None:
    crystal = datasets.samples("mp20")[row]
    at = pxrd.grid()
    mine = Reflections.of(crystal).profile(at, pxrd.FWHM, np.zeros(6))
    assert np.abs(mine / mine.max() - pxrd.binned(pxrd.simulated(crystal))).max() < 2e-3


def test_the_gradient_of_the_misfit() -> None:
    """Against differences; the Lorentz-polarisation factor, which moves too, is left out on purpose."""
    crystal, at, rng = datasets.samples("mp20")[2], pxrd.grid(), np.random.default_rng(0)
    wanted = pxrd.binned(pxrd.simulated(crystal), fwhm=0.8)
    wanted, mine, strain = wanted / np.linalg.norm(wanted), Reflections.of(crystal), 0.01 * rng.normal(size=6)
    gradient = mine.misfit(strain, at, wanted, 0.8)[1]
    steps = 1e-5 * np.eye(6)
    found = [(mine.misfit(strain + d, at, wanted, 0.8)[0] - mine.misfit(strain - d, at, wanted, 0.8)[0]) / 2e-5 for d in steps]
    assert np.abs(gradient - found).max() < 0.03 * np.abs(gradient).max()


def test_an_uneven_strain_is_found_and_keeps_the_symmetry() -> None:
    """Rutile, compressed along its axis and stretched across: the pattern gives the cell back, tetragonal as it was."""
    u = 0.305
    atoms = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [1 - u, 1 - u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    cell = np.diag([4.6, 4.6, 2.96])
    rutile = Structure(np.array([22] * 2 + [8] * 4), positions=np.array(atoms) @ cell, cell=cell)
    wanted = pxrd.simulated(rutile)
    off = np.diag([1.02, 1.02, 0.985])
    drawn = rutile.replace(cell=cell @ off, positions=rutile.positions @ off)
    before, after = pxrd.agreement(drawn, wanted, strain=0), pxrd.agreement(drawn, wanted)
    assert before.cosine < 0.5 and after.cosine > 0.999
    again = after.strained(drawn)
    assert np.allclose(again.cell, cell, atol=5e-3) and space_group(again, 1e-3) == 136


def test_binned_peaks_are_a_sum_of_gaussians() -> None:
    """The sum over a few bins around each peak is the sum over all of them, also at the ends of the grid."""
    peaks = np.array([[10.0, 3.0], [31.234, 100.0], [31.5, 20.0], [79.98, 5.0], [pxrd.START - 0.05, 40.0], [pxrd.STOP + 3, 7.0]])
    whole = (peaks[:, 1] * np.exp(-0.5 * ((pxrd.grid()[:, None] - peaks[:, 0]) * 2.3548 / pxrd.FWHM) ** 2)).sum(axis=1)
    assert np.allclose(pxrd.binned(peaks), whole / whole.max(), atol=1e-5)


def test_levels_of_a_crystal_are_those_of_its_pattern() -> None:
    for crystal in datasets.samples("mp20")[:8]:
        own, given = (pxrd.levels(x, 426).astype(int) for x in (crystal, pxrd.simulated(crystal)))
        assert own.max() == pxrd.LEVELS and np.abs(own - given).max() <= 3


def test_levels_are_unknown_where_nothing_was_measured() -> None:
    at = np.linspace(5, 90, 426)
    angles = np.arange(20.0, 60.0, 0.02)
    curve = pxrd.levels(np.stack([angles, 1 + 50 * np.exp(-(((angles - 31) / 0.2) ** 2))], 1), 426)
    known = curve != pxrd.UNKNOWN
    assert np.array_equal(known, (at >= 20) & (at <= angles[-1] + pxrd.FWHM)) and at[known][curve[known].argmax()] == pytest.approx(
        31, abs=0.2
    )
    peaks = pxrd.levels(np.array([[15.0, 40.0], [42.0, 100.0]]), 426)  # a list ends with its last peak
    assert np.array_equal(peaks == pxrd.UNKNOWN, at > 42.4) and peaks[at < 12].max() == 0
