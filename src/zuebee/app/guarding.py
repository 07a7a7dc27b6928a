"""Settings -> what stands before and around requests: the firewall, kept answers, clients that leave."""

from zuebee.admission.firewall import Counts, OpenFirewall, RuleFirewall
from zuebee.config import Settings
from zuebee.contracts.admission import Firewall


def build_firewall(settings: Settings, counts: Counts) -> Firewall:
    """The firewall of these settings; it goes on counting in `counts`."""
    return RuleFirewall(settings.firewall, counts) if settings.firewall.enabled else OpenFirewall()
