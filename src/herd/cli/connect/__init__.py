"""Defines what a client that herd can configure is: one file in `clients/` defines one `Client` named CLIENT.

A client has files, which are edited so that everything else in them stays, or steps that a person follows, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

NO_KEY = "unused"
"""Sent as the API key while the fleet needs none: most clients refuse to start without one."""


class Unreadable(Exception):
    """The existing file cannot be edited without a risk for its other contents. The text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients keep their files on this machine."""

    home: Path
    folder: Path
    """The current folder."""
    variables: Mapping[str, str]
    """The environment."""
    platform: str
    """`sys.platform`."""
    shell: str = "sh"
    """For whose syntax commands are written, one of `formats.shell_lines.SHELLS`."""

    def folder_of(self, variable: str, *default: str) -> Path:
        """The folder that this variable names, else `default` in the home folder."""
        named = self.variables.get(variable, "")
        return Path(named).expanduser() if named else self.home.joinpath(*default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a client needs to know of the fleet. The URLs have no path; `lan_url` also works on other machines."""

    url: str
    lan_url: str
    key: str
    model: str
    context_tokens: int
    """The context window of the model; 0 if it is unknown."""
    capabilities: frozenset[str] = frozenset()

    @property
    def answer_tokens(self) -> int:
        """The longest answer that leaves most of the window to the prompt; 0 if the window is unknown."""
        return min(8192, self.context_tokens // 4)


Edit = Callable[[str, Connection], str]
"""From a file's text, empty for a new file, to the text with the connection. Raises `Unreadable`."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    path: Path
    edit: Edit


def no_files(_: Place) -> tuple[ConfigFile, ...]:
    return ()


def no_paths(_: Place) -> tuple[Path, ...]:
    return ()


def no_steps(_: Connection) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One program that can use the fleet. `name` is what people type."""

    name: str
    title: str
    programs: tuple[str, ...] = ()
    """Its commands; one of them on PATH means that it is installed here."""
    folders: Callable[[Place], tuple[Path, ...]] = no_paths
    """Folders that exist where it is installed or was used."""
    files: Callable[[Place], tuple[ConfigFile, ...]] = no_files
    steps: Callable[[Connection], tuple[str, ...]] = no_steps
    """What a person does after the files are written, or instead; one line each."""
    is_script: bool = False
    """Whether its one file is printed without anything else, so that a shell can evaluate it."""
    window_min_tokens: int = 0
    """For an agent, which needs a model that calls tools: about as many tokens as its own prompt has."""
