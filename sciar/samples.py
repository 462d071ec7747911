"""What `generate` returns: every requested sample in draw order with its verdict; nothing is hidden."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sciar import distinct
from sciar import record as records
from sciar.errors import InputError
from sciar.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from sciar.structure import Structure
    from sciar.validate import Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """How a set of samples came to be.

    Args:
        task: conformer, molecule, graph or crystal.
        model: name or path as it was asked for.
        weights_sha256: of the weights file.
        seed: with it, draw i is the same again.
        n_requested: rows × n.
        n_drawn: everything the model drew, redrawn failures included.
        n_valid: how many of these are valid.
        reasons: {reason: number of draws} of the others, by each draw's first reason.
        seconds: spent drawing and judging.
        calls: network evaluations in all.
        n_fallback: samples that RDKit made because every attempt failed.
        n_kept: samples left after keep= and --drop-invalid; None = all.
        refused: {row: sentence} of input lines that could not be drawn.
        interrupted: by Ctrl-C.
        arguments: what was asked, in JSON's types: enough to ask again.
        versions: of Python and the packages that matter.
        argv: the command line, if it was one.
    """

    task: str
    model: str
    weights_sha256: str
    seed: int
    n_requested: int
    n_drawn: int = 0
    n_valid: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    calls: int = 0
    n_fallback: int = 0
    n_kept: int | None = None
    refused: Mapping[int, str] = field(default_factory=dict)
    interrupted: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    argv: Sequence[str] | None = None


class Samples(Sequence["Verdict"]):
    """A list of verdicts in draw order (row by row), with what was needed to draw them.

    `samples[3]` is a `Verdict`; a slice, a mask or a list of positions gives `Samples`. Lists made from it
    (`mols`, `structures`, `graphs`) have one entry per sample, None where it is invalid.
    """

    def __init__(self, samples: Sequence[Record], run: Run) -> None:
        self.records = tuple(samples)
        self.run = run

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Verdict]:
        return (r.verdict for r in self.records)

    @overload
    def __getitem__(self, item: int) -> Verdict: ...
    @overload
    def __getitem__(self, item: slice) -> Samples: ...
    def __getitem__(self, item: Any) -> Verdict | Samples:
        if isinstance(item, (int, np.integer)):
            return self.records[item].verdict
        if isinstance(item, slice):
            return Samples(self.records[item], self.run)
        return Samples([self.records[i] for i in np.arange(len(self))[np.asarray(item)]], self.run)

    def __repr__(self) -> str:
        return f"Samples({self.summary()})"

    @property
    def valid(self) -> np.ndarray:
        """One bool per sample: `samples.valid.mean()`, `samples[samples.valid]`."""
        return np.array([r.valid for r in self.records], dtype=bool)

    @property
    def scores(self) -> np.ndarray:
        """Log-likelihoods in nats, higher = likelier to the model; nan = not known."""
        return np.array([r.score for r in self.records], dtype=float)

    @property
    def structures(self) -> list[Structure | None]:
        """`sciar.Structure` of each valid sample, None for the others."""
        return [r.verdict.structure if r.valid else None for r in self.records]

    @property
    def mols(self) -> list[Any]:
        """RDKit molecule (for crystals pymatgen structure) of each valid sample, None for the others."""
        return [r.verdict.native if r.valid else None for r in self.records]

    @property
    def graphs(self) -> list[Any]:
        """networkx graph of each valid sample, None for the others."""
        from sciar import convert

        return [convert.to_networkx(r.verdict.structure) if r.valid else None for r in self.records]

    @property
    def df(self) -> pd.DataFrame:
        """A table, one line per sample: row, draw, label, smiles, formula, valid, reasons, score, calls, attempts, fallback."""
        import pandas as pd

        lines: list[dict[str, Any]] = [
            {
                "row": r.row,
                "draw": r.draw,
                "label": r.label,
                "smiles": records.smiles(r),
                "formula": r.verdict.structure.formula,
                "valid": r.valid,
                "reasons": "; ".join(r.verdict.reasons),
                "score": r.score,
                "calls": r.calls,
                "attempts": r.attempts,
                "fallback": r.fallback,
            }
            for r in self.records
        ]
        columns = "row draw label smiles formula valid reasons score calls attempts fallback".split()
        noted = [key for key in records.NOTED if any(key in r.verdict.structure.info for r in self.records)]  # of crystals
        for line, r in zip(lines, self.records, strict=True):
            line.update({key: r.verdict.structure.info.get(key) for key in noted})
        columns += noted
        return pd.DataFrame(lines, columns=columns)

    def conformers(self, valid_only: bool = True) -> list[Any]:
        """One RDKit molecule per input row with conformer ids 0…k−1 in draw order and the input's atom order.

        Each conformer carries SCIAR_DRAW and SCIAR_SCORE.

        Args:
            valid_only: leave invalid draws out; False keeps each that has positions for every atom.

        Returns:
            One entry per row; None where nothing was drawn.

        Raises:
            InputError: the samples are not conformers.
        """
        if self.run.task != "conformer":
            raise InputError(f"conformers: expected samples of task 'conformer', got {self.run.task!r}; use .mols")
        rows = 1 + max((r.row for r in self.records), default=-1)
        mols: list[Any] = [None] * rows
        for r in self.records:
            positions = r.verdict.structure.positions
            mol = r.verdict.native
            if mol is None or positions is None or (valid_only and not r.valid):
                continue
            if mols[r.row] is None:
                mols[r.row] = _bare(mol)
            if mols[r.row].GetNumAtoms() == len(positions):
                _add_conformer(mols[r.row], positions, r)
        return mols

    def dedupe(self, rmsd: float = 0.125) -> Samples:
        """The valid samples without repeats, the first of each kind kept.

        Molecules and graphs are the same if their canonical SMILES (Weisfeiler–Lehman hash and isomorphism) agree, crystals by pymatgen's
        StructureMatcher at its own tolerances (0.2, 0.3, 5°), conformers of one row if their heavy atoms superpose.

        Args:
            rmsd: for conformers, Å; symmetric heavy-atom RMSD below which two are one.
        """
        return Samples(distinct.first_of_each(self.records, self.run.task, rmsd), self.run)

    def diverse(self, n: int) -> Samples:
        """The n valid conformers of each row that lie farthest apart, the first drawn among them.

        Args:
            n: how many of each row; all valid ones if there are not more.

        Distances are symmetric heavy-atom RMSDs; farthest-point selection (Gonzalez 1985).
        """
        return Samples(distinct.farthest(self.records, n), self.run)

    def rank(self, by: str | None = None) -> Samples:
        """Each row's samples, valid ones first, the best first.

        Args:
            by: "score" (likelihood), "votes" (how many of a row's valid crystals are arranged alike, which is noted in their properties;
                of those the likeliest first; see `sciar.distinct.votes`), "pxrd" (cosine of the powder patterns) or "energy" (eV per
                atom after `relax`); None = "pxrd" where a pattern was given, else "score".

        Raises:
            InputError: another word, or samples that have no such number.
        """
        keys: dict[str, Callable[[Record], float]] = {"score": lambda r: -r.score, "votes": _unlike, "pxrd": _misfit, "energy": _energy}
        if by is not None and by not in keys:
            raise InputError(f"rank: expected {', '.join(keys)}, got {by!r}; correct it")
        records = self._counted() if by == "votes" else self.records
        if by in ("pxrd", "energy") and all(math.isnan(keys[by](r)) for r in records):
            advice = "generate with pxrd=" if by == "pxrd" else "call relax() first"
            raise InputError(f"rank: expected samples with {by}, got none; {advice}")
        if by is None:
            by = "score" if all(math.isnan(_misfit(r)) for r in records) else "pxrd"
        best = {id(r): tuple(math.inf if math.isnan(v) else v for v in (keys[by](r), -r.score)) for r in records}
        return Samples(sorted(records, key=lambda r: (r.row, not r.valid, best[id(r)], r.draw)), self.run)

    def _counted(self) -> list[Record]:
        """The records, valid ones with the votes of their row."""
        from sciar.distinct import votes

        if self.run.task != "crystal":
            raise InputError(f"rank: expected crystals for votes, got samples of task {self.run.task!r}; choose another word")
        rows: dict[int, list[int]] = {}
        for k, r in enumerate(self.records):
            if r.valid:
                rows.setdefault(r.row, []).append(k)
        records = list(self.records)
        for ks in rows.values():
            for k, count in zip(ks, votes([records[k].verdict.structure for k in ks]), strict=True):
                verdict = records[k].verdict
                noted = dataclasses.replace(verdict, structure=verdict.structure.with_info(votes=count))
                records[k] = dataclasses.replace(records[k], verdict=noted)
        return records

    def symmetrize(self, tolerance: float = 0.1, conventional: bool = False) -> Samples:
        """Crystals with lattice and positions made exact in the space group found; judged again, in the same order.

        Args:
            tolerance: Å.
            conventional: conventional cells; otherwise primitive ones.

        Raises:
            InputError: samples that are no crystals.
        """
        from sciar import lattice

        if self.run.task != "crystal":
            raise InputError(f"symmetrize: expected crystals, got samples of task {self.run.task!r}; leave it out")
        return self._changed(lambda s: lattice.symmetrized(s, tolerance, conventional))

    def fit_pattern(self, pattern: Any, positions: bool = True) -> Samples:
        """Valid crystals in the cell that fits a powder pattern best, their atoms moved too (Rietveld); judged again, in the same order.

        How far they fit is in their properties (`pxrd_cosine`, `pxrd_rwp`), as is the largest entry of the strain (`pxrd_strain`).

        Args:
            pattern: rows (2θ in degrees at Cu Kα, intensity) or a file.
            positions: False leaves the atoms at their fractions.

        Raises:
            InputError: no pattern; see `sciar.pxrd.checked`.
        """
        from sciar import pxrd, rietveld

        rows = pxrd.pattern_of(pattern)

        def fitted(structure: Structure) -> Structure:
            if positions:
                found, fit = rietveld.refined(structure, rows)
            else:
                fit = pxrd.agreement(structure, rows)
                found = fit.strained(structure)
            return found.with_info(pxrd_cosine=fit.cosine, pxrd_rwp=fit.rwp, pxrd_strain=float(np.abs(fit.strain).max()))

        return self._changed(fitted)

    def relax(self, model: Any = "chgnet", **how: Any) -> Samples:
        """The valid samples moved to a minimum of an interatomic potential and judged again; energies are in their properties.

        A sample whose relaxation failed stays as it was and says why (`relaxed` in its `info`).

        Args:
            model: "chgnet", "emt", "lj", an ASE calculator or a function that makes one.
            **how: steps, force, cell, optimizer, seconds, jobs, progress: see `sciar.relax.relax`.

        Raises:
            InputError: the extra `relax` is not installed.
        """
        from sciar import relax

        valid = [r.verdict.structure for r in self.records if r.valid]
        found = iter(relax.relax(valid, model, **how))

        def moved(structure: Structure) -> Structure:
            one = next(found)
            said = one.failure or ("converged" if one.converged else f"not converged in {one.steps} steps")
            return one.structure.with_info(energy_before_eV=one.energy_before, energy_after_eV=one.energy_after, relaxed=said)

        return self._changed(moved)

    def _changed(self, change: Callable[[Structure], Structure]) -> Samples:
        """The valid samples changed and judged again by themselves, without what was known of a pattern; the others stay."""
        from sciar.validate import validate

        def again(structure: Structure) -> Verdict:
            kept = {key: value for key, value in structure.info.items() if not key.startswith("pxrd_")}
            return validate(change(structure.replace(info=kept)))

        return Samples([dataclasses.replace(r, verdict=again(r.verdict.structure)) if r.valid else r for r in self.records], self.run)

    def drop_invalid(self) -> Samples:
        """Only the valid samples; the summary goes on counting all draws and says how many were left out."""
        kept = [r for r in self.records if r.valid]
        return Samples(kept, dataclasses.replace(self.run, n_kept=len(kept)))

    def summary(self) -> str:
        """One line: `842 valid of 1000 drawn, 84.2 %: 101 valence, 57 disconnected`."""
        run = self.run
        share = f", {100 * run.n_valid / run.n_drawn:.1f} %" if run.n_drawn else ""
        reasons = ", ".join(f"{count} {kind}" for kind, count in sorted(run.reasons.items(), key=lambda item: (-item[1], item[0])))
        text = f"{run.n_valid} valid of {run.n_drawn} drawn{share}" + (f": {reasons}" if reasons else "")
        notes = []
        if run.n_drawn != run.n_requested and not run.interrupted:
            notes.append(f"{run.n_requested} requested")
        if run.n_fallback:
            notes.append(f"{run.n_fallback} replaced by ETKDG")
        if run.refused:
            notes.append(f"{len(run.refused)} input row{'s' * (len(run.refused) > 1)} refused")
        if run.n_kept is not None:
            notes.append(f"{run.n_kept} kept")
        if run.interrupted:
            notes.append(f"interrupted: {len(self)} of {run.n_requested} requested are done")
        return "; ".join([text, *notes])

    def report(self) -> dict[str, Any]:
        """Facts of the run in JSON's types, enough to rerun it with `sciar generate --from REPORT`."""
        facts = dataclasses.asdict(self.run)
        calls = facts.pop("calls")
        facts["network_calls_per_sample"] = calls / self.run.n_drawn if self.run.n_drawn else None
        facts["seconds"] = round(self.run.seconds, 3)
        facts["argv"] = list(self.run.argv) if self.run.argv is not None else None
        facts["refused"] = {str(row): sentence for row, sentence in self.run.refused.items()}
        return facts

    def to_sdf(self, path: str | Path | None = None) -> str:
        """SD file text; written to `path` if given. Invalid draws are there too, marked SCIAR_VALID False."""
        return self._text(".sdf", path)

    def to_xyz(self, path: str | Path | None = None) -> str:
        """XYZ text; written to `path` if given."""
        return self._text(".xyz", path)

    def to_extxyz(self, path: str | Path | None = None) -> str:
        """Extended XYZ text; written to `path` if given."""
        return self._text(".extxyz", path)

    def to_smiles(self, path: str | Path | None = None) -> str:
        """One canonical SMILES per sample, an empty line where it is invalid; written to `path` if given."""
        return self._text(".smi", path)

    def to_cif(self, path: str | Path | None = None, tolerance: float = 0.1) -> str:
        """CIF text of crystals; written to `path` if given.

        Args:
            path: .cif
            tolerance: Å, at which symmetry is found; the conventional cell is written then. 0 = the cell as it was drawn.
        """
        text = "".join(records.cif(r, tolerance) for r in self.records)
        if path is not None:
            Path(path).write_text(text)
        return text

    def to_poscar(self, folder: str | Path) -> list[Path]:
        """One POSCAR per sample, `0000.vasp` …, in the order of every other file; an empty file where there is no crystal."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{k:04d}.vasp" for k in range(len(self))]
        for path, r in zip(paths, self.records, strict=True):
            path.write_text(records.poscar(r))
        return paths

    def to_json(self, path: str | Path | None = None) -> str:
        """{"report": …, "samples": […]}; written to `path` if given."""
        return self._text(".json", path)

    def to_pyg(self) -> list[Any]:
        """torch_geometric `Data` of each valid sample, None for the others (extra `pyg`), see `sciar.pyg`.

        Raises:
            InputError: torch_geometric is not installed.
        """
        import importlib

        # by name: this module is torch-free, and so is whoever does not ask for tensors
        to_pyg = importlib.import_module("sciar.pyg").to_pyg
        return [to_pyg(r.verdict.structure) if r.valid else None for r in self.records]

    def write(self, path: str | Path) -> Path:
        """Write to a file in the format of its suffix: .sdf .xyz .extxyz .smi .cif .json, plain graphs .g6 .edgelist.

        Raises:
            InputError: unknown suffix, or a format that cannot hold these structures.
            OSError: disk full, no permission.
        """
        self._text(records.suffix_of(Path(path)), path)
        return Path(path)

    def picture(self, path: str | Path | None = None, most: int = 12) -> bytes:
        """A PNG of the first samples in 3D; written to `path` if given."""
        from sciar import view

        return view.sheet(self.records[:most], path)

    def overlay(self, pattern: Any, path: str | Path | None = None, most: int = 3) -> bytes:
        """A PNG of a powder pattern (rows or file) with those of the first valid crystals under it; written to `path` if given."""
        from sciar import chart, pxrd

        rows = pxrd.pattern_of(pattern)
        return chart.overlay(rows, [s for s in self.structures if s is not None][:most], path)

    def _text(self, suffix: str, path: str | Path | None) -> str:
        if suffix == ".json":
            # the report's key order and one sample per line: readable, and small to compare
            lines = ",\n".join(json.dumps(records.entry(r)) for r in self.records)
            text = f'{{"report": {json.dumps(self.report())},\n"samples": [\n{lines}\n]}}\n'
        else:
            text = "".join(records.text(r, suffix) for r in self.records)
        if path is not None:
            Path(path).write_text(text)
        return text

    def _repr_html_(self) -> str:
        from sciar import view

        cards = "".join(view.card(r) for r in self.records[:12])
        more = f"<p>… and {len(self) - 12} more</p>" if len(self) > 12 else ""
        return f'<div><p><b>{html.escape(self.summary())}</b></p><div style="display:flex;flex-wrap:wrap;gap:8px">{cards}</div>{more}</div>'


def _bare(mol: Any) -> Any:
    from rdkit import Chem

    bare = Chem.Mol(mol)
    bare.RemoveAllConformers()
    return bare


def _add_conformer(mol: Any, positions: np.ndarray, r: Record) -> None:
    from rdkit import Chem

    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=float))
    conformer.SetId(mol.GetNumConformers())
    conformer.SetIntProp("SCIAR_DRAW", r.draw)
    conformer.SetDoubleProp("SCIAR_SCORE", r.score)
    mol.AddConformer(conformer)


def _unlike(r: Record) -> float:
    return -float(str(r.verdict.structure.info.get("votes", "nan")))


def _misfit(r: Record) -> float:
    return -float(str(r.verdict.structure.info.get("pxrd_cosine", "nan")))


def _energy(r: Record) -> float:
    """eV per atom."""
    return float(str(r.verdict.structure.info.get("energy_after_eV", "nan"))) / max(r.verdict.structure.n_atoms, 1)
