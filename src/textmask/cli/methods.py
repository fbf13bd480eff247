"""Commands on methods."""

from __future__ import annotations

from typing import Annotated

import typer

from textmask.cli.options import print_table, read_recipe, say
from textmask.errors import TextMaskError

methods_app = typer.Typer(help="What can be trained.", no_args_is_help=True, rich_markup_mode=None)


@methods_app.command("list")
def list_command() -> None:
    """List the methods.

    Example: textmask methods list
    """
    from textmask.methods.registry import get_method, list_methods

    cards = {name: get_method(name).card for name in list_methods()}
    print_table(
        ["method", "what", "image", "text"],
        [
            [n, c.title, "yes" if c.uses_image else "no", "yes" if c.uses_text else "no"]
            for n, c in cards.items()
        ],
    )


@methods_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="See `textmask methods list`.")],
    preset: Annotated[str, typer.Option(help="paper, lite or smoke.")] = "paper",
) -> None:
    """Show a method's card, symbols, parameters and recipe.

    Example: textmask methods show biclip --preset lite
    """
    from textmask.methods.registry import count_parameters, get_method

    card = get_method(name).card
    recipe = read_recipe(name, preset, None)
    say(f"{name}: {card.title}\npaper: {card.paper or 'none, a baseline'}")
    for data_set, figures in card.published.items():
        say(f"published on {data_set}: {figures}")
    if card.symbols:
        print_table(["paper", "here", "shape"], [[s, *pair] for s, pair in card.symbols.items()])
    try:
        count = f"{count_parameters(recipe) / 1e6:.2f} M, frozen text tower not counted"
    except TextMaskError as error:
        count = f"not counted: {error}"
    say(f"trained parameters ({preset}): {count}\nlimits: {card.limits}")
    say(recipe.to_json())
