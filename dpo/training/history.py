"""What a run records: numbers after every step, and now and then an eval of what the loss hides."""

from dataclasses import dataclass, field


@dataclass
class History:
    """Two tables; the columns of each are equally long.

    `steps` has a row per step: the metrics of `train_step`. `evals` has a row per eval: after which
    step it was made, exact matches and the KL. In files the evals are called "looks".
    """

    steps: dict[str, list[float]] = field(default_factory=dict)
    evals: dict[str, list[float]] = field(default_factory=dict)

    def append(self, metrics: dict[str, float]) -> None:
        _append(self.steps, metrics)

    def append_eval(self, results: dict[str, float]) -> None:
        """Record an eval of the policy after the steps so far."""
        _append(self.evals, {"step": len(self), **results})

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        return {"steps": self.steps, "looks": self.evals}

    def load_state_dict(self, state: dict[str, dict[str, list[float]]]) -> None:
        """ValueError, with nothing changed, unless it has two tables whose columns hold numbers."""
        tables = [
            state.get(name) if isinstance(state, dict) else None for name in ("steps", "looks")
        ]
        if not all(map(_is_table, tables)):
            raise ValueError(
                "the history in the saved state is not readable; start afresh without resume"
            )
        self.steps, self.evals = tables

    def after(self, step: int) -> dict[str, float]:
        """All that was recorded after so many steps: the last one's metrics, and an eval if any."""
        values = {"step": step}
        if step:
            values |= {name: column[step - 1] for name, column in self.steps.items()}
        if step in self.evals.get("step", []):
            at = self.evals["step"].index(step)
            values |= {name: column[at] for name, column in self.evals.items()}
        return values

    def __getitem__(self, name: str) -> list[float]:
        return self.steps[name]

    def __len__(self) -> int:
        """The steps done."""
        return len(self.steps.get("loss", []))


def _append(columns: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        columns.setdefault(name, []).append(value)


def _is_table(table: object) -> bool:
    """Whether this is a dict of lists of numbers, all of one length."""
    if not isinstance(table, dict):
        return False
    for column in table.values():
        if not isinstance(column, list) or not all(isinstance(x, int | float) for x in column):
            return False
    return len({len(column) for column in table.values()}) <= 1
