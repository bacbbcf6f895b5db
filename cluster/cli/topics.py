"""`headwater topics`: compares the declared topics with the brokers, and changes them."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from cluster.cli.changes import DIFFERENT, Yes, require_consent
from cluster.cli.console import err, open_workspace, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import quantity
from pipeline.project.topics import TopicPlan, apply_topics, plan_topics

app = typer.Typer(help="Show and make the changes that the declared topics need.", no_args_is_help=True)


@app.command()
def plan(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show what has to change for the topics to be as they are declared. Exits with 3 if anything does."""
    plans = plan_topics(open_workspace(folder, env))
    _show(plans, as_json=as_json)
    if any(each.changes for each in plans):
        raise typer.Exit(DIFFERENT)


@app.command()
def apply(
    yes: Yes = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Make the changes. Asks before those that may delete records. Topics that are not declared are not touched."""
    workspace = open_workspace(folder, env)
    plans = plan_topics(workspace)
    _show(plans, as_json=as_json)
    lost = [each.topic.name for each in plans if each.is_destructive]
    require_consent(lost, "changes may delete records", yes=yes, as_json=as_json)
    apply_topics(workspace, plans)
    if not as_json and any(each.changes for each in plans):
        out.print(f"{quantity(sum(len(each.changes) for each in plans), 'change')} made")


def _show(plans: Sequence[TopicPlan], *, as_json: bool) -> None:
    if as_json:
        print_json([{"topic": each.topic.name, "changes": each.changes} for each in plans])
        return
    if not plans:
        out.print("the project declares no topics")
    for each in plans:
        out.print(f"[bold]{text(each.topic.name)}[/]{'' if each.changes else ': as declared'}")
        for change in each.changes:
            out.print(
                f"  {'[red]![/]' if change.is_destructive else '[green]+[/]'} {text(change.what)}", soft_wrap=True
            )
            if change.warning:
                err.print(f"    [yellow]warning:[/] {text(change.warning)}", soft_wrap=True)
