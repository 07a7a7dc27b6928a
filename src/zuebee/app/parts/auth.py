"""Who may call: the authenticator of the settings in force."""

from zuebee.accounts.principals import StoreSource
from zuebee.app.auth import AuthState, build_pipeline
from zuebee.app.parts.base import Change, Part
from zuebee.auth.service import AuthPipeline, OpenDoor
from zuebee.config.settings import Settings
from zuebee.lib.tasks import Tasks
from zuebee.telemetry.metrics import Metrics


class AuthPart(Part):
    """`authenticator` is replaced as a whole by new settings. `keys`: those of the store."""

    def __init__(self, settings: Settings, keys: StoreSource) -> None:
        self._keys = keys
        self._state = AuthState()
        self._retiring = Tasks()
        self.authenticator = self._make(settings)

    def lend(self, metrics: Metrics) -> None:
        counters = self._state.counters
        metrics.lend("zuebee_auth_decisions_total", lambda: list(counters.decisions.items()))
        metrics.lend("zuebee_script_failures_total", lambda: list(counters.script_failures.items()))
        metrics.lend("zuebee_source_refusals_total", self._state.tokens.refused.items)

    def prepare(self, settings: Settings) -> Change:
        made = self._make(settings)

        def commit() -> None:
            # The old sources close once nobody asks them any more.
            self._retiring.spawn(self.authenticator.aclose(), "auth.retire")
            self.authenticator = made

        return Change(commit, made.aclose)

    async def aclose(self) -> None:
        await self.authenticator.aclose()
        await self._retiring.aclose()

    def _make(self, settings: Settings) -> AuthPipeline | OpenDoor:
        if not settings.auth_on:
            return OpenDoor()
        return build_pipeline(
            settings,
            self._state,
            store_source=self._keys,
            proxy_for=settings.proxy.of,
            finish=self._keys.entitle,
        )
