"""Conformers from SMILES: a model against RDKit ETKDGv3 and ETKDGv3 + MMFF94s in the same run, one thread each.

Three sets: `qm9` (test split, the DFT geometry is the one reference), `drugs` (GEOM-DRUGS test SMILES, no references:
success and speed) and `hutchison` (drug-like molecules with about ten DFT geometries each; Folmsbee and Hutchison 2020).
Every method gets the same SMILES, stereo marks included, and is judged by the same checks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar import convert, datasets
from sciar.bench import Progress, Result, published
from sciar.bonds import perceive_bonds
from sciar.errors import DataError, InputError
from sciar.metrics import conformer as metrics
from sciar.metrics.distance import bootstrap, ratio_of_means
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.validate import validate

if TYPE_CHECKING:
    from rdkit.Chem import Mol

Positions = np.ndarray
Method = Callable[[Sequence[str], int, int], list[list[Positions | None]]]
"""(SMILES, draws per molecule, seed) → per molecule, per draw, coordinates in Å or None.

Atoms are in the order of the SMILES, hydrogens that are not written follow in the order of `Chem.AddHs`."""

SETS: Mapping[str, int] = {"qm9": 1000, "drugs": 500, "hutchison": 299}  # molecules of the full protocol
THRESHOLDS: Mapping[str, float] = {"qm9": 0.5, "drugs": 0.75, "hutchison": 0.75}  # Å, for coverage
BASELINE = "etkdgv3"


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A molecule to be embedded.

    Args:
        smiles: isomeric; the only thing a method is given.
        mol: RDKit molecule of it with explicit hydrogens, in the order a method must answer in.
        references: k × n × 3, Å, in this order; k = 0 without references.
    """

    smiles: str
    mol: Mol
    references: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one method did on one set.

    Args:
        right: per molecule the draws with finite coordinates and the right stereo, k × n × 3.
        n_kept: per molecule how many of these the validator accepts.
        n_draws: draws asked for per molecule.
        seconds: wall time of the method, from SMILES to coordinates.
        cpu_seconds: CPU time of the same, which a busy machine does not change.
    """

    right: list[np.ndarray]
    n_kept: np.ndarray
    n_draws: int
    seconds: float
    cpu_seconds: float


def run_protocol(
    model: Any = None,
    n: int = 10,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    sets: str | Sequence[str] = tuple(SETS),
    limit: int | None = None,
    methods: Mapping[str, Method] | None = None,
    device: str | None = None,
    over: int = 4,
    retry: int = 3,
) -> Result:
    """Run the protocol.

    Args:
        model: judged beside the two baselines; None = the baselines only.
        n: draws per molecule.
        seed: of the draws; the choice of molecules is fixed.
        progress: told which method is on which set.
        sets: of `SETS`, or a comma-separated text.
        limit: at most so many molecules of each set.
        methods: more methods, by name.
        device: where the model runs.
        retry: a further row of the model draws failures again so often; its time counts every draw. 0 = no such row.
        over: the ranked row of the model draws so many times more and answers with the valid, most diverse ones; 1 = no such row.

    Raises:
        InputError: unknown set.
        DataError: a set's files are missing.
    """
    names = [s.strip() for s in sets.split(",")] if isinstance(sets, str) else list(sets)
    if unknown := [s for s in names if s not in SETS]:
        raise InputError(f"bench conformers: expected sets among {', '.join(SETS)}, got {unknown[0]!r}")
    table: dict[str, Method] = {BASELINE: etkdg, "etkdgv3+mmff94s": etkdg_mmff, **(methods or {})}
    subject = ranked_name = None
    if model is not None:
        from sciar.bench import front

        subject = front.name_of(model)
        table[subject] = front.conformers(model, device)
        if retry:
            table[f"{subject}, retry {retry}"] = front.conformers(model, device, retry=retry)
        if over > 1:
            ranked_name = f"{subject}, {n} of {over * n}"
            table[ranked_name] = front.conformers(model, device, over)
    rows: list[dict[str, Any]] = []
    intervals: dict[str, tuple[float, float]] = {}
    notes: list[str] = []
    drawn, seconds = 0, 0.0
    for name in names:
        targets, note = load_targets(name, limit)
        notes.append(note)
        outcomes = {}
        for k, (label, method) in enumerate(table.items()):
            progress(f"{name}: {label}", k, len(table))
            outcomes[label] = draw(method, targets, n, seed)
        for label in outcomes:
            row, more = summary(targets, outcomes, label, THRESHOLDS[name])
            rows.append({"method": label, "set": name, **row})
            if label == subject:
                intervals |= {f"{name}_{key}": value for key, value in more.items()}
                drawn += n * len(targets)
                seconds += outcomes[label].seconds
    raw, ranked = (
        {f"{r['set']}_{k}": v for r in rows if r["method"] == label for k, v in r.items() if k not in ("method", "set")}
        for label in (subject, ranked_name)
    )
    requested = n * sum(r["molecules"] for r in rows if r["method"] == BASELINE)
    return Result("conformers", requested, drawn, seconds, raw, ranked or None, intervals, published("conformers"), rows, notes)


def draw(method: Method, targets: Sequence[Target], n: int, seed: int) -> Outcome:
    """Let a method answer, and judge every answer by the same checks: stereo, then `sciar.validate`."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    answers = method([t.smiles for t in targets], n, seed)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    judged: list[np.ndarray] = []
    n_kept = []
    for target, answer in zip(targets, answers, strict=True):
        shape = (target.mol.GetNumAtoms(), 3)
        finite = [x for x in answer[:n] if x is not None and np.shape(x) == shape and np.isfinite(x).all()]
        right = [x for x in finite if metrics.stereo_kept(target.mol, x)]
        prompt = Prompt(graph=convert.from_rdkit(target.mol))
        assert prompt.graph is not None
        judged.append(np.array(right).reshape(-1, *shape))
        n_kept.append(sum(validate(prompt.graph.replace(positions=x), prompt).valid for x in right))
    return Outcome(judged, np.array(n_kept), n, seconds, cpu_seconds)


