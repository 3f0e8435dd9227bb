"""Stops of a training at a chosen moment."""

from multi_abnormality.training.stopping import StopRequest


class StopAtLook(StopRequest):
    """Asks for a stop at the n-th look: one a step, one a batch of a validation, one an epoch."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    @property
    def reason(self) -> str | None:
        self.left -= 1
        return "the test says so" if self.left < 0 else None
