"""What a tokenizer's ids stand for: the base tokens, such as `Pitch_60`, that byte pair encoding joined."""

from typing import Any

from hf_audio_mamba.errors import UsageError

BaseTokens = tuple[str, ...]


def base_tokens_of_ids(miditok: Any) -> list[BaseTokens]:
    """List the base tokens of every id of a MidiTok tokenizer.

    Args:
        miditok: Tokenizer with one vocabulary, with or without byte pair encoding, of `V` ids.

    Returns:
        `V` tuples of base tokens, each `Type_Value`; MidiTok's training adds an id that stands for none.

    Raises:
        UsageError: If it is a tokenizer of several vocabularies.
    """
    from miditok import TokSequence

    if miditok.is_multi_voc:
        raise UsageError(f"{type(miditok).__name__} has several vocabularies; generation takes tokenizers of one, as REMI")
    tokens = []
    for index in range(len(miditok)):
        sequence = TokSequence(ids=[index], are_ids_encoded=miditok.is_trained)
        if miditok.is_trained:
            miditok.decode_token_ids(sequence)
        miditok.complete_sequence(sequence)
        tokens.append(tuple(sequence.tokens))
    return tokens


def token_type(token: str) -> str:
    """The type of a base token: `Pitch` of `Pitch_60`."""
    return token.partition("_")[0]


def token_value(token: str) -> str:
    """The value of a base token: `60` of `Pitch_60`."""
    return token.partition("_")[2]
