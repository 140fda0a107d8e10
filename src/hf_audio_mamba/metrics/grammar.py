"""Whether a sequence of tokens keeps to the order that its tokenizer writes.

The rules are those of MidiTok's `tokens_errors` (Fradet et al. 2021, "MidiTok: A Python package for MIDI file
tokenization"): a token of a type that may not follow the one before (a Pitch without a Velocity, anything after EOS;
PAD, EOS and MASK themselves may follow anything), a position that does not move on within its bar, and, where the
tokenizer removes duplicates, a pitch struck twice at once. MidiTok divides by the tokens given, which for BPE are fewer
than those judged; here the errors are divided by the tokens judged, those of the base vocabulary, so that rates of
different vocabularies compare.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_audio_mamba._optional import require
from hf_audio_mamba.errors import DataError

if TYPE_CHECKING:
    from miditok import MusicTokenizer


def grammar_errors(tokenizer: "MusicTokenizer", ids: Sequence[int]) -> tuple[int, int]:
    """Errors of one sequence, and the tokens of the base vocabulary that were judged.

    Args:
        tokenizer: MidiTok tokenizer that writes one stream of tokens: REMI, TSD and others, not compound words.
        ids: Ids of a piece, with or without BOS and EOS.

    Raises:
        DataError: If an id is not of the tokenizer's vocabulary.
        MissingExtraError: If MidiTok is not installed.
    """
    miditok = require("miditok", extra="midi", purpose="judging the grammar of tokens")
    tokens = [int(i) for i in ids]
    size = len(tokenizer)
    foreign = next((i for i in tokens if not 0 <= i < size), None)
    if foreign is not None:
        raise DataError(f"ids hold {foreign}, the tokenizer has 0 to {size - 1}; use the tokenizer of the model")
    if not tokens:
        return 0, 0
    sequence = miditok.TokSequence(ids=tokens, are_ids_encoded=tokenizer.is_trained)
    if tokenizer.is_trained:
        tokenizer.decode_token_ids(sequence)
    judged = len(sequence.ids)
    return round(float(tokenizer.tokens_errors(sequence)) * judged), judged


def grammar_error_rate(tokenizer: "MusicTokenizer", sequences: Sequence[Sequence[int]]) -> float:
    """Errors per token of the base vocabulary over all sequences, 0 to 1; NaN where there are no tokens.

    Args:
        tokenizer: MidiTok tokenizer.
        sequences: Ids of each piece.

    Raises:
        DataError: If an id is not of the tokenizer's vocabulary.
        MissingExtraError: If MidiTok is not installed.
    """
    counts = [grammar_errors(tokenizer, ids) for ids in sequences]
    judged = sum(count for _, count in counts)
    return sum(errors for errors, _ in counts) / judged if judged else float("nan")
