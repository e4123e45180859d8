"""Reads the engines that FLEET_NODE_ENGINES lists, and the API keys of this machine's engines.

    FLEET_NODE_ENGINES=ollama=http://127.0.0.1:11434,vllm=http://127.0.0.1:8000;key_file=~/vllm.key,http://127.0.0.1:9000

An entry is a URL, with the kind before it or without one, and with its own key after it. The keys stay on this machine:
the agent adds them to its own requests, and its forwarder to those of the coordinator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from herd.http1.client import full_url

KEY_MAX_BYTES = 4096
KEY_SETTINGS = "FLEET_NODE_ENGINE_KEY or FLEET_NODE_ENGINE_KEY_FILE"
LIST_SETTING = "FLEET_NODE_ENGINES"
SYNTAX = "KIND=URL or URL, and after it ;key=KEY or ;key_file=FILE"


@dataclass(frozen=True, slots=True)
class EngineKeySettings:
    engine_key: str = field(
        default="",
        repr=False,
        metadata={
            "env": "FLEET_NODE_ENGINE_KEY",
            "help": "API key of this machine's engines, sent to those that require one. It stays on this machine.",
            "secret": True,
        },
    )
    engine_key_file: Path | None = field(
        default=None,
        metadata={
            "env": "FLEET_NODE_ENGINE_KEY_FILE",
            "help": "File with that API key, read again when it changes; used if FLEET_NODE_ENGINE_KEY is empty.",
        },
    )


@dataclass(frozen=True, slots=True)
class ListedEngine:
    """An entry of FLEET_NODE_ENGINES. `kind` is empty if the engine's answers have to show it."""

    kind: str
    url: str
    key: str = field(default="", repr=False)
    key_file: Path | None = None


class InvalidEntry(ValueError):
    """An entry is not of the form `SYNTAX`. The message contains no key."""


def read_entry(entry: str) -> ListedEngine:
    """Raises `InvalidEntry`."""
    where, *options = (part.strip() for part in entry.split(";"))
    kind, _, address = where.rpartition("=") if "://" not in where.partition("=")[0] else ("", "", where)
    address = address.strip()
    url = full_url(address)
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        is_usable = parts.scheme == "http" and bool(parts.hostname and parts.port) and parts.username is None
    except ValueError:
        is_usable = False
    if not is_usable:
        raise InvalidEntry(
            f"{LIST_SETTING}: an entry needs the form {SYNTAX}, with a URL such as http://127.0.0.1:8000"
        )
    key, key_file = "", None
    for option in options:
        name, _, value = option.partition("=")
        if name == "key" and value:
            key = value
        elif name == "key_file" and value:
            key_file = Path(value).expanduser()
        else:
            raise InvalidEntry(f"{LIST_SETTING}: after {where} only ;key=KEY and ;key_file=FILE are possible")
    return ListedEngine(kind.strip(), url, key, key_file)


class EngineKeys:
    """The key of each engine. `read` reads the files; until then they count as empty."""

    def __init__(self, settings: EngineKeySettings, listed: Sequence[ListedEngine] = ()) -> None:
        self._settings = settings
        self._listed = {one.url: one for one in listed}
        self._read: dict[Path, str] = {}
        self.problem = ""
        """Why a key file cannot be used; empty if all can."""

    @property
    def has_files(self) -> bool:
        return bool(self._files())

    def read(self) -> None:
        """Reads the files. A file that cannot be read keeps its last key. Blocks: call it in a thread."""
        problems = []
        for path in self._files():
            try:
                with path.open("rb") as file:
                    key = file.read(KEY_MAX_BYTES + 1).decode("ascii").strip()
            except OSError as error:
                problems.append(f"the file with the engine's key cannot be read: {path}: {error.strerror}")
            except UnicodeDecodeError:
                problems.append(f"the file with the engine's key contains more than a key: {path}")
            else:
                if is_key(key):
                    self._read[path] = key
                else:
                    problems.append(f"the file with the engine's key must contain one line with the key: {path}")
        self.problem = "; ".join(problems)

    def key_of(self, url: str) -> str:
        """The key of the engine at this URL: its own, or that for all engines; empty without one."""
        listed = self._listed.get(url)
        if listed is not None and listed.key:
            return listed.key
        if listed is not None and listed.key_file is not None:
            return self._read.get(listed.key_file, "")
        path = self._settings.engine_key_file
        return self._settings.engine_key or (self._read.get(path, "") if path is not None else "")

    def is_own(self, url: str) -> bool:
        """Whether the key was set for this engine alone: then the engine requires it."""
        listed = self._listed.get(url)
        return listed is not None and bool(listed.key or listed.key_file is not None)

    def setting_of(self, url: str) -> str:
        """The setting that has the key of this engine."""
        if self.is_own(url):
            return f"the key of this engine in {LIST_SETTING}"
        if self._settings.engine_key:
            return "FLEET_NODE_ENGINE_KEY"
        return "FLEET_NODE_ENGINE_KEY_FILE" if self._settings.engine_key_file is not None else KEY_SETTINGS

    @property
    def invalid(self) -> str:
        """Which key in the settings cannot be sent in a header; empty if all can."""
        if self._settings.engine_key and not is_key(self._settings.engine_key):
            return "FLEET_NODE_ENGINE_KEY must be one word of printable ASCII characters"
        bad = next((one.url for one in self._listed.values() if one.key and not is_key(one.key)), "")
        return f"{LIST_SETTING}: the key of {bad} must be one word of printable ASCII characters" if bad else ""

    def _files(self) -> list[Path]:
        files = [one.key_file for one in self._listed.values() if one.key_file is not None and not one.key]
        own = self._settings.engine_key_file
        return [*files, own] if own is not None and not self._settings.engine_key else files


def is_key(text: str) -> bool:
    """Whether the text can be sent as a key: it cannot end the header that contains it."""
    return 0 < len(text) <= KEY_MAX_BYTES and text.isascii() and text.isprintable() and " " not in text


def authorization(key: str) -> dict[str, str]:
    """The headers that carry the key. All supported engines take this form."""
    return {"Authorization": f"Bearer {key}"} if key else {}
