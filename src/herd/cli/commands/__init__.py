"""Declares the commands `herd` and `herd-node`: their subcommands, arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from herd import __version__
from herd.build_form import build_form
from herd.cli import aliases as alias_command
from herd.cli import bench as bench_command
from herd.cli import chat as chat_command
from herd.cli import client_commands, model_commands, settings
from herd.cli import diagnose as diagnose_command
from herd.cli import doctor as doctor_command
from herd.cli import health as health_command
from herd.cli import models as models_command
from herd.cli import nodes_and_keys as access
from herd.cli import recommend as recommend_command
from herd.cli import replay as replay_command
from herd.cli import status as status_command
from herd.cli import top as top_command
from herd.cli import why as why_command
from herd.cli import windows as windows_command
from herd.cli.client import CliError
from herd.cli.commands.nodes import nodes_group
from herd.cli.demo import show as demo_command
from herd.cli.options import Json, Url
from herd.cli.reports import usage as usage_command
from herd.cli.starting import agent as agent_command
from herd.cli.starting import coordinator as coordinator_command
from herd.cli.starting.options import Flags
from herd.cli.starting.problem import replace_unprintable_characters
from herd.cli.terminal import print_error
from herd.dashboard.usage import By

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One endpoint for all machines that run models. Without a command, starts the coordinator.",
)
keys_group = typer.Typer(help="Manage API keys.")
alias_group = typer.Typer(help="Manage other names of models. Without a command, lists them.")
app.add_typer(alias_group, name="alias")
app.add_typer(nodes_group, name="nodes")
app.add_typer(keys_group, name="keys")
agent = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def herd() -> None:
    """The command `herd`."""
    _run(app, "herd")


def herd_node() -> None:
    """The command `herd-node`."""
    _run(agent, "herd-node")


def _run(program: typer.Typer, name: str) -> None:
    replace_unprintable_characters()
    try:
        program(prog_name=name)
    except CliError as error:
        raise SystemExit(print_error(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of a pipe has closed it, e.g. `herd models | head`.
        raise SystemExit(0) from None


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"herd {__version__} ({build_form()})")
        raise typer.Exit


Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on (FLEET_HOST).")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on (FLEET_PORT).")]
Folder = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Data folder (FLEET_DATA_DIR).")]
LogLevel = Annotated[
    str | None, typer.Option(metavar="LEVEL", help="Minimum log level on the console (FLEET_CONSOLE_LOG_LEVEL).")
]
Version = Annotated[
    bool, typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print the version and exit.")
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    data_dir: Folder = None,
    log_level: LogLevel = None,
    _version: Version = False,
) -> None:
    flags = _serve_flags(host, port, data_dir, log_level)
    if context.invoked_subcommand is None:
        coordinator_command.serve(flags)
    elif any(value is not None for value in flags.values()):
        raise typer.BadParameter(f"put options after the command: herd {context.invoked_subcommand} ...")


@app.command()
def serve(host: Host = None, port: Port = None, data_dir: Folder = None, log_level: LogLevel = None) -> None:
    """Start the coordinator; the same as `herd` without a command."""
    coordinator_command.serve(_serve_flags(host, port, data_dir, log_level))


def _serve_flags(host: str | None, port: int | None, data_dir: Path | None, log_level: str | None) -> Flags:
    return {"FLEET_HOST": host, "FLEET_PORT": port, "FLEET_DATA_DIR": data_dir, "FLEET_CONSOLE_LOG_LEVEL": log_level}


@agent.command(name="herd-node")
@app.command()
def node(
    router_url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of the coordinator; without it, the agent searches by mDNS.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Engine: auto, embedded, ollama, openai, llamacpp, vllm or lmstudio."),
    ] = None,
    engine_url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of the engine, e.g. http://127.0.0.1:8000.")
    ] = None,
    ollama_host: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of this machine's Ollama, if it has another address.")
    ] = None,
    learn_capacity: Annotated[
        bool, typer.Option("--learn-capacity", help="Learn when the owner needs this machine, and serve less then.")
    ] = False,
    log_level: LogLevel = None,
    node_id: Annotated[str | None, typer.Option(metavar="NAME", help="Name of this machine in the fleet.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for logs, identity and learned values.")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads of the embedded engine.")] = None,
    slots: Annotated[
        int | None, typer.Option(metavar="N", help="Number of requests that the engine runs at the same time.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Context window of each slot of the embedded engine.")
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="GGUF file of the embedded engine.")] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Code printed by `herd nodes invite`; only needed the first time."),
    ] = None,
    _version: Version = False,
) -> None:
    """Run the node agent on this machine; the same as `herd-node`."""
    agent_command.node(
        {
            "FLEET_NODE_ROUTER_URL": router_url,
            "FLEET_NODE_ENGINE": engine,
            "FLEET_NODE_ENGINE_URL": engine_url,
            "FLEET_NODE_OLLAMA_HOST": ollama_host,
            "FLEET_NODE_ENABLE_CAPACITY_LEARNING": learn_capacity or None,
            "FLEET_CONSOLE_LOG_LEVEL": log_level,
            "FLEET_NODE_NODE_ID": node_id,
            "FLEET_NODE_DATA_DIR": data_dir,
            "FLEET_NODE_THREADS": threads,
            "FLEET_NODE_CONTEXT": context,
            "FLEET_NODE_EMBEDDED_MODEL": model,
            "FLEET_NODE_JOIN": join,
        },
        slots,
    )


@app.command()
def status(json: Json = False, url: Url = None) -> None:
    """Show the nodes and what they do."""
    status_command.status(settings.coordinator(url), json)


@app.command()
def top(json: Json = False, url: Url = None) -> None:
    """Live view of the fleet; stop with Ctrl-C."""
    top_command.top(settings.coordinator(url), json)


@app.command()
def models(json: Json = False, url: Url = None) -> None:
    """List all models, their nodes and their context windows."""
    models_command.models(settings.coordinator(url), json)


@app.command()
def why(
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST", help='Request ID, a prefix of it, or "last".')
    ] = "last",
    json: Json = False,
    url: Url = None,
) -> None:
    """Explain a routing decision."""
    why_command.why(settings.coordinator(url), request_id, json)


@app.command()
def replay(
    policy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Policy: completion_time or signals; without it, the recorded one."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,...", help="Changed weights, e.g. harm_weight=0.5,model_hot=80.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Only recent requests, e.g. 30m, 24h or 7d.")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="Maximum number of rows, newest first.")
    ] = replay_command.ROWS_DEFAULT,
    db: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Path of the trace database; without it, the one on this machine."),
    ] = None,
    json: Json = False,
) -> None:
    """Replay recorded requests with another policy. Other weights can be tested too."""
    path = db if db is not None else settings.data_dir()
    replay_command.replay(replay_command.parse_options(path, policy, weights, since, limit), json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model, from `herd models`.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="A single prompt; without it, starts a conversation.")
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Chat with a model through the coordinator."""
    chat_command.chat(settings.coordinator(url), model, prompt, json)


