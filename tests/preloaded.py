"""What the server of child processes has in memory, so that no child loads or makes it again."""

import gc
import importlib
from contextlib import suppress

from dpo.evaluation.replies import GROUPS, groups_of, sample_questions

for name in (
    # The functions that children call (a folder of tests may not be among those that are run) ...
    *("test_faults", "test_hostile", "test_processes", "test_export"),
    # ... and what an optimizer or a group of processes imports when it is made.
    *("torch._dynamo", "torch.distributed.nn", "torch.distributed.run"),
):
    with suppress(ImportError):
        importlib.import_module(name)
for group in {*GROUPS, *groups_of("validation")}:
    sample_questions(group, 1, seed=0)
gc.freeze()  # or the first collection in a child copies most of the memory
