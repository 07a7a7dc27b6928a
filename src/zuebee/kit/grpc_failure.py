"""Why a call to a gRPC service failed."""


class GrpcFailure(Exception):
    """No answer. `kind`: the name of its status in lower case (`unavailable`, `deadline_exceeded` ...).

    What the service says beside it is not kept: it may hold what it was asked.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
