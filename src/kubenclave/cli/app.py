"""The frame of the command line: which commands there are, and the one place where an error becomes words and an exit code.

Commands are named here by import path and loaded when they run; this module imports nothing but the frame itself.
"""

from __future__ import annotations

import os
import sys
import traceback

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from kubenclave.cli.printable import printable
from kubenclave.errors import KubenclaveError, UsageError

# Exit codes that are not a kind of KubenclaveError. 130 and 141 are what a shell reports for SIGINT and SIGPIPE.
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_DEBUG = "--debug"
_EPILOGUE = "Every command takes --debug, which adds a traceback to an error."

# Import path, name, help: one row per command, in the order in which a person meets them.
_COMMANDS = (
    ("kubenclave.cli.demo:demo", "demo", "Run an enclave program on a real Kubernetes on this machine, from nothing to its log."),
    ("kubenclave.cli.deploy:deploy", "deploy", "Run an enclave image on a cluster as a Job and show its log."),
)
_GROUPS = {
    "local": (
        "Kubernetes on this machine, with a simulated SGX node.",
        (
            ("kubenclave.cli.local:up", "up", "Start the cluster, or finish starting it."),
            ("kubenclave.cli.local:status", "status", "Show the cluster's nodes and where its kubeconfig is."),
            ("kubenclave.cli.local:load", "load", "Import an image archive into every node of the cluster, as there is no registry in it."),
            ("kubenclave.cli.local:build", "build", "Build the Kubernetes programs now, which up does by itself when they are missing."),
            ("kubenclave.cli.local:down", "down", "Stop the cluster and remove everything it left on this machine."),
        ),
    ),
    "cluster": (
        "Clusters on Azure with SGX nodes.",
        (
            (
                "kubenclave.cli.cluster:sizes",
                "sizes",
                "Show the confidential VM sizes of Azure, or those with SGX that fit a number of pods.",
            ),
            ("kubenclave.cli.cluster_azure:plan", "plan", "Show what stands in the way of a cluster, and what up would do."),
            ("kubenclave.cli.cluster_azure:up", "up", "Make a cluster what its file says: create, resume or change it."),
            ("kubenclave.cli.cluster_access:status", "status", "Show what there is of a cluster, and whether its nodes offer EPC."),
            ("kubenclave.cli.cluster_access:credentials", "credentials", "Merge a cluster's kubeconfig into your own."),
            ("kubenclave.cli.cluster_azure:down", "down", "Remove what was made for a cluster, and nothing else."),
            ("kubenclave.cli.cluster_export:export", "export", "Write the cluster for another tool: ARM, Bicep, Terraform, az and more."),
        ),
    ),
    "enclave": (
        "Enclave files: read, measure, sign, compare and pack them.",
        (
            ("kubenclave.cli.enclave:inspect", "inspect", "Show an enclave's identity, signature, pages and EPC."),
            ("kubenclave.cli.enclave:measure", "measure", "Measure the pages and compare with what is signed."),
            ("kubenclave.cli.enclave:sign", "sign", "Sign an enclave, also with a key that is elsewhere."),
            ("kubenclave.cli.enclave:keygen", "keygen", "Make a signing key as SGX demands it."),
            ("kubenclave.cli.enclave:diff", "diff", "Show what changed between two builds."),
            ("kubenclave.cli.enclave:pack", "pack", "Lay out an ELF program as an enclave in an SGXS stream."),
        ),
    ),
    "image": (
        "Small, reproducible images of enclave programs.",
        (
            ("kubenclave.cli.image:build", "build", "Build an image from a host program and its enclave file."),
            ("kubenclave.cli.image_registry:inspect", "inspect", "Show what an image is, and whether it is what it says."),
            ("kubenclave.cli.image_registry:diff", "diff", "Show what differs between two images."),
            ("kubenclave.cli.image_registry:push", "push", "Bring an image to a registry."),
            ("kubenclave.cli.image_registry:pull", "pull", "Fetch an image from a registry."),
            ("kubenclave.cli.image_registry:index", "index", "Join images into one index."),
            ("kubenclave.cli.image:dockerfile", "dockerfile", "Write a Dockerfile that ends in this builder."),
            ("kubenclave.cli.image:node_agent", "node-agent", "Build the node agent's image."),
        ),
    ),
    "node": (
        "The cluster's SGX nodes.",
        (
            ("kubenclave.cli.node:prepare", "prepare", "Label a node as an SGX node and keep ordinary pods off it."),
            ("kubenclave.cli.node:install", "install", "Install the node agent and wait until the SGX nodes offer EPC."),
            ("kubenclave.cli.node:status", "status", "Show each SGX node's EPC, and which pod holds how much."),
            ("kubenclave.cli.node:uninstall", "uninstall", "Remove what install applied, and nothing else."),
        ),
    ),
}
# The one group inside a group, local azure: its help, its commands.
_AZURE = (
    "A simulated Azure on this machine, for rehearsals without a subscription.",
    (
        ("kubenclave.cli.azure:up", "up", "Start it in the background."),
        ("kubenclave.cli.azure:status", "status", "Show how it is reached."),
        ("kubenclave.cli.azure:down", "down", "Stop it and remove what it made."),
    ),
)