def summary(
    targets: Sequence[Target], outcomes: Mapping[str, Outcome], label: str, threshold: float
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """One line of the table and its intervals.

    `success_stereo`: draws with the right stereo / draws; `success_molecule`: molecules with such a draw; `success`: those that
    the validator accepts too / draws. Rates are draws of the last kind per second of CPU time (`kept_per_s`) and of wall time.
    RMSDs, coverage and distributions are over all draws with the right stereo, so that no method's bad geometries are taken
    out of its numbers; RMSDs and their ratio over the molecules that every method answered (`compared`), coverage over all
    molecules (no draw = nothing covered).
    """
    mine, base = outcomes[label], outcomes[BASELINE]
    counts = np.array([len(x) for x in mine.right])
    row: dict[str, Any] = {
        "molecules": len(targets),
        "success_stereo": float(counts.mean() / mine.n_draws),
        "success": float(mine.n_kept.mean() / mine.n_draws),
        "success_molecule": float((counts > 0).mean()),
    }
    intervals = {"success": bootstrap(mine.n_kept / mine.n_draws), "success_stereo": bootstrap(counts / mine.n_draws)}
    with_references = [k for k, t in enumerate(targets) if len(t.references)]
    if with_references:
        table = {name: _matched(targets, outcomes[name], with_references, threshold) for name in {label, BASELINE}}
        common = np.array([all(len(o.right[k]) for o in outcomes.values()) for k in with_references])
        amr, reference_amr = (np.array([m["amr_recall"] for m in table[name]])[common] for name in (label, BASELINE))
        precise = [m["amr_precision"] for m, use in zip(table[label], common, strict=True) if use]
        row |= {
            "compared": int(common.sum()),
            "rmsd": float(amr.mean()) if len(amr) else float("nan"),
            "rmsd_median": float(np.median(amr)) if len(amr) else float("nan"),
            "rmsd_ratio": float(amr.mean() / reference_amr.mean()) if len(amr) else float("nan"),
            "coverage": float(np.mean([m["cov_recall"] for m in table[label]])),
            "rmsd_precision": float(np.mean(precise)) if precise else float("nan"),
            "coverage_precision": float(np.mean([m["cov_precision"] for m in table[label]])),
        }
        intervals["rmsd"] = bootstrap(amr)
        intervals["rmsd_ratio"] = bootstrap(amr, reference_amr, statistic=ratio_of_means)
        intervals["coverage"] = bootstrap(np.array([m["cov_recall"] for m in table[label]]))
        answered = [k for k in with_references if len(mine.right[k])]
        reference = metrics.internals((targets[k].mol, targets[k].references) for k in answered)
        row |= metrics.internal_distances(reference, metrics.internals((targets[k].mol, mine.right[k]) for k in answered))
    rate, base_rate = (float(o.n_kept.sum()) / o.cpu_seconds for o in (mine, base))
    row |= {
        "seconds": mine.seconds,
        "kept_per_s": rate,
        "kept_per_wall_s": float(mine.n_kept.sum() / mine.seconds),
        "speed_ratio": rate / base_rate if base_rate else float("nan"),
    }
    return row, intervals


def _matched(targets: Sequence[Target], outcome: Outcome, which: Sequence[int], threshold: float) -> list[dict[str, float]]:
    out = []
    for k in which:
        matrix = metrics.rmsd(targets[k].references, outcome.right[k], metrics.symmetry(targets[k].mol))
        out.append(metrics.coverage(matrix, threshold))
    return out


def etkdg(smiles: Sequence[str], n: int, seed: int, optimise: bool = False) -> list[list[Positions | None]]:
    """RDKit ETKDGv3 with its defaults, one thread. There is no time limit: RDKit's is wall time and drops a molecule's finished
    conformers too, so that a busy machine would make the baseline look worse; by itself RDKit gives a cage of QM9 up in 3 s.

    RDKit multiplies the seed by the conformer's number, so that seed 0 gives n times the same conformer: 1 is added.

    Args:
        smiles: molecules.
        n: conformers of each.
        seed: from 0.
        optimise: then minimise with MMFF94s, RDKit's default of 200 steps, where it has the parameters.

    Source: Wang et al. 2020 (ETKDGv3); Halgren 1999 (MMFF94s).
    """
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    out: list[list[Positions | None]] = []
    with rdBase.BlockLogs():
        for text in smiles:
            mol = molecule(text)
            options = rdDistGeom.ETKDGv3()
            options.randomSeed, options.numThreads = seed + 1, 1
            rdDistGeom.EmbedMultipleConfs(mol, n, options)
            if optimise and mol.GetNumConformers() and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
                rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, mmffVariant="MMFF94s")
            found: list[Positions | None] = [c.GetPositions() for c in mol.GetConformers()]
            out.append(found + [None] * (n - len(found)))
    return out


