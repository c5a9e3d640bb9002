"""The cluster as a bash script of ``az`` commands: today's form of the 2020 guide's scripts, which may be run again. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kubenclave.cluster.export import commands, notes
from kubenclave.cluster.export.commands import Given, Variable, Word, Words
from kubenclave.cluster.spec import Identity

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec

_WAIT = """\
# Wait until a preview feature is registered; Azure may take {minutes} minutes and more.
wait_registered() {{
  local state tries
  for ((tries = 0; tries < {tries}; tries++)); do
    state=$("$@")
    case $state in
      Registered) return ;;
      Registering | Pending) sleep "${{POLL_SECONDS:-{seconds}}}" ;;
      *) break ;;
    esac
  done
  echo "a preview feature is $state; look with: $*" >&2
  exit 1
}}
"""


def bash_script(spec: ClusterSpec) -> str:
    """Return the script. It makes what is missing and changes nothing that is there.

    Raises:
        UsageError: az has no words for something that the spec says.
    """
    subscription = f"$({_az(commands.current_subscription())})" if spec.subscription is None else shlex.quote(spec.subscription)
    said = (notes.title(spec), *notes.afterwards(spec))
    create_group = _az(commands.create_group(spec), 1)
    parts = [
        "#!/usr/bin/env bash\n" + "".join(f"# {note}\n" for note in said) + "set -euo pipefail\n",
        f"subscription={subscription}\n",
        *_features(spec),
        _az(commands.register_provider()) + "\n",
        f"group_exists=$({_az(commands.group_exists(spec))})\n" + _unless("[[ $group_exists == true ]]", create_group),
        f"clusters=$({_az(commands.cluster_names(spec))})\n{_unless(_among(spec.name, 'clusters'), _creation(spec))}",
        *_pools(spec),
        _az(commands.credentials(spec)) + "\n",
    ]
    return "\n".join(parts)


def _features(spec: ClusterSpec) -> list[str]:
    if not spec.features:
        return []
    minutes = commands.REGISTRATION_TRIES * commands.REGISTRATION_SECONDS // 60
    waiting = _WAIT.format(tries=commands.REGISTRATION_TRIES, seconds=commands.REGISTRATION_SECONDS, minutes=minutes)
    begun = [_az(commands.register_feature(feature)) for feature in spec.features]
    waited = [f"wait_registered {_az(commands.feature_state(feature))}" for feature in spec.features]
    return [waiting, "\n".join([*begun, *waited]) + "\n"]


def _creation(spec: ClusterSpec) -> str:
    create = commands.create_cluster(spec)
    if spec.identity is not Identity.SERVICE_PRINCIPAL:
        return _az(create, 1)
    return "\n".join(
        [
            f"  scope=$({_az(commands.group_id(spec))})",
            f"  principal=$({_az(commands.create_principal(spec))})",
            '  { read -r client_id; read -r client_secret; } <<<"$principal"',
            "  # az takes a secret as an argument only. With @- it reads that argument from its input: no process list shows it.",
            f'{_az(create, 1)} <<<"$client_secret"',
        ]
    )


def _pools(spec: ClusterSpec) -> list[str]:
    others = commands.other_pools(spec)
    if not others:
        return []
    added = [_unless(_among(pool.name, "pools"), _az(commands.add_pool(spec, pool), 1)) for pool in others]
    return [f"pools=$({_az(commands.pool_names(spec))})\n" + "".join(added)]


def _unless(test: str, then: str) -> str:
    return f"if ! {test}; then\n{then}\nfi\n"


def _among(name: str, variable: str) -> str:
    """Return the test whether a name is a line of a variable; Azure's names do not tell small letters from capitals."""
    return f'grep -Fixq -e {shlex.quote(name)} <<<"${variable}"'


def _az(words: Words, depth: int | None = None) -> str:
    """Return a command on one line, or, with a depth, one option a line."""
    if depth is None:
        return " ".join(["az", *map(_word, words)])
    lines = [" ".join(map(_word, line)) for line in commands.grouped(words)]
    indent = "  " * depth
    return f"{indent}az " + f" \\\n{indent}  ".join(lines)


def _word(word: Word) -> str:
    if isinstance(word, Variable):
        return f'"${word.name}"'
    if isinstance(word, Given):
        return f"@<(printf %s {shlex.quote(word.text)})" if commands.reads_file(word.text) else shlex.quote(word.text)
    return shlex.quote(word)
