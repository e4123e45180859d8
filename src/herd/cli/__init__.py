"""What a person types: `herd` and `herd-node`, their verbs and flags. Reads settings and hands over; decides nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from herd import __version__
from herd.cli import access, fleet, model_commands, serving
from herd.cli import bench as bench_verb
from herd.cli import chat as chat_verb
from herd.cli import demo as demo_verb
from herd.cli import diagnose as diagnose_verb
from herd.cli import doctor as doctor_verb
from herd.cli import health as health_verb
from herd.cli import recommend as recommend_verb
from herd.cli import replay as replay_verb
from herd.cli import top as top_verb
from herd.cli import why as why_verb
from herd.cli import windows as windows_verb
from herd.cli.client import CliError
from herd.cli.screen import fail, show_what_can_be_shown

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="One endpoint for every machine you own. Without a command: serve.",
)
nodes_group = typer.Typer(help="Show which machines belong to the fleet; let them in and out.")
keys_group = typer.Typer(help="Show who may ask; make keys and revoke them.")
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
    show_what_can_be_shown()
    try:
        program(prog_name=name)
    except CliError as trouble:
        raise SystemExit(fail(trouble)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # `herd models | head`: whoever read has seen enough.
        raise SystemExit(0) from None


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"herd {__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a drawing.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="HERD_URL",
        metavar="URL",
        show_envvar=False,
        help="The coordinator to ask (HERD_URL); without it, the one that this machine's settings name.",
    ),
]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on (FLEET_HOST).")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on (FLEET_PORT).")]
Folder = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for traces and logs (FLEET_DATA_DIR).")]
Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version and exit.")
]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context, host: Host = None, port: Port = None, data_dir: Folder = None, _version: Version = False
) -> None:
    flags = {"FLEET_HOST": host, "FLEET_PORT": port, "FLEET_DATA_DIR": data_dir}
    if context.invoked_subcommand is None:
        serving.serve(flags)
    elif any(value is not None for value in flags.values()):
        raise typer.BadParameter(f"write it behind the command: herd {context.invoked_subcommand} ...")


@app.command()
def serve(host: Host = None, port: Port = None, data_dir: Folder = None) -> None:
    """Start the coordinator, as `herd` alone does."""
    serving.serve({"FLEET_HOST": host, "FLEET_PORT": port, "FLEET_DATA_DIR": data_dir})


@agent.command(name="herd-node")
@app.command()
def node(
    router_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The coordinator; without it, it is found by mDNS.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="KIND", help="auto, embedded, ollama, openai, llamacpp, vllm or lmstudio.")
    ] = None,
    engine_url: Annotated[str | None, typer.Option(metavar="URL", help="Where that engine answers.")] = None,
    node_id: Annotated[str | None, typer.Option(metavar="NAME", help="This machine's name in the fleet.")] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for logs and what is learnt.")] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads of the embedded engine.")] = None,
    slots: Annotated[int | None, typer.Option(metavar="N", help="Requests the engine runs at the same time.")] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Window of each slot of the embedded engine.")
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="FILE", help="GGUF file of the embedded engine.")] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="What `herd nodes invite` printed on the coordinator; needed once."),
    ] = None,
    _version: Version = False,
) -> None:
    """Lend this machine: run the agent, as `herd-node` does."""
    serving.node(
        {
            "FLEET_NODE_ROUTER_URL": router_url,
            "FLEET_NODE_ENGINE": engine,
            "FLEET_NODE_ENGINE_URL": engine_url,
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
    """Show the nodes, and what they are doing."""
    fleet.status(serving.coordinator(url), json)


@app.command()
def top(json: Json = False, url: Url = None) -> None:
    """Follow the fleet on the screen until Ctrl-C."""
    top_verb.top(serving.coordinator(url), json)


@app.command()
def models(json: Json = False, url: Url = None) -> None:
    """Show every model: where it is, and with which window."""
    fleet.models(serving.coordinator(url), json)


@app.command()
def why(
    request_id: Annotated[
        str, typer.Argument(metavar="[REQUEST]", help='Its id, the beginning of it, or "last".')
    ] = "last",
    json: Json = False,
    url: Url = None,
) -> None:
    """Tell why a request went where it went."""
    why_verb.why(serving.coordinator(url), request_id, json)


@app.command()
def replay(
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="completion_time or signals; without it, as it was.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,...", help="Other weights, e.g. harm_weight=0.5,model_hot=80.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="SPAN", help="Only the last 30m, 24h, 7d.")] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", help="At most so many of the newest rows.")
    ] = replay_verb.ROWS_DEFAULT,
    db: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The trace database; without it, this machine's.")
    ] = None,
    json: Json = False,
) -> None:
    """Decide recorded requests again, with other rules."""
    path = db if db is not None else serving.data_dir()
    replay_verb.replay(replay_verb.asked(path, policy, weights, since, limit), json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the fleet; see `herd models`.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="One question; without it a conversation starts.")
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Talk to a model through the coordinator."""
    chat_verb.chat(serving.coordinator(url), model, prompt, json)


@app.command()
def doctor(json: Json = False, url: Url = None, data_dir: Folder = None) -> None:
    """Find what is wrong, and the command that mends it."""
    if not doctor_verb.doctor(serving.setup(url, data_dir), json):
        raise typer.Exit(1)


