"""From a batch to a step, and from steps to a run."""

from dpo.training.diagnosis import describe_run
from dpo.training.history import History
from dpo.training.logps import compute_reference_logps
from dpo.training.monitor import Monitor
from dpo.training.provenance import describe_provenance, file_hash, weights_hash
from dpo.training.roads import describe_roads, make_tiny_blank
from dpo.training.run import objective, run_fingerprint, save_run
from dpo.training.step import dpo_step, train_step

__all__ = [
    "History",
    "Monitor",
    "compute_reference_logps",
    "describe_provenance",
    "describe_roads",
    "describe_run",
    "dpo_step",
    "file_hash",
    "make_tiny_blank",
    "objective",
    "run_fingerprint",
    "save_run",
    "train_step",
    "weights_hash",
]