def etkdg_mmff(smiles: Sequence[str], n: int, seed: int) -> list[list[Positions | None]]:
    """`etkdg`, then MMFF94s."""
    return etkdg(smiles, n, seed, optimise=True)


def molecule(smiles: str) -> Mol:
    """RDKit molecule with explicit hydrogens in the order methods answer in."""
    from rdkit import Chem

    rules = Chem.SmilesParserParams()
    rules.removeHs = False
    mol = Chem.MolFromSmiles(smiles, rules)
    if mol is None:
        raise InputError(f"bench conformers: expected a SMILES, got {smiles!r}")
    return Chem.AddHs(mol)


def target(mol: Mol, references: np.ndarray) -> Target:
    """A target from a molecule with explicit hydrogens and coordinates in its order; stereo is that of the first reference.

    Atoms are put into the order of the SMILES, so that every method can be given the SMILES alone.
    """
    from rdkit import Chem

    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
        atom.SetIntProp("_place", atom.GetIdx())
    mol.RemoveAllConformers()
    if len(references):
        shape = Chem.Conformer(mol.GetNumAtoms())
        shape.SetPositions(np.ascontiguousarray(references[0], dtype=float))
        mol.AddConformer(shape)
        Chem.AssignStereochemistryFrom3D(mol)
    bare = Chem.RemoveHs(mol)  # those that a double bond's mark needs stay
    smiles = Chem.MolToSmiles(bare)
    output = bare.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
    order = [bare.GetAtomWithIdx(i).GetIntProp("_place") for i in output]
    written = len(order)
    mine = molecule(smiles)
    used = set(order)
    for atom in list(mine.GetAtoms())[written:]:
        owner = mol.GetAtomWithIdx(order[atom.GetNeighbors()[0].GetIdx()])
        free = [h.GetIdx() for h in owner.GetNeighbors() if h.GetAtomicNum() == 1 and h.GetIdx() not in used]
        if not free:
            break
        used.add(free[0])
        order.append(free[0])
    numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]
    if len(order) != len(numbers) or [numbers[i] for i in order] != [a.GetAtomicNum() for a in mine.GetAtoms()]:
        raise InputError(f"bench conformers: expected a closed-shell molecule, got {smiles}, which comes back with other atoms")
    moved = np.asarray(references, dtype=float).reshape(-1, mol.GetNumAtoms(), 3)[:, order]
    return Target(smiles, mine, moved)


