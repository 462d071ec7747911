"""Drawing words: a causal language model over SMILES characters under a grammar, with conditions and given prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sciar.errors import InputError
from sciar.families.hybrid.fixed import scaffold_of
from sciar.families.hybrid.grammar import Writer
from sciar.families.hybrid.tokens import BOS, EOS, PAD, VOCABULARY, text_of, words_of
from sciar.nn.cache import StaticCache
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS

if TYPE_CHECKING:
    from sciar.families.hybrid.model import Model
    from sciar.families.hybrid.sample import Options

LONGEST = 128
HEAVY = {i: word.capitalize() for i, word in enumerate(VOCABULARY) if word.capitalize() in SYMBOLS and word != "H"}
ANY = 2 * LONGEST


class Written(NamedTuple):
    """Drawn words: their text, log-likelihood, network calls, and the logarithm of the probability that the masks left, a weight."""

    text: str
    score: float
    calls: int
    weight: float


@torch.inference_mode()
def draw_words(
    model: Model,
    prompts: Sequence[Prompt],
    keys: Sequence[tuple[int, int]],
    options: Options,
    attempts: Sequence[int] | None = None,
    heavy: Sequence[int | None] | None = None,
) -> list[Written]:
    """The words of each prompt; a scaffold is a given prefix.

    Elements are kept by masks, a composition's heavy atoms too; its hydrogens and the number of atoms are up to the caller.
    `attempts` tells draws of one key apart. `heavy`: how many heavy atoms each is to have, None = any number.
    """
    if not model.config.words_layers:
        raise InputError("hybrid: these weights draw conformers only; pass smiles=… or take weights with words (model='qm9-hybrid')")
    device = next(model.parameters()).device
    b = len(prompts)
    names = model.tokenizer.config.properties
    wanted = np.full((b, len(names)), np.nan, dtype=np.float32)
    for row, prompt in zip(wanted, prompts, strict=True):
        for name, value in prompt.properties.items():
            row[names.index(name)] = value
    guided = bool(np.isfinite(wanted).any()) and options.guidance != 1
    properties = model.standardised(torch.from_numpy(wanted).to(device))
    if guided:
        properties = torch.cat([properties, torch.full_like(properties, float("nan"))])
    scaffolds = [p.scaffold or (scaffold_of(p.fixed) if p.fixed is not None else None) for p in prompts]
    given = [scaffold_words(s, k) if s else np.array([BOS]) for s, k in zip(scaffolds, keys, strict=True)]
    seen = {e for facts in model.statistics.get("theories", {}).values() for e in facts["elements"]} or set(SYMBOLS)
    unknown = [PAD, BOS, *(i for i, e in HEAVY.items() if e not in seen)]  # the grammar would otherwise fall back on them
    budgets = [_budget(p) for p in prompts]
    missing = list(heavy or [None] * b)
    streams = [np.random.default_rng([*k, 1, a]) for k, a in zip(keys, attempts or [0] * b, strict=True)]
    weight = np.zeros(b)
    writers = [Writer() for _ in prompts]
    words = torch.full((b, LONGEST), PAD, device=device)
    words[:, 0] = BOS
    channels = model.config.width // model.config.heads
    caches = [StaticCache(len(properties), model.config.heads, LONGEST, channels, device, torch.float32) for _ in model.words.blocks]
    score = torch.zeros(b, dtype=torch.float64, device=device)
    ended = torch.zeros(b, dtype=torch.bool, device=device)
    calls = np.zeros(b, dtype=int)
    for t in range(LONGEST - 1):
        token = words[:, t : t + 1].repeat(2 if guided else 1, 1)
        here = torch.full((len(properties), 1), t, device=device)
        logits = model.words(token, properties, [cache.at(here, t + 1) for cache in caches], first=t)[:, 0]
        if guided:
            conditional, free = logits.chunk(2)
            logits = free + options.guidance * (conditional - free)
        logits[:, unknown] = -torch.inf
        likely = (logits / options.word_temperature).log_softmax(-1).double()
        forced = torch.tensor([int(g[t + 1]) if t + 1 < len(g) else -1 for g in given], device=device)
        probable, done = likely.exp().cpu().numpy(), ended.tolist()
        probable[[len(g) == t + 1 and t > 0 for g in given], EOS] = 0  # a scaffold grows by at least one atom
        for r, (budget, left) in enumerate(zip(budgets, missing, strict=True)):
            if budget is not None:
                probable[r, [i for i, e in HEAVY.items() if not budget[e]]] = 0
                probable[r, EOS] *= not any(0 < count < ANY for count in budget.values())
            if left is not None:
                probable[r, EOS if left > 0 else list(HEAVY)] = 0
            if budget is not None or left is not None:
                weight[r] += 0.0 if done[r] or forced[r] >= 0 else np.log(max(probable[r].sum(), 1e-30))
        drawn = [
            PAD if done[r] else _next_word(probable[r], streams[r], writers[r] if options.grammar else None, int(forced[r]))
            for r in range(b)
        ]
        for r, (budget, left, word) in enumerate(zip(budgets, missing, drawn, strict=True)):
            if budget is not None and word in HEAVY:
                budget[HEAVY[word]] -= 1
            if left is not None and word in HEAVY:
                missing[r] = left - 1
        chosen = torch.tensor(drawn, device=device)
        score += torch.where(ended | (forced >= 0), 0.0, likely.gather(1, chosen[:, None])[:, 0])
        calls += (~ended).cpu().numpy()
        words[:, t + 1] = chosen
        ended |= chosen == EOS
        if bool(ended.all()):
            break
    found = zip(words.cpu().numpy(), score.tolist(), calls.tolist(), weight.tolist(), strict=True)
    return [Written(text_of(w), *facts) for w, *facts in found]


def _budget(prompt: Prompt) -> dict[str, int] | None:
    """How many atoms of each element may still come, hydrogens aside; None = any."""
    if prompt.composition is not None:
        return {e: prompt.composition.get(e, 0) for e in HEAVY.values()}
    return None if prompt.elements is None else {e: ANY if e in prompt.elements else 0 for e in HEAVY.values()}


def _next_word(probable: np.ndarray, stream: np.random.Generator, writer: Writer | None, forced: int) -> int:
    """Draw from `probable`, again without what the grammar refuses: the model's law given that the character is admissible."""
    if forced >= 0:
        if writer is not None:
            writer.add(VOCABULARY[forced])
        return forced
    probable = probable.copy()
    while probable.sum() > 1e-12:
        word = int(np.searchsorted(np.cumsum(probable), stream.random() * probable.sum(), side="right"))
        word = min(word, len(probable) - 1)
        if writer is None or writer.add("" if word == EOS else VOCABULARY[word]):
            return word
        probable[word] = 0.0
    return EOS


