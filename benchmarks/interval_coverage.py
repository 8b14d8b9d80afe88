"""How often a study's intervals hold and its equivalence test errs, simulated: results/interval_coverage.md.

    python benchmarks/interval_coverage.py [--studies 1000] [--seed 0] [--out FILE]

A population of conversations is drawn once, token by token: how many tokens a conversation has, what each costs the
original and what it costs the arm are all skewed or heavy-tailed, and tokens of one conversation go together. The arm's
loss over the whole population is the original's, exactly. A simulated study draws conversations from it, and seeds:
each moves the arm's loss as a whole, and that of each conversation by itself. The study is then compared by the code
that compares a real one. Nothing here depends on the machine.

A true gap multiplies every loss of the arm. It moves estimate and error together (`moved`), so that one study serves
for all gaps.
"""

import argparse
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unnorm.evaluation.two_factors import Mean, mean_over
from unnorm.foundation import atomic
from unnorm.study.compare import loss_gap
from unnorm.study.view import MARGIN

RESULT = Path(__file__).parent / "results" / "interval_coverage.md"
POPULATION = 20_000  # conversations
PIECES = 8  # of a conversation: what counts as independent where it is asked what ignoring clusters would claim
CONVERSATIONS = (60, 120, 400)
SEEDS = (
    (1, 0.0),
    (3, 0.001),
    (3, 0.005),
    (3, 0.02),
    (2, 0.02),
)  # how many, and the spread of the gap from seed to seed
REAL = ((452, 1, 0.0), (1874, 3, 0.001), (1874, 3, 0.005), (1874, 3, 0.02))
"""Conversations, seeds and spread of Alpaca in recipes/real: gpu-15m.yaml, then study.yaml. So many are held out for
50,000 and 200,000 tokens in SmolLM2's chat template, of which the loss counts the answers alone."""
WIDE = 0.05  # a margin that all these studies could tell a gap from: where an equivalence test errs most


class Lengths(NamedTuple):
    """Tokens of a conversation that are scored: log-normal, cut off at both ends."""

    median: int = 110
    spread: float = 0.8
    shortest: int = 16
    longest: int = 1024


ANSWERS = Lengths(45, 1.08, PIECES, 512)
"""As Alpaca's answers are in SmolLM2's tokens."""


class Population(NamedTuple):
    """Sums of each piece of each conversation [POPULATION, PIECES]: the original's nats, the arm's, tokens."""

    original: np.ndarray
    arm: np.ndarray
    tokens: np.ndarray


class Found(NamedTuple):
    """Shares of the simulated studies, and the median of the smallest gap that each could have shown.

    covered: of intervals that hold the truth, where that is no gap, and where it is a gap of the margin. edge: that
    call an arm within the margin whose gap is the margin, above or below, whichever is more; edge_wide: the same of
    the margin `WIDE`. within: that call two equal arms within the margin. shown: that call arms different whose gap is
    the median of the smallest that could be shown.
    """

    covered: float
    covered_at_margin: float
    edge: float
    edge_wide: float
    within: float
    detectable: float
    shown: float


def population(
    generator: np.random.Generator, conversations: int = POPULATION, lengths: Lengths | None = None
) -> Population:
    """Conversations of such lengths, each in pieces of nearly as many tokens."""
    long = lengths or Lengths()
    tokens = np.exp(generator.normal(np.log(long.median), long.spread, conversations))
    tokens = tokens.clip(long.shortest, long.longest).astype(int)
    pieces = tokens[:, None] // PIECES + (np.arange(PIECES) < tokens[:, None] % PIECES)
    first = np.concatenate([[0], np.cumsum(pieces.ravel())[:-1]])
    count = int(tokens.sum())
    hard = np.exp(generator.normal(0, 0.35, conversations))
    nats = np.repeat(hard, tokens) * np.exp(generator.normal(0, 1.0, count))
    of_conversation = (0.02 * generator.standard_t(3, conversations)).clip(-0.3, 0.3)
    of_token = (0.1 * generator.standard_t(3, count)).clip(-0.9, 0.9)
    arm = nats * (1 + np.repeat(of_conversation, tokens) + of_token)
    arm *= nats.sum() / arm.sum()
    shape = (conversations, PIECES)
    return Population(
        np.add.reduceat(nats, first).reshape(shape), np.add.reduceat(arm, first).reshape(shape), pieces.astype(float)
    )


def compare(
    drawn_from: Population,
    generator: np.random.Generator,
    conversations: int,
    seeds: int,
    spread: float,
    *,
    clustered: bool,
    resampling: int,
) -> Mean:
    """What one simulated study of two equal arms says of the gap.

    clustered: whether conversations are what is drawn; else their pieces are taken for independent.
    """
    chosen = generator.integers(len(drawn_from.tokens), size=conversations)
    original, arm, tokens = (part[chosen] for part in drawn_from)
    of_seed = generator.normal(0, spread, seeds)
    both = generator.normal(0, 0.005, (seeds, 1, 1))  # a seed that is worse in both arms is no gap
    here = (0.005 * generator.standard_t(3, (seeds, conversations, 1))).clip(-0.3, 0.3)
    columns = [original * (1 + both), arm * (1 + of_seed[:, None, None] + here) * (1 + both)]
    columns += [np.broadcast_to(tokens, (seeds, *tokens.shape))] * 2
    units = [c.sum(-1) if clustered else c.reshape(seeds, -1) for c in columns]
    other, nats, m, n = units
    return mean_over(loss_gap, (nats, other, m, n), seed=resampling)


