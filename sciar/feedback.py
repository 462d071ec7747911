"""Learning from own draws: what the network draws and is at fault, training makes less likely.

Maximum likelihood spends its effort evenly; what is never in the data still gets the probability that the network cannot tell from
none, and one such choice spoils a whole draw. So training minimises, besides the nats of the records,

    w · P(fault),    whose gradient is    w · E[1(x at fault) ∇ ln p(x)]    over own draws x

(score function; Williams 1992, REINFORCE, with reward -1 for a fault). Draws come from the weights as they are and are judged as every
sample is, which needs the chemistry libraries. The records keep the rest of the law where it is. A check must be one that all of the
training data pass, else the law becomes another than that of the data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sciar.batch import Batch, collate
from sciar.config import FeedbackConfig
from sciar.errors import InputError
from sciar.family import Model
from sciar.metrics import graph, moses
from sciar.prompt import Prompt
from sciar.validate import Verdict, validate

CHECKS: dict[str, Callable[[Verdict], bool]] = {
    "valid": lambda verdict: True,
    "moses": lambda verdict: moses.passes(verdict.native),
    "connected": lambda verdict: graph.connected(verdict.structure.adjacency() > 0),
    "planar": lambda verdict: graph.planar(verdict.structure.adjacency() > 0),
    "tree": lambda verdict: graph.tree(verdict.structure.adjacency() > 0),
    "sbm": lambda verdict: graph.stochastic_block(verdict.structure.adjacency() > 0),
}
MOST = 0.5  # of the weight of the records, which hold the law where it is
STREAM = 5  # of the draws' keys, so that no sample a user asks for is one of them


def refuse(config: FeedbackConfig, model: type[Model]) -> None:
    """Nothing if models of this class can learn so.

    Raises:
        InputError: no such check, or a family that cannot.
    """
    if config.check and config.check not in CHECKS:
        raise InputError(f"train.feedback.check: expected {', '.join(CHECKS)} or nothing, got {config.check!r}")
    if config.check and model.aversion is Model.aversion:
        raise InputError("train.feedback.check: expected nothing for this family, which cannot learn so; leave it empty")


class Feedback:
    """Own draws at fault, step by step; what a step gets depends on the seed, the step and the weights alone.

    Args:
        model: being trained, on its device. kind: its family's `Tokens`. config: how many, judged how. seed: of the draws.

    Raises:
        InputError: see `refuse`.
    """

    def __init__(self, model: Model, kind: type, config: FeedbackConfig, seed: int) -> None:
        refuse(config, type(model))
        self.model, self.kind, self.config, self.seed = model, kind, config, seed

    def of(self, step: int, rank: int = 0) -> Batch | None:
        """The draws at fault of this step, None if there are none."""
        stream = int(np.random.default_rng([self.seed, STREAM, step, rank]).integers(2**31))
        keys = [(stream, k) for k in range(self.config.draws)]
        training = self.model.training
        self.model.eval()
        drawn = sorted(self.model.sample([Prompt()] * len(keys), keys, len(keys), **self.config.options), key=lambda draw: draw.index)
        self.model.train(training)
        faulty = [draw.tokens for draw in drawn if not self._sound(validate(self.model.tokenizer.decode(draw.tokens)))]
        return collate(self.kind, faulty).to(next(self.model.parameters()).device) if faulty else None

    def share(self, batch: Batch | None) -> float:
        """Of the draws that were at fault."""
        return len(batch) / self.config.draws if batch is not None else 0.0

    def weight(self, batch: Batch) -> float:
        """Of the mean `aversion` of `batch`, so that its gradient is that of the probability of a fault; at most MOST of a record's."""
        return min(self.config.weight * self.share(batch), MOST)

    def _sound(self, verdict: Verdict) -> bool:
        return verdict.valid and CHECKS[self.config.check](verdict)