def scaffold_words(scaffold: str, key: tuple[int, int]) -> np.ndarray:
    """Word ids of a fragment written so that the atom at `*` (or, without one, some atom with a hydrogen) comes last.

    Raises:
        InputError: not a SMILES, more than one `*`, or no atom that could grow.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(scaffold)
    if mol is None or not mol.GetNumAtoms():
        raise InputError(f"scaffold: expected a SMILES with at most one *, got {scaffold!r}")
    stars = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 0]
    rng = np.random.default_rng([*key, 2])
    if len(stars) > 1:
        raise InputError(f"scaffold: expected at most one *, got {len(stars)}; grow one place at a time")
    if not stars:
        open_atoms = [a.GetIdx() for a in mol.GetAtoms() if a.GetTotalNumHs()]
        if not open_atoms:
            raise InputError(f"scaffold: expected an atom with a hydrogen to grow from, got none in {scaffold!r}")
        edited = Chem.RWMol(mol)
        star = edited.AddAtom(Chem.Atom(0))
        edited.AddBond(int(rng.choice(open_atoms)), star, Chem.BondType.SINGLE)
        mol = edited.GetMol()
        Chem.SanitizeMol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    for _ in range(500):
        atoms = rng.permutation(mol.GetNumAtoms()).tolist()
        text = Chem.MolToSmiles(Chem.RenumberAtoms(mol, atoms), canonical=False, kekuleSmiles=True)
        if text.endswith("*"):
            return words_of(text[:-1])[:-1]
    raise InputError(f"scaffold: expected a fragment that can be written with * last, got {scaffold!r}")
