"""Restores learned estimates and token budgets after a restart, and saves new estimates once a minute."""

from __future__ import annotations

import asyncio
import logging

from herd.coordinator.clock_and_ids import SteadyClock, month_start_unix_s
from herd.coordinator.driver import Driver
from herd.coordinator.models.pinned_models import PinnedModels
from herd.coordinator.storage import learned_state, queries, usage_queries
from herd.coordinator.storage.credential_store import CredentialStore
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.fleet import ModelName
from herd.errors import HerdError
from herd.trust.allowances import Allowances
from herd.trust.identity import tenant_of
from herd.trust.user_limits import DAY_S, UserLimits

log = logging.getLogger("herd")

WEEK_S = 7 * 86400.0
SAVE_EVERY_S = 60.0
"""Seconds between two saves. A crash loses at most what was learned in this time."""


class SavedState:
    """Call `restore` once the store is open, and `close` before it closes."""

    def __init__(
        self,
        *,
        driver: Driver,
        store: TraceStore,
        credentials: CredentialStore,
        allowances: Allowances,
        user_limits: UserLimits | None,
        pinned_models: PinnedModels,
        preload_max: int,
        loop: asyncio.AbstractEventLoop,
        clock: SteadyClock,
    ) -> None:
        self._driver = driver
        self._store = store
        self._credentials = credentials
        self._allowances = allowances
        self._user_limits = user_limits
        self._pinned_models = pinned_models
        self._preload_max = preload_max
        self._loop = loop
        self._clock = clock
        self._save_timer: asyncio.TimerHandle | None = None

    def restore(self) -> None:
        """Restores estimates and budgets, preloads the most used models, and starts the save timer.

        If the traces cannot be read, the coordinator starts without them and logs a warning.
        """
        driver, store = self._driver, self._store
        try:
            for restored in store.read(queries.latencies_to_restore, driver.now()):
                driver.feed(restored)
            learned_state.restore(store.read(learned_state.load_learned, store.started_s()), driver.forecast.restore)
            self._restore_budgets()
            most_used = store.read(usage_queries.most_used, store.started_s() - WEEK_S, self._preload_max)
            self._pinned_models.preload([ModelName(model) for model in most_used])
        except HerdError as error:
            log.warning("the learned estimates of earlier runs could not be read: %s", error)
        self._arm()

    def close(self) -> None:
        """Stops the timer and saves everything that changed since the last save."""
        if self._save_timer is not None:
            self._save_timer.cancel()
            while learned := self._driver.forecast.changes():
                self._store.record_learned(learned)

    def _restore_budgets(self) -> None:
        """Counts the use by keys this month and by users today: a restart resets no budget. Raises `HerdError`."""
        now, month = self._clock.unix_month()
        used_tokens = self._store.read(usage_queries.tokens_by_key, month_start_unix_s(now))
        for key in self._credentials.keyring:
            if key.tokens_per_month:
                self._allowances.restore(key, now, month, used_tokens.get(key.id, 0))
        if self._user_limits is not None:
            used: dict[str, tuple[int, float]] = {}
            for kind, name, tokens, gpu_s in self._store.read(usage_queries.used_by_user, now - now % DAY_S):
                user = f"user {name}" if kind == "user" else tenant_of(name if kind == "key" else "", name)
                before = used.get(user, (0, 0.0))
                used[user] = (before[0] + tokens, before[1] + gpu_s)
            for user, (tokens, gpu_s) in used.items():
                self._user_limits.restore(user, now, tokens, gpu_s)

    def _save(self) -> None:
        self._store.record_learned(self._driver.forecast.changes())
        self._arm()

    def _arm(self) -> None:
        self._save_timer = self._loop.call_later(SAVE_EVERY_S, self._save)
