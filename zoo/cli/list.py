"""``zoo list``"""

from __future__ import annotations

import click

from zoo.cli.options import json_option
from zoo.cli.output import show_json, table
from zoo.registry import Shelf, registry


@click.command(name="list")
@json_option
@click.option("--broken", is_flag=True, help="Show plugins that failed to load, and why.")
def command(as_json: bool, broken: bool) -> None:
    """List what is installed.

    \b
    zoo list
    zoo list --json
    zoo list --broken
    """
    found = registry()
    if broken:
        failed = [
            {"plugin": plugin.origin.plugin, "distribution": plugin.origin.distribution, "reason": plugin.reason}
            for plugin in found.broken
        ]
        if as_json:
            show_json(failed)
        elif failed:
            table("Plugins that failed to load", ["plugin", "from", "why"], [list(row.values()) for row in failed])
        else:
            click.echo("No plugin failed to load.")
        return

    shelves: dict[str, Shelf] = {
        "methods": found.methods,
        "verbs": found.verbs,
        "evaluators": found.evaluators,
        "exporters": found.exporters,
        "datasets": found.datasets,
    }
    listing = {
        kind: [
            {
                "name": item.name,
                "summary": item.summary,
                "plugin": shelf.origins[item.name].distribution,
                "version": shelf.origins[item.name].version,
            }
            for item in shelf
        ]
        for kind, shelf in shelves.items()
    }
    if as_json:
        show_json({**listing, "broken": len(found.broken)})
        return
    for kind, items in listing.items():
        if items:
            rows = [[item["name"], item["summary"], f"{item['plugin']} {item['version']}"] for item in items]
            table(f"\n{kind.capitalize()}", ["name", "what it does", "from"], rows)
    if found.broken:
        click.echo(f"\n{len(found.broken)} plugin(s) failed to load: zoo list --broken", err=True)
