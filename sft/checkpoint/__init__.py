"""Checkpoints, which are checked before they are used and never executed; runs that resume."""

from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.resume import ResumeError, TrainingState, remove_state, runtime_info
from sft.checkpoint.weights import identify, load_checkpoint, load_model, save_checkpoint

__all__ = [
    "CheckpointError",
    "ResumeError",
    "TrainingState",
    "identify",
    "load_checkpoint",
    "load_model",
    "remove_state",
    "runtime_info",
    "save_checkpoint",
]
