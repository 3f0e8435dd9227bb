"""Stop requests at a chosen moment of training."""

from multi_abnormality.runtime.graceful_stop import StopRequest


class StopAtCheck(StopRequest):
    """Requests a stop at the n-th check: one per step, validation batch and epoch."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    @property
    def reason(self) -> str | None:
        self.left -= 1
        return "requested by the test" if self.left < 0 else None
