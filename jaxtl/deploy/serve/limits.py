"""What a server takes of its clients, how long it waits for them, and how long they wait."""

import math
from dataclasses import dataclass, fields

from jaxtl.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What a request may be, and how long anything may take.

    Attributes:
      megabytes: of the body of a request.
      images: of a request.
      megapixels: of an image.
      total_megabytes: of all bodies, and of what lies at their addresses, that are not answered yet; what comes beyond
        is told to come again. What is being fetched is counted when it is here.
      connections: that are open at a time.
      receive_s: seconds in which a request must be here, its head and its body each, and its answer be taken.
      answer_s: seconds after which a request is given up.
      delay_ms: milliseconds that an image waits for others to be computed with.
      latency_ms: milliseconds within which an image that is taken is to be answered; where more are waiting than can be
        computed in that time, a request is told to come again.
    """

    megabytes: float = 16
    images: int = 32
    megapixels: float = 50
    total_megabytes: float = 256
    connections: int = 512
    receive_s: float = 10
    answer_s: float = 60
    delay_ms: float = 5
    latency_ms: float = 2000

    def __post_init__(self):
        for field in fields(self):
            value, may_be_zero = getattr(self, field.name), field.name == "delay_ms"
            # Written so that nan, of which no comparison holds, is refused, too.
            if not (0 < value < math.inf or (may_be_zero and value == 0)):
                least = "at least 0" if may_be_zero else "above 0"
                raise UserError(f"{field.name} is {value:g}, but it must be {least}, and finite.")

    @property
    def body_bytes(self) -> int:
        """The most bytes of a body."""
        return int(self.megabytes * 2**20)

    @property
    def pixels(self) -> int:
        """The most pixels of an image."""
        return int(self.megapixels * 1e6)


USUAL = Limits()