def build() -> App:
    """Return the tree of commands, none of them loaded."""
    root = App(
        name="kubenclave",
        help="Run programs that use Intel SGX enclaves on Kubernetes, on Azure or on one machine.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        version=_version,
        version_flags=["--version"],
        # An interrupt is told by this frame, not swallowed below it.
        suppress_keyboard_interrupt=False,
        # A flag is off unless it is given; there is no second spelling for off.
        default_parameter=Parameter(negative=()),
    )
    for place, (path, name, text) in enumerate(_COMMANDS):
        root.command(path, name=name, help=text, sort_key=place)
    for place, (group, (text, commands)) in enumerate(_GROUPS.items(), start=len(_COMMANDS)):
        app = App(name=group, help=text, help_format="plaintext", sort_key=place)
        root.command(app)
        _add(app, commands)
        if group == "local":
            azure = App(name="azure", help=_AZURE[0], help_format="plaintext", sort_key=len(commands))
            app.command(azure)
            _add(azure, _AZURE[1])
    return root


def _add(app: App, commands: tuple[tuple[str, str, str], ...]) -> None:
    for place, (path, name, text) in enumerate(commands):
        app.command(path, name=name, help=text, sort_key=place)


def run(app: App, arguments: list[str]) -> int:
    """Run one command line; print what went wrong, if anything, to stderr and return the exit code."""
    words, debug = _take_debug(arguments)
    code = _run(app, words, debug=debug)
    try:
        sys.stdout.flush()
    except OSError as exc:
        # Keep the interpreter from failing at its own last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        return code or _fail(
            f"stdout cannot be written to: {exc.strerror}", "free space there", code=KubenclaveError.exit_code, debug=debug
        )
    return code


def _run(app: App, words: list[str], *, debug: bool) -> int:
    try:
        result = _parsed(app, words)
    except KubenclaveError as exc:
        return _fail(exc.what, exc.hint, code=exc.exit_code, debug=debug)
    except KeyboardInterrupt:
        hint = "running the same command again is safe: it goes on from what is there"
        return _fail("interrupted", hint, code=EXIT_INTERRUPTED, debug=debug)
    except BrokenPipeError:
        # The reader has gone: there is nobody to say anything to.
        return EXIT_BROKEN_PIPE
    except Exception as exc:  # noqa: BLE001 - the outermost frame: whatever was not foreseen ends here, in one sentence
        hint = "this is a defect of kubenclave" if debug else "run again with --debug to see where it comes from"
        return _fail(f"internal: {type(exc).__name__}: {exc}", hint, code=KubenclaveError.exit_code, debug=debug)
    return result if isinstance(result, int) else 0


def _parsed(app: App, words: list[str]) -> object:
    try:
        return app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except UnknownCommandError as exc:
        # cyclopts' own sentence would load every command to look for similar names.
        word = (exc.unused_tokens or [""])[0]
        raise UsageError(f"there is no command {word!r}", f"see kubenclave {_command_of(words)}--help") from exc
    except CycloptsError as exc:
        raise UsageError(str(exc), f"see kubenclave {_command_of(words)}--help") from exc


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` out of the words before ``--``; what stands after it belongs to the program that is deployed."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    ours = arguments[:end]
    return [word for word in ours if word != _DEBUG] + arguments[end:], _DEBUG in ours


def _command_of(words: list[str]) -> str:
    """Return the command that was meant, with a blank after it, or nothing."""
    if words and words[0] in _GROUPS:
        names = [name for _, name, _ in _GROUPS[words[0]][1]]
        return f"{words[0]} {words[1]} " if len(words) > 1 and words[1] in names else f"{words[0]} "
    return f"{words[0]} " if words and words[0] in [name for _, name, _ in _COMMANDS] else ""


def _fail(what: str, hint: str, *, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc(file=sys.stderr)
    sys.stderr.write(f"error: {printable(what)}\n")
    if hint:
        sys.stderr.write(f"hint: {printable(hint)}\n")
    return code


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - costs 20 ms, and only --version needs it

    return f"kubenclave {version('kubenclave')}"