def moved(found: Mean, gap: float) -> Mean:
    """What the same study would say if every loss of the arm were 1 + `gap` times as large."""
    assert found.low is not None
    assert found.high is not None
    assert found.error is not None
    value, low, high = ((1 + gap) * (1 + each) - 1 for each in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high, error=(1 + gap) * found.error)


def simulate(
    drawn_from: Population,
    conversations: int,
    seeds: int,
    spread: float,
    studies: int,
    seed: int,
    *,
    clustered: bool = True,
) -> Found:
    """Compare `studies` simulated studies."""
    generator = np.random.default_rng([seed, conversations, seeds, round(1e6 * spread)])
    means = [
        compare(drawn_from, generator, conversations, seeds, spread, clustered=clustered, resampling=number)
        for number in range(studies)
    ]

    def share_of(claims: list[bool | None]) -> float:
        return sum(map(bool, claims)) / studies

    def covered(gap: float) -> float:
        return share_of([_holds(moved(mean, gap), gap) for mean in means])

    def edge(margin: float) -> float:
        return max(share_of([moved(mean, gap).within(margin) for mean in means]) for gap in (margin, -margin))

    detectable = statistics.median(mean.detectable or 0.0 for mean in means)
    return Found(
        covered=covered(0),
        covered_at_margin=covered(MARGIN),
        edge=edge(MARGIN),
        edge_wide=edge(WIDE),
        within=share_of([mean.within(MARGIN) for mean in means]),
        detectable=detectable,
        shown=share_of([not _holds(moved(mean, detectable), 0) for mean in means]),
    )


def _holds(mean: Mean, truth: float) -> bool:
    assert mean.low is not None
    assert mean.high is not None
    return mean.low <= truth <= mean.high


def table(studies: int, seed: int) -> list[str]:
    """Rows of Markdown, head first."""
    drawn_from = population(np.random.default_rng(seed))
    answers = population(np.random.default_rng(seed), lengths=ANSWERS)
    lines = [
        "| conversations | seeds | spread of seeds | covered, no gap | covered, gap 1% | within ± 1% at a gap of 1% "
        "| within ± 5% at a gap of 5% | within ± 1%, no gap | could show | shown where it is so large "
        "| covered, clusters ignored |",
        "|" + "---|" * 11,
    ]
    made_up = [(drawn_from, count, *of_seeds) for of_seeds in SEEDS for count in CONVERSATIONS]
    for drawn, conversations, seeds, spread in [*made_up, *((answers, *each) for each in REAL)]:
        found = simulate(drawn, conversations, seeds, spread, studies, seed)
        ignored = "–"
        if seeds == 1 and conversations < max(CONVERSATIONS):  # eight times as many pieces take eight times as long
            share = simulate(drawn, conversations, seeds, spread, studies // 4, seed, clustered=False).covered
            ignored = f"{share:.1%}"
        numbers = [f"{found.covered:.1%}", f"{found.covered_at_margin:.1%}", f"{found.edge:.1%}"]
        numbers += [f"{found.edge_wide:.1%}", f"{found.within:.1%}", f"± {found.detectable:.2%}"]
        numbers += [f"{found.shown:.1%}", ignored]
        which = f"{conversations:,} (answers)" if drawn is answers else str(conversations)
        lines.append(f"| {which} | {seeds} | {f'{spread:.1%}' if seeds > 1 else '–'} | {' | '.join(numbers)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    began = time.process_time()
    lines = table(chosen.studies, chosen.seed)
    took = time.process_time() - began
    scatter = (0.95 * 0.05 / chosen.studies) ** 0.5
    text = f"""# How often the intervals hold

`python benchmarks/interval_coverage.py --studies {chosen.studies} --seed {chosen.seed}`: {chosen.studies:,} studies
a row, numpy {version("numpy")}, scipy {version("scipy")}; {took:.0f} seconds of one core. Nothing here was trained: the
population is made up, as the file says, and its truth is known.

{chr(10).join(lines)}

- Covered: 95 % intervals that hold the true gap; 95 % would be right. Of {chosen.studies:,} studies such a share is
  itself uncertain by ± {2 * scatter:.1%} (two standard errors).
- A gap multiplies every loss of the arm, which moves interval and truth alike, so coverage is the same at every gap.
- Within ± 1% at a gap of 1%: how often the equivalence test errs where it errs most, the worse of both sides; at
  most 5 % would be right. Few conversations cannot tell 0 from 1 % and then never call it so. So the next column has a
  margin of 5 %, where they can.
- Could show: the median of the smallest gap that a study says it could have shown; then how many show a gap of that
  size: 80 % would be right.
- Clusters ignored: the same conversations in {PIECES} pieces each that are taken for independent,
  {chosen.studies // 4:,} studies.
- Answers: the sizes of Alpaca in recipes/real. `gpu-15m.yaml` holds out {REAL[0][0]:,} conversations and has one seed,
  `study.yaml` {REAL[1][0]:,} and three; {ANSWERS.median} tokens of a conversation count in the median, from
  {ANSWERS.shortest} to {ANSWERS.longest}.
- Spread of seeds: standard deviation of the gap from seed to seed. With one seed the truth is that seed's own.
"""
    atomic.write_bytes(chosen.out, text.encode())


if __name__ == "__main__":
    main()
