"""The cluster as a PowerShell script of ``az`` commands, the same ones as in the bash script. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kubenclave.cluster.export import commands, notes
from kubenclave.cluster.export.commands import Given, Variable, Word, Words
from kubenclave.cluster.spec import Identity

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec

_HEAD = """\
#Requires -Version 7.2
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false

# Stop when the last az failed: PowerShell goes on by itself.
function Assert-Az {
  if ($LASTEXITCODE -ne 0) { throw "az ended with exit code $LASTEXITCODE" }
}
"""
_FILES = """\
# az on Windows is a batch file, to which quotes, percent signs and the like mean something: such a value reaches az in a file.
$folder = New-Item -ItemType Directory -Path (Join-Path ([IO.Path]::GetTempPath()) ([guid]::NewGuid()))
function Use-File([string] $Text) {
  $path = Join-Path $folder "$([guid]::NewGuid()).txt"
  [IO.File]::WriteAllText($path, $Text)
  "@$path"
}
"""
_WAIT = """\
# Wait until a preview feature is registered; Azure may take {minutes} minutes and more.
function Wait-Registered([scriptblock] $Ask) {{
  for ($tries = 0; $tries -lt {tries}; $tries++) {{
    $state = & $Ask
    Assert-Az
    if ($state -eq 'Registered') {{ return }}
    if ($state -notin 'Registering', 'Pending') {{ break }}
    Start-Sleep -Seconds {seconds}
  }}
  throw "a preview feature is ${{state}}; look with: $Ask"
}}
"""
# What PowerShell takes for a single quote, besides the one on the keyboard.
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
_BARE = re.compile(r"(--)?[A-Za-z]+(-[A-Za-z]+)*")
# What a batch file hands on as it is.
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:/=+-]([A-Za-z0-9 _.,:/=+@-]*[A-Za-z0-9_.,:/=+@-])?")


def powershell_script(spec: ClusterSpec) -> str:
    """Return the script. It makes what is missing and changes nothing that is there.

    Raises:
        UsageError: az has no words for something that the spec says.
    """
    comments = "".join(f"# {note}\n" for note in (notes.title(spec), *notes.afterwards(spec)))
    current = _az(commands.current_subscription())
    subscription = f"{current}\nAssert-Az" if spec.subscription is None else _quoted(spec.subscription)
    create_group = _made(commands.create_group(spec))
    steps = [
        f"$subscription = {subscription}\n",
        *_features(spec),
        _az(commands.register_provider()) + "\nAssert-Az\n",
        f"$group_exists = {_az(commands.group_exists(spec))}\nAssert-Az\n" + _if("$group_exists -ne 'true'", create_group),
        f"$clusters = @({_az(commands.cluster_names(spec))})\nAssert-Az\n{_if(_missing(spec.name, 'clusters'), _creation(spec))}",
        *_pools(spec),
        _az(commands.credentials(spec)) + "\nAssert-Az\n",
    ]
    if not any("(Use-File " in step for step in steps):
        return "\n".join([comments + _HEAD, *steps])
    return "\n".join([comments + _HEAD, _FILES, "try {\n", *steps, "} finally {\n  Remove-Item -Recurse -Force -Path $folder\n}\n"])


def _features(spec: ClusterSpec) -> list[str]:
    if not spec.features:
        return []
    minutes = commands.REGISTRATION_TRIES * commands.REGISTRATION_SECONDS // 60
    waiting = _WAIT.format(tries=commands.REGISTRATION_TRIES, seconds=commands.REGISTRATION_SECONDS, minutes=minutes)
    begun = [f"{_az(commands.register_feature(feature))}\nAssert-Az" for feature in spec.features]
    waited = [f"Wait-Registered {{ {_az(commands.feature_state(feature))} }}" for feature in spec.features]
    return [waiting, "\n".join([*begun, *waited]) + "\n"]


def _creation(spec: ClusterSpec) -> str:
    create = commands.create_cluster(spec)
    if spec.identity is not Identity.SERVICE_PRINCIPAL:
        return _made(create)
    return "\n".join(
        [
            f"  $scope = {_az(commands.group_id(spec))}\n  Assert-Az",
            f"  $client_id, $client_secret = {_az(commands.create_principal(spec))}\n  Assert-Az",
            "  # az takes a secret as an argument only. With @- it reads that argument from its input: no process list shows it.",
            f"  $client_secret | {_az(create, 1).lstrip()}\n  Assert-Az",
        ]
    )


def _pools(spec: ClusterSpec) -> list[str]:
    others = commands.other_pools(spec)
    if not others:
        return []
    added = [_if(_missing(pool.name, "pools"), _made(commands.add_pool(spec, pool))) for pool in others]
    return [f"$pools = @({_az(commands.pool_names(spec))})\nAssert-Az\n" + "".join(added)]


def _missing(name: str, variable: str) -> str:
    """Return the test whether a name is no line of a variable; like Azure's names, it does not tell small letters from capitals."""
    return f"${variable} -notcontains {_quoted(name)}"


def _if(test: str, then: str) -> str:
    return f"if ({test}) {{\n{then}\n}}\n"


def _made(words: Words) -> str:
    return f"{_az(words, 1)}\n  Assert-Az"


def _az(words: Words, depth: int | None = None) -> str:
    """Return a command on one line, or, with a depth, one option a line."""
    if depth is None:
        return " ".join(["az", *map(_word, words)])
    lines = [" ".join(map(_word, line)) for line in commands.grouped(words)]
    indent = "  " * depth
    return f"{indent}az " + f" `\n{indent}  ".join(lines)


def _word(word: Word) -> str:
    if isinstance(word, Variable):
        return f"${word.name}"
    if isinstance(word, Given):
        return _quoted(word.text) if _is_plain(word.text) else f"(Use-File {_quoted(word.text)})"
    return word if _BARE.fullmatch(word) else _quoted(word)


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and not commands.reads_file(text)


def _quoted(text: str) -> str:
    return "'" + _QUOTES.sub(r"\1\1", text) + "'"