def load_targets(name: str, limit: int | None = None) -> tuple[list[Target], str]:
    """The molecules of a set in a fixed order, and a sentence on what was left out.

    Raises:
        DataError: files are missing.
    """
    source = {"qm9": _qm9, "drugs": _drugs, "hutchison": _hutchison}[name]()
    most = min(limit or SETS[name], SETS[name])
    targets: list[Target] = []
    unusable = seen = 0
    for mol, references in source:
        if len(targets) == most:
            break
        seen += 1
        try:
            found = target(mol, references) if _plain(mol) else None
        except InputError:
            found = None
        if found is not None and len(references):
            right = [metrics.stereo_kept(found.mol, x) for x in found.references]
            found = Target(found.smiles, found.mol, found.references[right]) if any(right) else None
        if found is None:
            unusable += 1
        else:
            targets.append(found)
    return targets, f"{name}: {len(targets)} molecules, {unusable} of {seen} left out (broken graph, radical or several parts)"


def _plain(mol: Mol | None) -> bool:
    from rdkit import Chem

    return mol is not None and len(Chem.GetMolFrags(mol)) == 1 and not any(a.GetNumRadicalElectrons() for a in mol.GetAtoms())


def _qm9() -> Iterator[tuple[Mol, np.ndarray]]:
    store = datasets.load("qm9", "test")
    for row in np.random.default_rng(0).permutation(len(store)).tolist():
        structure = store[row]
        if structure.bonds is not None:
            yield convert.to_rdkit(structure), structure.positions[None]


def _drugs() -> Iterator[tuple[Mol | None, np.ndarray]]:
    from rdkit import Chem, rdBase

    with np.load(_file("geom_drugs_smiles.npz"), allow_pickle=False) as arrays:
        lines = arrays["test_smiles_utf8"].tobytes().decode().split("\n")
    for row in np.random.default_rng(0).permutation(len(lines)).tolist():
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(lines[row])
        yield (None, np.zeros((0, 0, 3))) if mol is None else (Chem.AddHs(mol), np.zeros((0, 0, 3)))


def _hutchison() -> Iterator[tuple[Mol | None, np.ndarray]]:
    from rdkit import Chem, rdBase

    with np.load(_file("conf_hutchison_dev.npz"), allow_pickle=False) as arrays:
        lines = arrays["mapped_smiles_utf8"].tobytes().decode().split("\n")
        shapes = list(zip(arrays["n_conf"].tolist(), arrays["n_atoms"].tolist(), strict=True))
        positions, numbers = arrays["pos"].astype(float), np.split(arrays["z"].astype(int), np.cumsum(arrays["n_atoms"])[:-1])
    rules = Chem.SmilesParserParams()
    rules.removeHs = False
    ends = np.cumsum([n_conf * n_atoms for n_conf, n_atoms in shapes])
    for row in np.random.default_rng(0).permutation(len(lines)).tolist():
        line, (n_conf, n_atoms) = lines[row], shapes[row]
        block = positions[ends[row] - n_conf * n_atoms : ends[row]].reshape(n_conf, n_atoms, 3)
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(line, rules)
        if mol is None or mol.GetNumAtoms() != n_atoms or not _plain(mol):  # a proton or a charge is missing in the file
            yield _seen(numbers[row], block[0]), block
        else:
            yield mol, block[:, [atom.GetAtomMapNum() - 1 for atom in mol.GetAtoms()]]


def _seen(numbers: np.ndarray, positions: np.ndarray) -> Mol | None:
    """The molecule that coordinates show, with the total charge (0, +1, -1) that leaves the fewest charged atoms."""
    found = []
    for charge in (0, 1, -1):
        try:
            structure = perceive_bonds(Structure(numbers=numbers, positions=positions), charge)
            mol = convert.to_rdkit(structure)
        except InputError:
            continue
        if _plain(mol):
            found.append((int(np.count_nonzero(structure.charges)) if structure.charges is not None else 0, mol))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _file(name: str) -> Path:
    for folder in (os.environ.get("SCIAR_DATA"), datasets.cache_dir() / "raw"):
        if folder and (path := Path(folder) / name).exists():
            return path
    raise DataError(
        f"bench conformers: expected the file {name}, got none; set SCIAR_DATA to a folder with it or leave its set out (sets=)"
    )
