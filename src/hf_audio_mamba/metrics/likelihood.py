"""How probable a model finds music: nats per token, bits per note, bits per second, and loss against position.

Conventions. A piece is the token sequence x_0 … x_T, x_0 being BOS and x_T EOS, scored by teacher forcing:
l_t = -ln p(x_t | x_0 … x_{t-1}) for t = 1 … T. BOS is given, so it costs nothing and is no target; every other token,
EOS among them, is a target exactly once: windows that overlap score a token in one of them only. Over a set of pieces

- nats per token = Σ l_t / number of targets,
- bits per note = Σ l_t / (ln 2 · number of notes),
- bits per second = Σ l_t / (ln 2 · seconds of music),

each a ratio of sums over the whole set, never a mean of ratios. Notes are those that the tokens decode to, seconds run
from 0 to the end of the last note of the file. Nats per token compare models of one vocabulary only. Bits per note
compare vocabularies that were learnt (BPE) over one grid of time and velocity, where they bound the cost from above,
since a piece has more segmentations than the one scored. Over different grids nothing compares: a grid of 62.5 ms asks
for up to log2(6.25) = 2.6 bits fewer per onset than one of 10 ms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_audio_mamba.errors import DataError, ShapeError, UsageError

Array = NDArray[Any]

FIRST_EDGE = 16


@dataclass(frozen=True)
class PositionBin:
    """Mean loss of the tokens at some positions.

    Attributes:
        start: First position, the number of tokens before the target; BOS is at 0.
        stop: First position beyond.
        nats_per_token: Mean of -ln p over the targets there.
        tokens: How many targets that is.
        pieces: How many pieces they are from.
    """

    start: int
    stop: int
    nats_per_token: float
    tokens: int
    pieces: int


def likelihood_scores(nats: Sequence[ArrayLike], notes: ArrayLike, seconds: ArrayLike) -> dict[str, float]:
    """Nats per token, bits per note and bits per second of a set of pieces, as the module defines them.

    Args:
        nats: For each piece -ln p of its tokens after BOS, `(tokens,)`.
        notes: For each piece the number of its notes, `(pieces,)`.
        seconds: For each piece its length in seconds, `(pieces,)`.

    Returns:
        `nats_per_token`, `bits_per_note`, `bits_per_second`, and what they are taken over: `tokens`, `notes`,
        `seconds`, `pieces`.

    Raises:
        ShapeError: If the three do not describe the same number of pieces.
        DataError: If there are no tokens, notes or seconds, or a value is not finite or below 0.
    """
    pieces = checked_nats(nats)
    counts, lengths = np.asarray(notes, dtype=np.float64), np.asarray(seconds, dtype=np.float64)
    if counts.shape != (len(pieces),) or lengths.shape != (len(pieces),):
        raise ShapeError(f"notes {counts.shape} and seconds {lengths.shape} must both be ({len(pieces)},), as nats is")
    for name, values in (("notes", counts), ("seconds", lengths)):
        if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
            raise DataError(
                f"{name} must be finite, none below 0, and their sum above 0; leave out music without notes"
            )
    total = math.fsum(math.fsum(piece) for piece in pieces)
    tokens = sum(map(len, pieces))
    bits = total / math.log(2)
    return {
        "nats_per_token": total / tokens,
        "bits_per_note": bits / float(counts.sum()),
        "bits_per_second": bits / float(lengths.sum()),
        "tokens": tokens,
        "notes": int(counts.sum()),
        "seconds": float(lengths.sum()),
        "pieces": len(pieces),
    }


def loss_by_position(
    nats: Sequence[ArrayLike], edges: Sequence[int] | None = None, *, min_tokens: int = 1
) -> list[PositionBin]:
    """Mean loss of the tokens at each range of positions, to see what a longer context is worth.

    Late bins hold long pieces alone, which may be easier or harder than others: `min_tokens` keeps the pieces that
    reach a position, so that all bins up to it are over the same ones.

    Args:
        nats: For each piece -ln p of its tokens after BOS, `(tokens,)`; the first is at position 1.
        edges: Bounds of the bins, rising, the first at least 1; None takes 1, 16, 32, 64, … as far as pieces reach.
        min_tokens: Pieces with fewer targets are left out.

    Returns:
        The bins that hold tokens.

    Raises:
        UsageError: If the edges do not rise from 1 or more, or min_tokens is below 1.
        DataError: If no piece is left, or a value is not finite or below 0.
    """
    if min_tokens < 1:
        raise UsageError(f"min_tokens is {min_tokens}, it must be at least 1")
    pieces = [piece for piece in checked_nats(nats) if len(piece) >= min_tokens]
    if not pieces:
        raise DataError(f"no piece has {min_tokens} tokens after BOS; lower min_tokens")
    bounds = _default_edges(max(map(len, pieces))) if edges is None else list(edges)
    if len(bounds) < 2 or bounds[0] < 1 or any(b <= a for a, b in pairwise(bounds)):
        raise UsageError(f"edges are {bounds}, they must be two numbers or more that rise from at least 1")
    bins = []
    for start, stop in pairwise(bounds):
        parts = [piece[start - 1 : stop - 1] for piece in pieces if len(piece) >= start]
        values = np.concatenate([np.empty(0), *parts])
        if len(values):
            bins.append(PositionBin(start, stop, math.fsum(values) / len(values), len(values), len(parts)))
    return bins


def checked_nats(nats: Sequence[ArrayLike]) -> list[Array]:
    """Losses of pieces as float64 arrays `(tokens,)`.

    Raises:
        ShapeError: If a piece is not of one axis.
        DataError: If there is no token at all, or a value is not finite or below 0.
    """
    pieces = [np.asarray(piece, dtype=np.float64) for piece in nats]
    for index, piece in enumerate(pieces):
        if piece.ndim != 1:
            raise ShapeError(f"nats[{index}] has the shape {piece.shape}, it must be (tokens,)")
        if not np.isfinite(piece).all() or (piece < 0).any():
            raise DataError(f"nats[{index}] holds values that are not finite or below 0; -ln p is neither")
    if not any(map(len, pieces)):
        raise DataError("nats holds no tokens; a piece has at least one after BOS")
    return pieces


def _default_edges(longest: int) -> list[int]:
    edges = [1, FIRST_EDGE]
    while edges[-1] <= longest:
        edges.append(2 * edges[-1])
    return edges
