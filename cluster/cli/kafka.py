"""`headwater kafka`: Apache Kafka on this machine, for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import out, print_json, text
from cluster.cli.options import HERE, Folder, Json
from cluster.local.kafka.background import BackgroundKafka, read
from cluster.local.kafka.background import start as start_brokers
from cluster.local.kafka.background import stop as stop_brokers
from pipeline.core.errors import quantity

app = typer.Typer(help="Start and stop brokers of Apache Kafka on this machine, for development.", no_args_is_help=True)
_DATA = Path(".headwater") / "kafka"
_NOT_RUNNING = 3


@app.command()
def start(
    brokers: Annotated[int, typer.Option(min=1, max=9, help="How many.")] = 1,
    tls: Annotated[
        bool, typer.Option("--tls", help="Clients connect with TLS; a certificate authority is created.")
    ] = False,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Start brokers in the background. They listen on 127.0.0.1, and keep their data in .headwater/kafka.

    Apache Kafka is downloaded from Maven Central the first time; this needs Java 17 and Maven.
    """
    _show(start_brokers(folder / _DATA, brokers, tls=tls), as_json=as_json)


@app.command()
def stop(
    remove: Annotated[bool, typer.Option("--remove", help="Also delete all topics and records.")] = False,
    folder: Folder = HERE,
) -> None:
    """Stop the brokers. Their data is kept, so they can be started again."""
    count = stop_brokers(folder / _DATA, remove=remove)
    out.print(f"{quantity(count, 'broker')} stopped" if count else "Kafka is not running")


@app.command()
def status(as_json: Json = False, folder: Folder = HERE) -> None:
    """Show the brokers. Exits with 3 if they are not running."""
    known = read(folder / _DATA)
    if known is not None:
        _show(known, as_json=as_json)
    elif as_json:
        print_json(None)
    else:
        out.print("Kafka has not been started here")
    if known is None or not known.is_running:
        raise typer.Exit(_NOT_RUNNING)


def _show(kafka: BackgroundKafka, *, as_json: bool) -> None:
    if as_json:
        print_json({"servers": kafka.bootstrap, "ca": kafka.ca, "brokers": kafka.brokers})
        return
    for each in kafka.brokers:
        state = "[green]running[/]" if each.is_running else "[red]stopped[/]"
        out.print(f"broker {each.number}: {state}, 127.0.0.1:{each.tls_port or each.port}, process {each.pid}")
    out.print(f"export HEADWATER_KAFKA_SERVERS={text(kafka.bootstrap)}", soft_wrap=True)
    if kafka.ca is not None:
        out.print(f'kafka("topic", security=Tls(ca={text(repr(str(kafka.ca)))}))', soft_wrap=True)
