"""`taskq completion`: the script that teaches a shell to complete our commands."""

from __future__ import annotations

import click

from taskq.cli.options import command

_HELP = """Print the completion script of SHELL.

\b
Examples:
  taskq completion bash >> ~/.bashrc
  taskq completion zsh >> ~/.zshrc
  taskq completion fish > ~/.config/fish/completions/taskq.fish
"""


@command("completion", text=_HELP, summary="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print click's script."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 (late: a command imports what it needs)

    maker = get_completion_class(shell)
    assert maker is not None, "click has all three"
    # The base class's: bash's own first runs bash to look at its version.
    completer = maker(ctx.find_root().command, {}, "taskq", "_TASKQ_COMPLETE")
    click.echo(completer.source_template % completer.source_vars())
