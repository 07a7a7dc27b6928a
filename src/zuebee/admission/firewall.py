"""PURE. What may not even be asked: rules over methods, paths, addresses, headers, sizes and parameters.

Never an opinion about what a prompt says.
"""

from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job


class OpenFirewall:
    """Lets everything through."""

    def check_caller(self, caller: Caller) -> Refusal | None:
        """See `Firewall.check_caller`."""
        return None

    def check_job(self, caller: Caller, job: Job) -> Refusal | None:
        """See `Firewall.check_job`."""
        return None
