"""Starts the coordinator (`herd serve`), and explains why it cannot start.

Nothing here imports typer, rich or the agent before it is used: a coordinator in the background does without them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from importlib import import_module

from herd import logs
from herd.cli.starting.options import Flags
from herd.cli.starting.problem import CliError, replace_unprintable_characters
from herd.cli.starting.settings import ALL_ADDRESSES, log_notices, open_settings_store
from herd.coordinator import process
from herd.coordinator.app import Coordinator
from herd.coordinator.settings import GeneralSettings
from herd.coordinator.storage.credential_store import CredentialStoreDamaged
from herd.coordinator.storage.data_dir import DataDirInUse
from herd.http1.server import PortInUse
from herd.http1.tls import BadCertificate

if sys.platform != "win32":
    from uvloop import run
else:
    run = asyncio.run

log = logging.getLogger("herd")

FIRST_UNPRIVILEGED_PORT = 1024
INTERRUPTED = 130


def main(flags: Flags) -> None:
    """`serve` as a command of its own: an error is printed."""
    replace_unprintable_characters()
    try:
        serve(flags)
    except CliError as error:
        raise SystemExit(import_module("herd.cli.terminal").print_error(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def serve(flags: Flags) -> None:
    """Runs the coordinator until it is stopped. Raises CliError if it cannot start."""
    store = open_settings_store(flags)
    settings = store.settings()
    general = settings.general
    open_logs = logs.start(settings.log, general.data_dir.expanduser(), "herd")
    log_notices(store.notices)
    try:
        run(process.run(settings, _print_started, store))
    except PortInUse as error:
        raise import_module("herd.cli.starting.occupied_port").port_in_use(general.port) from error
    except DataDirInUse as error:
        problem = str(error).partition("; stop it")[0]
        raise CliError(
            problem,
            "see what it does: herd status\n"
            f"or start a second coordinator: herd --port {general.port + 1} --data-dir FOLDER",
        ) from error
    except BadCertificate as error:
        raise CliError(
            str(error), "set FLEET_TLS_CERT and FLEET_TLS_KEY to a PEM certificate and its private key, or unset both"
        ) from error
    except CredentialStoreDamaged as error:
        raise CliError(str(error), "start with a new data folder: herd --data-dir FOLDER") from error
    except OSError as error:
        raise _cannot_listen(general, error) from error
    finally:
        open_logs.close()


def _cannot_listen(general: GeneralSettings, error: OSError) -> CliError:
    if isinstance(error, PermissionError) and 0 < general.port < FIRST_UNPRIVILEGED_PORT and error.filename is None:
        return CliError(f"port {general.port} needs administrator rights", "use a port above 1023: herd --port 11435")
    if error.filename is not None:
        return CliError(f"{error.filename}: {error.strerror or error}", "use another folder: herd --data-dir FOLDER")
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return CliError(f"cannot listen on {general.host}: {reason}", "listen on all addresses: herd --host 0.0.0.0")


def _print_started(coordinator: Coordinator, port: int) -> None:
    general = coordinator.settings.general
    url = f"http://{'localhost' if general.host in ALL_ADDRESSES else general.host}:{port}"
    log.info("listening", extra={"url": url, "data_dir": str(general.data_dir)})
    if sys.stdout.isatty():
        import_module("herd.cli.starting.welcome").print_welcome(coordinator, url)
