"""Commands on methods."""

from __future__ import annotations

from typing import Annotated

import typer

from textmask.cli.options import FullHelpGroup, MethodName, print_table, say
from textmask.errors import TextMaskError

methods_app = typer.Typer(
    cls=FullHelpGroup,
    help="List the methods and show their recipes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@methods_app.command("list")
def list_command() -> None:
    """List the methods.

    Example: textmask methods list
    """
    from textmask.methods.registry import get_method, list_methods

    lines = []
    for name in list_methods():
        card = get_method(name).card
        image, text = ("yes" if used else "no" for used in (card.uses_image, card.uses_text))
        lines.append([name, card.title, image, text])
    print_table(["method", "title", "image", "text"], lines)


@methods_app.command("show")
def show_command(
    name: MethodName,
    preset: Annotated[str, typer.Option(help="Recipe preset: paper, lite or smoke.")] = "paper",
) -> None:
    """Show a method's card, symbols, ablation tables, parameters, recipe and the source of each setting.

    Example: textmask methods show biclip --preset lite
    """
    from textmask.methods.registry import count_parameters, get_method, origins, preset_recipe

    spec, recipe = get_method(name), preset_recipe(name, preset)
    card = spec.card
    say(f"{name}: {card.title}\npaper: {card.paper or 'none, a baseline'}")
    for data_set, figures in card.published.items():
        say(f"published on {data_set}: {figures}")
    for data_set, settings in card.printed_for.items():
        say(f"printed for {data_set}: --set {' --set '.join(settings)}")
    if card.symbols:
        print_table(["paper", "here", "shape"], [[s, *pair] for s, pair in card.symbols.items()])
    for table, arms in spec.tables.items():
        say(f"ablation table {table}: {', '.join(arm.name for arm in arms)}")

    # counting builds the network, whose text encoder may not be installed
    try:
        count = f"{count_parameters(recipe) / 1e6:.2f} M, without the frozen text encoder"
    except TextMaskError as error:
        count = f"not counted: {error}"
    say(f"trained parameters ({preset}): {count}\nlimits: {card.limits}")
    for deviation in card.deviations:
        say(f"differs: {deviation}")
    say("source of each setting: the paper, the released code (code), or chosen by us")
    print_table(["setting", "value", "source"], [list(row) for row in origins(spec, recipe)])
    say(recipe.to_json())
