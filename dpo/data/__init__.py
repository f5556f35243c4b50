"""From a line of JSON to a batch of tensors."""

from dpo.data.batches import batches, collate_pairs, describe_batch, tokenize_pairs
from dpo.data.pair import Pair, PairsError
from dpo.data.pair_file import load_pairs, spread, write_pairs
from dpo.data.profile import describe_profile, profile_pairs

__all__ = [
    "Pair",
    "PairsError",
    "batches",
    "collate_pairs",
    "describe_batch",
    "describe_profile",
    "load_pairs",
    "profile_pairs",
    "spread",
    "tokenize_pairs",
    "write_pairs",
]