@app.command()
def doctor(json: Json = False, url: Url = None, data_dir: Folder = None) -> None:
    """Diagnose problems of the setup and suggest fixes."""
    if not doctor_command.doctor(settings.setup(url, data_dir), json):
        raise typer.Exit(1)


@app.command()
def health(
    everything: Annotated[bool, typer.Option("--all", help="Also show the checks that passed.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show the fleet's problems and the commands that fix them."""
    if not health_command.health(settings.coordinator(url), json, everything):
        raise typer.Exit(1)


@app.command()
def recommend(json: Json = False, url: Url = None) -> None:
    """Recommend model placement from recent requests."""
    recommend_command.recommend(settings.coordinator(url), json)


@app.command()
def usage(
    by: Annotated[By, typer.Option(help="What to sum up by.")] = By.USER,
    period: Annotated[str, typer.Option("--range", metavar="RANGE", help="1h, 24h, 7d or 30d.")] = "7d",
    json: Json = False,
    url: Url = None,
) -> None:
    """Show who used the fleet how much: requests, tokens and seconds of nodes."""
    usage_command.usage(settings.coordinator(url), by.value, period, json)


@app.command()
def windows(json: Json = False, url: Url = None) -> None:
    """Compare each model's context window with its actual use."""
    windows_command.windows(settings.coordinator(url), json)


@app.command()
def bench(
    node: Annotated[list[str] | None, typer.Option(metavar="NODE", help="Only this node (repeatable).")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="Only this model (repeatable).")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Measurement: generation, load, prompt or scaling (repeatable)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate the duration.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the stored runs.")] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="A,B", help="Compare two runs by ID; last compares the two newest.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the current run.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Measure the speed of idle nodes. Other requests take priority."""
    coordinator = settings.coordinator(url)
    if cancel:
        bench_command.cancel(coordinator, json)
    elif listed:
        bench_command.runs(coordinator, json)
    elif compare is not None:
        bench_command.compare(coordinator, compare, json)
    else:
        bench_command.bench(coordinator, node or [], model or [], kind or [], dry_run, json)


@app.command()
def diagnose(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Path of the bundle; without it, herd-diagnosis-TIME.tar.gz in the current folder."
        ),
    ] = None,
    json: Json = False,
    url: Url = None,
    data_dir: Folder = None,
) -> None:
    """Create a support bundle without keys and prompts."""
    described = {"coordinator": settings.describe(False), "agent": settings.describe(True)}
    diagnose_command.diagnose(settings.setup(url, data_dir), described, file, json)


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port of the demo's coordinator; if it is in use, a free port is used.")
    ] = demo_command.PORT_DEFAULT,
    stay: Annotated[bool, typer.Option(help="Keep running after the chats, until Ctrl-C.")] = True,
) -> None:
    """Run a demonstration. It starts three small nodes on this machine and sends a few chats."""
    demo_command.demo(port, stay)


@app.command()
def config(
    word: Annotated[
        str, typer.Argument(metavar="WORD", help="Only settings whose name or help contains this word.")
    ] = "",
    agent: Annotated[
        bool, typer.Option("--agent", help="Show the agent's settings instead of the coordinator's.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all settings, their values and sources."""
    settings.show_config(word, agent, json)


# --- keys ---

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name or ID of the key.")]


@keys_group.callback(invoke_without_command=True)
def keys(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the API keys."""
    if context.invoked_subcommand is None:
        access.keys(settings.coordinator(url), json)


@keys_group.command(name="list")
def list_keys(json: Json = False, url: Url = None) -> None:
    """List the API keys, without their secrets."""
    access.keys(settings.coordinator(url), json)


@keys_group.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A label for the key, e.g. phone.")],
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="Scope: chat, embed, read, models or admin (repeatable).")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Only this model, or a pattern such as llama* (repeatable)."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Only nodes with this label, from `herd nodes label` (repeatable)."),
    ] = None,
    per_minute: Annotated[int, typer.Option(metavar="N", help="Maximum requests per minute; 0 means unlimited.")] = 0,
    at_once: Annotated[int, typer.Option(metavar="N", help="Maximum concurrent requests; 0 means unlimited.")] = 0,
    tokens_per_month: Annotated[
        int, typer.Option(metavar="N", help="Maximum tokens per month, prompt and answer; 0 means unlimited.")
    ] = 0,
    days: Annotated[
        float, typer.Option(metavar="N", show_default="0", help="Days until the key expires; 0 means never.")
    ] = 0.0,
    names_users: Annotated[
        bool,
        typer.Option("--names-users", help="For a chat server: its requests may name their user (docs/identity.md)."),
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Create an API key; it is shown only once."""
    options: dict[str, object] = {
        "name": name,
        "scopes": scope or ["chat"],
        "models": model or [],
        "labels": label or [],
        "requests_per_minute": per_minute,
        "concurrent_max": at_once,
        "tokens_per_month": tokens_per_month,
        "days": days,
        "names_users": names_users,
    }
    access.add_key(settings.coordinator(url), options, json)


@keys_group.command()
def revoke(name: KeyName, json: Json = False, url: Url = None) -> None:
    """Revoke an API key."""
    access.revoke_key(settings.coordinator(url), name, json)


@app.command()
def dashboard(json: Json = False, url: Url = None) -> None:
    """Print a one-time sign-in link for the dashboard."""
    access.dashboard(settings.coordinator(url), json)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(metavar="N", help="Maximum number of entries, newest first.")] = 50,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show the audit log. It lists administrative changes with user and address."""
    access.audit(settings.coordinator(url), limit, json)


# --- models ---

AliasName = Annotated[str, typer.Argument(metavar="NAME", help="The alias, or a pattern such as claude-opus-*.")]


@alias_group.callback(invoke_without_command=True)
def alias(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List the aliases, and the models that answer for names of cloud models."""
    if context.invoked_subcommand is None:
        alias_command.aliases(settings.coordinator(url), json)


@alias_group.command(name="set")
def set_alias(
    name: AliasName,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Its models, the preferred one first.")],
    json: Json = False,
    url: Url = None,
) -> None:
    """Define an alias, or replace its models."""
    alias_command.define(settings.coordinator(url), name, models, json)


@alias_group.command(name="rm")
def remove_alias(name: AliasName, json: Json = False, url: Url = None) -> None:
    """Remove an alias."""
    alias_command.remove(settings.coordinator(url), name, json)


for _command in (*model_commands.COMMANDS, *client_commands.COMMANDS):
    app.command()(_command)