@app.command()
def health(
    everything: Annotated[bool, typer.Option("--all", help="Show what is well, too.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show what is wrong with the fleet, since when, and the command that mends it."""
    if not health_verb.health(serving.coordinator(url), json, everything):
        raise typer.Exit(1)


@app.command()
def recommend(json: Json = False, url: Url = None) -> None:
    """Show what should live where, from what was really asked."""
    recommend_verb.recommend(serving.coordinator(url), json)


@app.command()
def windows(json: Json = False, url: Url = None) -> None:
    """Show the windows that models have, those that their use asks for, and what that would free."""
    windows_verb.windows(serving.coordinator(url), json)


@app.command()
def bench(
    node: Annotated[
        list[str] | None, typer.Option(metavar="NODE", help="Only this node; several times for several.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Only this model; several times for several.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="generation, prompt or scaling; several times for several.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how long it would take.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show the runs that are kept.")] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="A,B", help="Compare two runs; last compares the two newest.")
    ] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the run in progress.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Measure how fast each machine is; nobody's request waits for it."""
    coordinator = serving.coordinator(url)
    if cancel:
        bench_verb.cancel(coordinator, json)
    elif listed:
        bench_verb.runs(coordinator, json)
    elif compare is not None:
        bench_verb.compare(coordinator, compare, json)
    else:
        bench_verb.bench(coordinator, node or [], model or [], kind or [], dry_run, json)


@app.command()
def diagnose(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Where to write it; without it, herd-diagnosis-TIME.tar.gz here."),
    ] = None,
    json: Json = False,
    url: Url = None,
    data_dir: Folder = None,
) -> None:
    """Collect what somebody else needs to help, without keys and prompts."""
    settings = {"coordinator": serving.described(False), "agent": serving.described(True)}
    diagnose_verb.diagnose(serving.setup(url, data_dir), settings, file, json)


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(metavar="PORT", help="Port of its coordinator; in use, another one is taken.")
    ] = demo_verb.PORT_DEFAULT,
    stay: Annotated[bool, typer.Option(help="Stay up after the show, until Ctrl-C.")] = True,
) -> None:
    """Try it here: three small real nodes and a few chats."""
    demo_verb.demo(port, stay)


@app.command()
def config(
    wanted: Annotated[str, typer.Argument(metavar="[WORD]", help="Only those whose name or meaning holds it.")] = "",
    agent: Annotated[bool, typer.Option("--agent", help="The agent's settings instead of the coordinator's.")] = False,
    json: Json = False,
) -> None:
    """Show every setting, its value and where it is from."""
    serving.show_config(wanted, agent, json)


# --- who takes part, and who may ask ---

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Its name, or the fingerprint that it shows.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="The key's name or id.")]


@nodes_group.callback(invoke_without_command=True)
def nodes(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """Show which machines belong to the fleet; let them in and out."""
    if context.invoked_subcommand is None:
        access.nodes(serving.coordinator(url), json)


@nodes_group.command()
def invite(json: Json = False, url: Url = None) -> None:
    """Print the line that lets another machine in."""
    access.invite(serving.coordinator(url), json)


@nodes_group.command()
def approve(name: NodeName, json: Json = False, url: Url = None) -> None:
    """Let a machine in that waits."""
    access.approve(serving.coordinator(url), name, json)


@nodes_group.command()
def remove(name: NodeName, json: Json = False, url: Url = None) -> None:
    """Send a machine away; it would have to join again."""
    access.remove(serving.coordinator(url), name, json)


@keys_group.callback(invoke_without_command=True)
def keys(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """Show who may ask; make keys and revoke them."""
    if context.invoked_subcommand is None:
        access.keys(serving.coordinator(url), json)


@keys_group.command(name="list")
def list_keys(json: Json = False, url: Url = None) -> None:
    """Every key, without its secret."""
    access.keys(serving.coordinator(url), json)


@keys_group.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for you to recognise.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="chat, embed, read, models or admin; several times for several."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Only this model, or a pattern such as llama*; several times for several."),
    ] = None,
    per_minute: Annotated[int, typer.Option(metavar="N", help="Requests a minute; 0 for no limit.")] = 0,
    at_once: Annotated[int, typer.Option(metavar="N", help="Requests at the same time; 0 for no limit.")] = 0,
    tokens_per_month: Annotated[
        int, typer.Option(metavar="N", help="Tokens a month, read and written; 0 for no limit.")
    ] = 0,
    days: Annotated[float, typer.Option(metavar="N", help="How long it is valid; 0 for ever.")] = 0.0,
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a key; it is shown once."""
    wanted: dict[str, object] = {
        "name": name,
        "scopes": scope or ["chat"],
        "models": model or [],
        "requests_per_minute": per_minute,
        "concurrent_max": at_once,
        "tokens_per_month": tokens_per_month,
        "days": days,
    }
    access.add_key(serving.coordinator(url), wanted, json)


@keys_group.command()
def revoke(name: KeyName, json: Json = False, url: Url = None) -> None:
    """Make a key worth nothing."""
    access.revoke_key(serving.coordinator(url), name, json)


@app.command()
def dashboard(json: Json = False, url: Url = None) -> None:
    """Print a link that logs a browser in."""
    access.dashboard(serving.coordinator(url), json)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(metavar="N", help="How many, the newest first.")] = 50,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show who changed what, and from where."""
    access.audit(serving.coordinator(url), limit, json)


# --- models on disks and in memory ---

for _verb in model_commands.VERBS:
    app.command()(_verb)
