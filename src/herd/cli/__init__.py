"""What a person types: `herd` and `herd-node`, their verbs and flags. Reads settings and hands over; decides nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from herd import __version__
from herd.cli import chat as chat_verb
from herd.cli import demo as demo_verb
from herd.cli import doctor as doctor_verb
from herd.cli import fleet, serving
from herd.cli import why as why_verb
from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import console, fail

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="One endpoint for every machine you own. Without a verb: serve.",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a drawing.")]
Url = Annotated[str, typer.Option("--url", envvar="HERD_URL", help="The coordinator to ask.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on (FLEET_HOST).")]
Port = Annotated[int | None, typer.Option(help="Port to listen on (FLEET_PORT).")]
Folder = Annotated[Path | None, typer.Option(help="Folder for traces and logs (FLEET_DATA_DIR).")]

URL_DEFAULT = "http://localhost:11435"
DEMO_PORT = 11435


def herd() -> None:
    """The command `herd`."""
    _run(app)


def herd_node() -> None:
    """The command `herd-node`."""
    sys.argv[1:1] = ["node"]
    _run(app)


def _run(application: typer.Typer) -> None:
    try:
        application()
    except Trouble as trouble:
        raise SystemExit(fail(trouble).exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context, host: Host = None, port: Port = None, data_dir: Folder = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:  # fmt: skip
    if version:
        console.print(f"herd {__version__}")
    elif context.invoked_subcommand is None:
        serving.serve({"FLEET_HOST": host, "FLEET_PORT": port, "FLEET_DATA_DIR": data_dir})


@app.command()
def serve(host: Host = None, port: Port = None, data_dir: Folder = None) -> None:
    """Start the coordinator (what `herd` does without a verb)."""
    serving.serve({"FLEET_HOST": host, "FLEET_PORT": port, "FLEET_DATA_DIR": data_dir})


@app.command()
def node(
    router_url: Annotated[str | None, typer.Option(help="The coordinator; without it, it is found by mDNS.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, embedded, ollama, openai, llamacpp, vllm or lmstudio.")] = None,
    engine_url: Annotated[str | None, typer.Option(help="Where that engine answers.")] = None,
    node_id: Annotated[str | None, typer.Option(help="This machine's name in the fleet.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for logs and what is learnt.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the embedded engine.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests the engine runs at the same time.")] = None,
    context: Annotated[int | None, typer.Option(help="Window of each slot of the embedded engine, in tokens.")] = None,
    model: Annotated[Path | None, typer.Option(help="GGUF file of the embedded engine.")] = None,
) -> None:
    """Run the agent on this machine (the command `herd-node`)."""
    serving.node({
        "FLEET_NODE_ROUTER_URL": router_url, "FLEET_NODE_ENGINE": engine, "FLEET_NODE_ENGINE_URL": engine_url,
        "FLEET_NODE_NODE_ID": node_id, "FLEET_NODE_DATA_DIR": data_dir, "FLEET_NODE_THREADS": threads,
        "FLEET_NODE_SLOTS": None if engine == "embedded" else slots,
        "FLEET_NODE_EMBEDDED_SLOTS": slots if engine == "embedded" else None,
        "FLEET_NODE_CONTEXT": context, "FLEET_NODE_EMBEDDED_MODEL": model,
    })  # fmt: skip


@app.command()
def status(json: Json = False, url: Url = URL_DEFAULT) -> None:
    """The nodes, and what they are doing."""
    fleet.status(Coordinator(url), json)


@app.command()
def top(url: Url = URL_DEFAULT) -> None:
    """The fleet, live, until Ctrl-C."""
    fleet.top(Coordinator(url))


@app.command()
def models(json: Json = False, url: Url = URL_DEFAULT) -> None:
    """Every model, and the nodes that have it."""
    fleet.models(Coordinator(url), json)


@app.command()
def why(
    request_id: Annotated[str, typer.Argument(help='The id, its beginning, or "last".')] = "last",
    json: Json = False, url: Url = URL_DEFAULT,
) -> None:  # fmt: skip
    """Why a request went where it went: every node with its points or its reason."""
    why_verb.why(Coordinator(url), request_id, json)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A model of the fleet; see `herd models`.")],
    prompt: Annotated[str | None, typer.Argument(help="One question; without it a conversation starts.")] = None,
    url: Url = URL_DEFAULT,
) -> None:
    """Talk to a model through the coordinator."""
    chat_verb.chat(Coordinator(url), model, prompt)


@app.command()
def doctor(json: Json = False, url: Url = URL_DEFAULT, data_dir: Folder = None) -> None:
    """What is wrong with this set-up, and the command that mends it."""
    folder = data_dir or serving.data_dir()
    if not doctor_verb.doctor(Coordinator(url), folder, json):
        raise typer.Exit(1)


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of the demo's coordinator; another one is taken if it is in use.")] = DEMO_PORT,
    stay: Annotated[bool, typer.Option(help="Stay up after the show until Ctrl-C.")] = True,
) -> None:
    """A coordinator and three small real nodes on this machine, and a few chats."""
    demo_verb.demo(port, stay)


@app.command()
def config(json: Json = False) -> None:
    """Every setting: its value, where it comes from, what it does."""
    serving.show_config(json)
